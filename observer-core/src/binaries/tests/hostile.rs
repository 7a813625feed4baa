//! Bytes that a hostile user chose.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::{
    super::{Function, Tls, go_functions_on, machine::Machine, tls_on},
    file::Pointers,
    go::{CLIENT, Form, GO_1_26, NAMES, SERVER, program},
    openssl::library,
};

/// Asserts the invariants for any input: positions are in the file, and the returns are RET instructions.
fn check(file: &[u8], machine: Machine) {
    let ret = match machine {
        Machine::X86_64 => &[0xc3][..],
        Machine::Aarch64 => &[0xc0, 0x03, 0x5f, 0xd6],
    };
    let inside = |at: u64| assert!(at < file.len() as u64);
    let function = |it: &Function| {
        inside(it.entry);
        assert!(it.returns.is_sorted() && it.returns.first().is_none_or(|at| *at >= it.entry));
        for at in &it.returns {
            let code = &file[usize::try_from(*at).unwrap()..];
            // Prefixes may be before it.
            assert!(
                code[..code.len().min(16)]
                    .windows(ret.len())
                    .any(|it| it == ret)
            );
        }
    };
    match tls_on(&file, Some(machine)) {
        Ok(Some(Tls::OpenSsl {
            connect,
            accept,
            free,
            resets,
            rwstate,
        })) => {
            [connect, accept, free]
                .into_iter()
                .chain(resets)
                .for_each(inside);
            assert!(rwstate.is_none_or(|it| it < 16384));
        }
        Ok(Some(
            Tls::DoHandshake {
                handshake: a,
                free: b,
            }
            | Tls::GnuTls {
                handshake: a,
                deinit: b,
            },
        )) => {
            [a, b].into_iter().for_each(inside);
        }
        Ok(Some(Tls::Go { client, server })) => {
            assert!(client.is_some() || server.is_some());
            client.iter().chain(&server).for_each(function);
        }
        Ok(None) => {}
        Err(misfit) => assert!(!misfit.to_string().is_empty()),
    }
    let found = go_functions_on(&file, &[CLIENT, "", SERVER], Some(machine));
    if let Ok(Some(functions)) = found {
        assert_eq!(functions.len(), 3);
        functions.iter().flatten().for_each(function);
    }
}

/// Files of each kind.
static WHOLES: LazyLock<Vec<(Machine, Vec<u8>)>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for machine in [Machine::X86_64, Machine::Aarch64] {
        for pointers in [Pointers::Plain, Pointers::Rela, Pointers::Relr] {
            for symbols in [true, false] {
                let form = Form {
                    machine,
                    pointers,
                    symbols,
                    ..GO_1_26
                };
                all.push((machine, program(form, &NAMES).file.write()));
            }
            all.push((machine, library(machine, pointers).file.write()));
        }
    }
    all
});

/// Values at the limits of additions and multiplications.
fn edge() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0_u32..64).prop_map(|it| 1 << it),
        (0_u64..256).prop_map(|it| u64::MAX - it),
        0_u64..0x2000,
        0x40_0000_u64..0x40_1000,
        0x60_0000_u64..0x60_2000,
    ]
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_survived(bytes: Vec<u8>) {
        check(&bytes, Machine::X86_64);
        // Behind a header that lets them be read.
        let head = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0";
        check(&[&head[..], &bytes].concat(), Machine::X86_64);
    }

    #[test]
    fn damaged_files_are_survived(
        which in 0_usize..18,
        changes in prop::collection::vec((any::<prop::sample::Index>(), edge(), 1_usize..=8), 1..6),
        length in any::<prop::sample::Index>(),
        cut: bool,
    ) {
        let (machine, mut bytes) = WHOLES[which].clone();
        // Where there is something: the holes are most of a file.
        let used: Vec<usize> = (0..bytes.len()).filter(|it| bytes[*it] != 0).collect();
        for (at, value, size) in changes {
            let at = (used[at.index(used.len())] & !(size - 1).next_power_of_two().saturating_sub(1))
                .min(bytes.len() - size);
            bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        }
        if cut {
            bytes.truncate(length.index(bytes.len()));
        }
        check(&bytes, machine);
    }
}

/// One byte at a time, in all places that are not empty.
#[test]
fn each_byte_may_be_wrong() {
    for &(machine, ref whole) in WHOLES.iter().step_by(5) {
        let mut bytes = whole.clone();
        for at in (0..whole.len()).filter(|it| whole[*it] != 0) {
            for value in [0, 0xff, whole[at] ^ 1, whole[at].wrapping_add(0x80)] {
                bytes[at] = value;
                check(&bytes, machine);
            }
            bytes[at] = whole[at];
        }
    }
}
