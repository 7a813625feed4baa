//! Instructions of arm64: 32 bits each, at multiples of four. Encodings are those of the "Arm
//! Architecture Reference Manual for A-profile architecture", chapter C4.

use super::body::Body;

/// `RET X30`.
const RET: u32 = 0xd65f_03c0;
/// `BTI c`: where an indirect call may land.
const BTI_C: u32 = 0xd503_245f;
/// Instructions that [`is_code`] looks at, if the function does not end before.
const PROLOGUE: usize = 8;

/// The instructions; what is left at the end is no instruction.
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

/// `ADRP X0, page; ADD X0, X0, #offset; RET`, or `ADR X0, address; RET`.
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
    let value = match first & 0x9f00_001f {
        0x1000_0000 => at.wrapping_add_signed(immediate),
        0x9000_0000 => {
            let page = (at & !0xfff).wrapping_add_signed(immediate << 12);
            let add = instructions.next()?;
            // 64 bits, unshifted, from X0 to X0.
            if add & 0xffc0_03ff != 0x9100_0000 {
                return None;
            }
            page.wrapping_add(u64::from(add >> 10 & 0xfff))
        }
        _ => return None,
    };
    (instructions.next()? == RET).then_some(value)
}

/// `LDR W0, [X0, #offset]` before a `RET`.
pub fn returned_member(code: &[u8]) -> Option<u32> {
    let mut found = None;
    let mut last = 0;
    for instruction in instructions(code) {
        if !is_allocated(instruction) {
            return None;
        }
        // The offset is in units of the load's size.
        let offset = (last >> 10 & 0xfff) * 4;
        let loads = last & 0xffc0_03ff == 0xb940_0000 && offset != 0;
        if instruction == RET && loads && found.replace(offset).is_some_and(|it| it != offset) {
            return None;
        }
        last = instruction;
    }
    found
}
