//! Instructions of arm64, as Debian's builds have them.

use super::super::arm64::{body, is_code, returned_address, returned_member};

const RET: u32 = 0xd65f_03c0;

fn code(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|it| it.to_le_bytes()).collect()
}

#[test]
fn addresses_are_added_up() {
    for (words, address) in [
        // libssl 3.0.20: adrp x0, 0xac000; add x0, x0, #984; add x0, x0, #2240
        (
            &[0xf000_0420, 0x910f_6000, 0x9123_0000, RET][..],
            0xac000 + 984 + 2240,
        ),
        // 3.5.9: bti c; adrp x0, 0xac000; add x0, x0, #1
        (&[0xd503_245f, 0xf000_0420, 0x9100_0400, RET], 0xac000 + 1),
        // adr x0, -4; adrp x0, -0x1000; add x0, x0, #2, lsl #12
        (&[0x10ff_ffe0, RET], 0x25530 - 4),
        (&[0xf0ff_ffe0, RET], 0x24000),
        (&[0xf000_0420, 0x9140_0800, RET], 0xac000 + 0x2000),
    ] {
        assert_eq!(
            returned_address(&code(words), 0x25530),
            Some(address),
            "{words:x?}"
        );
    }
    for words in [
        // Into x1; adds from x1; 32 bits; subtracts; loads; too many; no RET; RET X1.
        &[0xf000_0421, 0x910f_6000, RET][..],
        &[0xf000_0420, 0x910f_6020, RET],
        &[0xf000_0420, 0x110f_6000, RET],
        &[0xf000_0420, 0xd10f_6000, RET],
        &[0xf000_0420, 0xf940_0000, RET],
        &[
            0xf000_0420,
            0x9100_0400,
            0x9100_0400,
            0x9100_0400,
            0x9100_0400,
            RET,
        ],
        &[0xf000_0420, 0x910f_6000],
        &[0xf000_0420, 0xd65f_0020],
        &[RET],
        &[],
    ] {
        assert_eq!(returned_address(&code(words), 0x25530), None, "{words:x?}");
    }
}

#[test]
fn members_are_those_of_the_argument() {
    // SSL_want of libssl 3.5.9 up to its third return.
    let want = [
        // bti c; cbz x0; paciasp; stp x29, x30, [sp, #-32]!; mov x29, sp; ldr w1, [x0]
        0xd503_245f,
        0xb400_03e0,
        0xd503_233f,
        0xa9be_7bfd,
        0x9100_03fd,
        0xb940_0001,
        // str x19, [sp, #16]; mov x19, x0; cbnz w1; ldr w0, [x19, #104]; ldr x19, [sp, #16]
        0xf900_0bf3,
        0xaa00_03f3,
        0x3500_0121,
        0xb940_6a60,
        0xf940_0bf3,
        // ldp x29, x30, [sp], #32; autiasp; mov x1, #0; mov x16, #0; mov x17, #0; ret
        0xa8c2_7bfd,
        0xd503_23bf,
        0xd280_0001,
        0xd280_0010,
        0xd280_0011,
        RET,
        // tbnz; ldr x19, [sp, #16]; mov w0, #1; ldp x29, x30, [sp], #32; ret
        0x3738_0121,
        0xf940_0bf3,
        0x5280_0020,
        0xa8c2_7bfd,
        RET,
    ];
    assert_eq!(returned_member(&code(&want)), Some(104));
    // libssl 3.0.20: ldr w0, [x0, #40]
    assert_eq!(returned_member(&code(&[0xb940_2800, RET])), Some(40));
    for words in [
        // 64 bits; of x1; the first member; into w1; of what a call returned; changed afterwards.
        &[0xf940_2000, RET][..],
        &[0xb940_2820, RET],
        &[0xb940_0000, RET],
        &[0xb940_2801, RET],
        &[0x9400_0010, 0xb940_2800, RET],
        &[0xb940_2800, 0x1100_0400, RET],
        // Two members; ldr x0, [sp, #16] and mov x0, #0 afterwards; no instruction.
        &[0xb940_2800, RET, 0xb940_2c00, RET],
        &[0xb940_2800, 0xf940_0be0, RET],
        &[0xb940_2800, 0xd280_0000, RET],
        &[0, 0xb940_2800, RET],
        // mov x19, x0 of what a call returned.
        &[0x9400_0010, 0xaa00_03f3, 0xb940_6a60, RET],
    ] {
        assert_eq!(returned_member(&code(words)), None, "{words:x?}");
    }
}

#[test]
fn functions_begin_at_allocated_instructions_and_multiples_of_four() {
    let function = code(&[0xd503_233f, RET, 0, 0]);
    assert!(is_code(&function, 0x1000));
    assert!(!is_code(&function, 0x1002));
    assert!(!is_code(&function[..4], 0x1000), "has no end");
    assert!(!is_code(&function[4 + 4..], 0x1000));
    assert!(!is_code(&[], 0x1000));
}

#[test]
fn only_whole_functions_are_decoded() {
    let body = |words: &[u32]| body(&code(words));
    assert_eq!(
        body(&[0xd503_233f, RET, 0xd503_201f, RET, 0, 0])
            .unwrap()
            .returns,
        [4, 12]
    );
    assert_eq!(body(&[0xd503_233f, 0, RET]), None);
    assert_eq!(super::super::arm64::body(&code(&[RET])[..3]), None);
    // b +8 and b +4 of three instructions; only the first leaves them.
    assert!(body(&[RET, RET, 0x1400_0002]).unwrap().leaves);
    assert!(!body(&[RET, 0x1400_0001, RET]).unwrap().leaves);
}
