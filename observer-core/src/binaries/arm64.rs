//! Instructions of arm64: 32 bits each, at multiples of four. Encodings are those of the "Arm
//! Architecture Reference Manual for A-profile architecture", chapter C4.

use super::body::Body;

/// `RET X30`.
const RET: u32 = 0xd65f_03c0;
/// `BTI c`: where an indirect call may land.
const BTI_C: u32 = 0xd503_245f;
/// Maximum number of instructions that [`is_code`] checks.
const PROLOGUE: usize = 8;
/// Additions that make up an address.
const MAX_ADDS: usize = 3;

/// The instructions, without an incomplete one at the end.
fn instructions(code: &[u8]) -> impl Iterator<Item = u32> {
    let (words, _) = code.as_chunks();
    words.iter().map(|word| u32::from_le_bytes(*word))
}

/// Whether the instruction is in an allocated group (bits 25 to 28), which excludes UDF.
fn is_allocated(instruction: u32) -> bool {
    !matches!(instruction >> 25 & 0xf, 0 | 1 | 3)
}

/// Whether control never gets to the next instruction: `B`, `BR` and `RET`.
fn ends(instruction: u32) -> bool {
    instruction >> 26 == 0b00_0101 || matches!(instruction & 0xffff_fc1f, 0xd61f_0000 | 0xd65f_0000)
}

pub fn is_code(code: &[u8], address: u64) -> bool {
    let prologue: Vec<u32> = instructions(code).take(PROLOGUE).collect();
    let length = prologue.iter().position(|it| ends(*it));
    let function = &prologue[..length.map_or(prologue.len(), |it| it + 1)];
    address.is_multiple_of(4)
        && (length.is_some() || function.len() == PROLOGUE)
        && function.iter().all(|it| is_allocated(*it))
}

pub fn body(code: &[u8]) -> Option<Body> {
    if !code.len().is_multiple_of(4) {
        return None;
    }
    // Go's linker fills up with zeros.
    let used = code.len() - code.iter().rev().take_while(|it| **it == 0).count();
    let used = used.next_multiple_of(4);
    let mut body = Body::default();
    for (at, instruction) in (0..).step_by(4).zip(instructions(&code[..used])) {
        if !is_allocated(instruction) {
            return None;
        }
        if instruction == RET {
            body.returns.push(at);
        }
        // `B` to another function, which returns instead; its offset is signed, in instructions.
        if instruction >> 26 == 0b00_0101 {
            let offset = (instruction << 6).cast_signed() >> 4;
            let target = at.checked_add_signed(offset as isize);
            body.leaves |= target.is_none_or(|it| it >= used);
        }
    }
    Some(body)
}

/// `ADRP X0, page`, or `ADR X0, address`, then some `ADD X0, X0, #offset` and `RET`. GCC addresses
/// several tables from one anchor, which takes a second ADD (-fsection-anchors).
pub fn returned_address(code: &[u8], address: u64) -> Option<u64> {
    let mut instructions = instructions(code);
    let mut at = address;
    let mut first = instructions.next()?;
    if first == BTI_C {
        first = instructions.next()?;
        at = at.wrapping_add(4);
    }
    // immhi in bits 5 to 23, immlo in 29 and 30, together signed.
    let immediate = (first >> 5 & 0x7_ffff) << 2 | first >> 29 & 3;
    let immediate = i64::from((immediate << 11).cast_signed() >> 11);
    let mut value = match first & 0x9f00_001f {
        0x1000_0000 => at.wrapping_add_signed(immediate),
        0x9000_0000 => (at & !0xfff).wrapping_add_signed(immediate << 12),
        _ => return None,
    };
    for instruction in instructions.take(MAX_ADDS + 1) {
        if instruction == RET {
            return Some(value);
        }
        let offset = u64::from(instruction >> 10 & 0xfff);
        // 64 bits, from X0 to X0, shifted or not.
        match instruction & 0xffc0_03ff {
            0x9100_0000 => value = value.wrapping_add(offset),
            0x9140_0000 => value = value.wrapping_add(offset << 12),
            _ => return None,
        }
    }
    None
}

/// `LDR W0, [X0, #offset]` before a `RET`. Instead of X0 it may be a register that X0 was saved in.
pub fn returned_member(code: &[u8]) -> Option<u32> {
    let mut found = None;
    let (mut saved, mut called) = (0, false);
    let mut loaded = None;
    for instruction in instructions(code) {
        if !is_allocated(instruction) {
            return None;
        }
        let (to, from) = (instruction & 0x1f, instruction >> 5 & 0x1f);
        if instruction == RET {
            if let Some(offset) = loaded.take()
                && found.replace(offset).is_some_and(|it| it != offset)
            {
                return None;
            }
            // What follows is jumped to from before.
            called = false;
        } else if instruction & 0xffc0_001f == 0xb940_0000 {
            // The offset is in units of the load's size.
            let offset = (instruction >> 10 & 0xfff) * 4;
            let argument = (from == 0 && !called) || (from == saved && saved != 0);
            loaded = (offset != 0 && argument).then_some(offset);
        } else if !is_epilogue(instruction) {
            loaded = None;
            // MOV Xd, X0, and BL.
            match instruction & 0xffff_ffe0 {
                0xaa00_03e0 if !called => saved = to,
                _ => called |= instruction >> 26 == 0b10_0101,
            }
        }
    }
    found
}

/// Whether this restores or clears registers other than X0.
fn is_epilogue(instruction: u32) -> bool {
    let (to, from) = (instruction & 0x1f, instruction >> 5 & 0x1f);
    let restores = match instruction >> 22 {
        // LDR Xt, [SP, #offset]; LDP Xt, Xu, [SP], #offset; LDP Xt, Xu, [SP, #offset]
        0b11_1110_0101 | 0b10_1010_0011 | 0b10_1010_0101 => from == 31,
        // MOVZ Xd, #0
        0b11_0100_1010 => instruction & 0xffff_ffe0 == 0xd280_0000,
        // AUTIASP
        _ => return instruction == 0xd503_23bf,
    };
    restores && to != 0
}
