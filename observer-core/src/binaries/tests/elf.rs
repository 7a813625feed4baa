//! Headers and segments.

use super::{
    super::{Misfit, machine::Machine, tls, tls_on},
    file::{CODE, DATA, DATA_BIAS, File, PT_LOAD, Pointers},
    openssl::library,
};

fn whole() -> File {
    library(Machine::X86_64, Pointers::Rela).file
}

fn misfit(file: &File) -> Misfit {
    tls_on(&file.write(), Some(Machine::X86_64)).expect_err("a misfit")
}

#[test]
fn only_programs_and_libraries_of_the_running_machine_are_read() {
    let file = whole().write();
    let running = Machine::RUNNING;
    for machine in [Machine::X86_64, Machine::Aarch64] {
        let file = library(machine, Pointers::Plain).file.write();
        let found = tls(&file);
        if running == Some(machine) {
            assert!(matches!(found, Ok(Some(_))), "{found:?}");
        } else {
            assert_eq!(found, Err(Misfit::Machine(machine.elf())));
        }
        assert_eq!(tls_on(&file, None), Err(Misfit::Machine(machine.elf())));
    }
    // Magic, 32 bits, big-endian, version, and a relocatable or a core file.
    for (at, byte) in [(0, 0), (4, 1), (5, 2), (6, 0), (16, 1), (16, 4)] {
        let mut other = file.clone();
        other[at] = byte;
        let found = tls_on(&other, Some(Machine::X86_64));
        assert_eq!(found, Err(Misfit::Format), "{at}");
    }
    for length in 0..64 {
        let found = tls_on(&&file[..length], Some(Machine::X86_64));
        assert_eq!(found, Err(Misfit::Format));
    }
}

#[test]
fn segments_that_the_kernel_maps_otherwise_are_a_misfit() {
    let malformed = Misfit::Malformed("segments");
    // Address and offset disagree within a page.
    let mut file = whole();
    file.segments[1].3 += 16;
    assert_eq!(misfit(&file), malformed);
    // One covers another.
    let mut file = whole();
    file.segments[0].5 = CODE + 1;
    assert_eq!(misfit(&file), malformed);
    // In another order.
    let mut file = whole();
    file.segments.swap(0, 1);
    assert_eq!(misfit(&file), malformed);
    // Smaller in memory than in the file.
    let mut file = whole();
    file.segments[1].5 = 1;
    assert_eq!(misfit(&file), malformed);
    // Past the end of the file, and of all addresses.
    for size in [1 << 40, u64::MAX] {
        let mut file = whole();
        (file.segments[2].4, file.segments[2].5) = (size, size);
        assert_eq!(misfit(&file), malformed);
    }
}

#[test]
fn numbers_of_headers_are_bounded() {
    let mut file = whole();
    for index in 0..64 {
        let address = 0x100_0000 + index * 0x1000;
        file.segments.push((PT_LOAD, 4, 0, address, 8, 8));
    }
    assert_eq!(misfit(&file), Misfit::TooMany("segments"));
    let mut file = whole();
    for index in 0..4096 {
        file.sections
            .push((format!("s{index}"), DATA + DATA_BIAS, 0));
    }
    assert_eq!(misfit(&file), Misfit::TooMany("sections"));
}

#[test]
fn sections_out_of_the_file_are_a_misfit() {
    let bytes = whole().write();
    let at = |offset: usize| u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap());
    let headers = usize::try_from(at(40)).unwrap();
    let count = (bytes.len() - headers) / 64;
    for index in 1..count {
        for value in [1_u64 << 40, u64::MAX] {
            // The offset.
            let mut bytes = bytes.clone();
            bytes[headers + 64 * index + 24..][..8].copy_from_slice(&value.to_le_bytes());
            let found = tls_on(&bytes, Some(Machine::X86_64));
            assert!(
                matches!(found, Err(Misfit::Malformed(_))),
                "{index} {found:?}"
            );
        }
    }
    // The headers themselves, and the index of their names.
    let mut other = bytes.clone();
    other[40..48].copy_from_slice(&u64::MAX.to_le_bytes());
    let found = tls_on(&other, Some(Machine::X86_64));
    assert_eq!(found, Err(Misfit::Malformed("section headers")));
    let mut other = bytes;
    other[62] = 200;
    let found = tls_on(&other, Some(Machine::X86_64));
    assert_eq!(found, Err(Misfit::Malformed("section names")));
}
