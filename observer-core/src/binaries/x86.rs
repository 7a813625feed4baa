//! Instructions of x86-64.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::body::Body;

/// Instructions that [`is_code`] decodes, if the function does not end before.
const PROLOGUE: usize = 8;

/// The largest structure of which a member is believed, in bytes.
const MAX_OFFSET: u64 = 4096;

fn decoder(code: &[u8], address: u64) -> Decoder<'_> {
    Decoder::with_ip(64, code, address, DecoderOptions::NONE)
}

/// Whether this is a near return, with or without a prefix.
fn is_return(instruction: &Instruction) -> bool {
    instruction.code() == Code::Retnq
}

pub fn is_code(code: &[u8]) -> bool {
    let mut decoder = decoder(code, 0);
    for _ in 0..PROLOGUE {
        let instruction = decoder.decode();
        if instruction.is_invalid() || instruction.code() == Code::Int3 {
            return false;
        }
        if is_return(&instruction) || instruction.mnemonic() == Mnemonic::Jmp {
            return true;
        }
    }
    true
}

pub fn body(code: &[u8]) -> Option<Body> {
    let mut decoder = decoder(code, 0);
    let mut body = Body::default();
    while decoder.can_decode() {
        let start = decoder.position();
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return None;
        }
        if is_return(&instruction) {
            body.returns.push(start);
        }
        let direct = instruction.op0_kind() == OpKind::NearBranch64;
        body.leaves |= match instruction.mnemonic() {
            // To another function, which returns instead.
            Mnemonic::Jmp if direct => instruction.near_branch64() >= code.len() as u64,
            // `RET n` and far returns, of which Go's compiler writes none.
            Mnemonic::Ret => !is_return(&instruction),
            Mnemonic::Retf | Mnemonic::Iretq => true,
            _ => false,
        };
    }
    Some(body)
}

pub fn returned_address(code: &[u8], address: u64) -> Option<u64> {
    let mut decoder = decoder(code, address);
    let mut instruction = decoder.decode();
    if instruction.mnemonic() == Mnemonic::Endbr64 {
        instruction = decoder.decode();
    }
    let value = match instruction.code() {
        Code::Lea_r64_m if instruction.is_ip_rel_memory_operand() => {
            instruction.ip_rel_memory_address()
        }
        // In programs at a fixed address below 2 GiB.
        Code::Mov_r32_imm32 => u64::from(instruction.immediate32()),
        Code::Mov_rm64_imm32 if instruction.op0_kind() == OpKind::Register => {
            instruction.immediate(1)
        }
        _ => return None,
    };
    let into = instruction.op0_register();
    if !matches!(into, Register::RAX | Register::EAX) {
        return None;
    }
    // Compilers clear registers on the way out (-fzero-call-used-regs).
    let mut next = decoder.decode();
    while clears_other(&next) {
        next = decoder.decode();
    }
    is_return(&next).then_some(value)
}

/// Whether this sets a register other than RAX to zero.
fn clears_other(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Xor
        && instruction.op0_kind() == OpKind::Register
        && instruction.op1_kind() == OpKind::Register
        && instruction.op0_register() == instruction.op1_register()
        && !matches!(
            instruction.op0_register(),
            Register::RAX | Register::EAX | Register::AX | Register::AL | Register::AH
        )
}

pub fn returned_member(code: &[u8]) -> Option<u32> {
    let mut decoder = decoder(code, 0);
    let mut loaded = None;
    let mut found = None;
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return None;
        }
        if let Some(offset) = load_of_argument(&instruction) {
            loaded = Some(offset);
        } else if is_return(&instruction) {
            if let Some(offset) = loaded.take()
                && found.replace(offset).is_some_and(|it| it != offset)
            {
                return None;
            }
        } else if !clears_other(&instruction) {
            loaded = None;
        }
    }
    found
}

/// The offset of a `mov offset(%rdi),%eax`.
fn load_of_argument(instruction: &Instruction) -> Option<u32> {
    let offset = instruction.memory_displacement64();
    let fits = instruction.code() == Code::Mov_r32_rm32
        && instruction.op0_register() == Register::EAX
        && instruction.op1_kind() == OpKind::Memory
        && instruction.memory_base() == Register::RDI
        && instruction.memory_index() == Register::None
        && !instruction.has_segment_prefix()
        && (4..MAX_OFFSET).contains(&offset)
        && offset.is_multiple_of(4);
    fits.then(|| u32::try_from(offset).ok())?
}
