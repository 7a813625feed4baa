//! OpenSSL, BoringSSL and GnuTLS.

use std::io::Write as _;

use super::{
    super::{Misfit, OnDisk, Tls, machine::Machine, tls_on},
    file::{DATA_BIAS, File, Pointers},
};

/// A library with tables like OpenSSL's. The places of the two functions are those of 3.0.
pub struct Library {
    pub file: File,
    pub connect: u64,
    pub accept: u64,
    pub free: u64,
    pub clear: u64,
    /// The tables of all, of clients and of servers.
    pub tables: [u64; 3],
}

pub const CONNECT: u64 = 6;
pub const ACCEPT: u64 = 5;

const X86_METHODS: [&str; 3] = ["TLS_method", "TLS_client_method", "TLS_server_method"];

/// `endbr64; lea table(%rip),%rax; ret` at `at`, or `mov $table,%eax; ret`.
fn x86_method(at: u64, table: u64, pointers: Pointers) -> Vec<u8> {
    if pointers == Pointers::Plain {
        let table = u32::try_from(table).unwrap().to_le_bytes();
        return [&[0xb8][..], &table, &[0xc3]].concat();
    }
    let distance = i32::try_from(table.cast_signed() - (at + 11).cast_signed()).unwrap();
    let lea = [0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x8d, 0x05];
    [&lea[..], &distance.to_le_bytes(), &[0xc3]].concat()
}

/// `bti c; adrp x0, page; add x0, x0, #offset; ret` at `at`.
fn arm64_method(at: u64, table: u64) -> Vec<u8> {
    let pages = u32::try_from((table >> 12) - ((at + 4) >> 12)).unwrap();
    let adrp = 0x9000_0000 | (pages & 3) << 29 | (pages >> 2) << 5;
    let add = 0x9100_0000 | u32::try_from(table & 0xfff).unwrap() << 10;
    [0xd503_245f, adrp, add, 0xd65f_03c0_u32]
        .map(u32::to_le_bytes)
        .concat()
}

/// A state machine's function, which goes on in another; `SSL_free`; the getter of `rwstate` at
/// `offset` in the forms of 3.0 and 3.5.
fn code(machine: Machine, offset: u8) -> [Vec<u8>; 3] {
    match machine {
        Machine::X86_64 => {
            let statem = vec![0x31, 0xf6, 0xe9, 0x10, 0, 0, 0];
            let free = vec![0x48, 0x85, 0xff, 0x74, 0x01, 0x55, 0xc3];
            // test %rdi,%rdi; je; mov (%rdi),%eax; test %eax,%eax; je; mov $1,%eax; xor %edi,%edi;
            // ret; mov offset(%rdi),%eax; xor %edi,%edi; ret
            let want = [
                &[
                    0x48, 0x85, 0xff, 0x74, 0x06, 0x8b, 0x07, 0x85, 0xc0, 0x74, 0x08,
                ][..],
                &[0xb8, 1, 0, 0, 0, 0x31, 0xff, 0xc3],
                &[0x8b, 0x47, offset, 0x31, 0xff, 0xc3],
            ];
            [statem, free, want.concat()]
        }
        Machine::Aarch64 => {
            let words = |words: &[u32]| words.iter().flat_map(|it| it.to_le_bytes()).collect();
            let load = 0xb940_0000 | u32::from(offset / 4) << 10;
            [
                // mov w1, #1; b +16
                words(&[0x5280_0021, 0x1400_0004]),
                // cbz x0, +8; ret; ret
                words(&[0xb400_0040, 0xd65f_03c0, 0xd65f_03c0]),
                // mov w0, #1; ret; ldr w0, [x0, #offset]; ret
                words(&[0x5280_0020, 0xd65f_03c0, load, 0xd65f_03c0]),
            ]
        }
    }
}

pub fn library(machine: Machine, pointers: Pointers) -> Library {
    let mut file = File::new(machine, pointers);
    let [statem, free, want] = code(machine, 0x68);
    let (connect, accept) = (file.hidden(&statem), file.hidden(&statem));
    let (undefined, other) = (file.hidden(&free), file.hidden(&free));
    let clear = file.function("SSL_clear", &free);
    let free = file.function("SSL_free", &free);
    file.function("SSL_want", &want);
    file.function("SSL_do_handshake", &statem);
    let tables = [(accept, connect), (undefined, connect), (accept, undefined)].map(|it| {
        let mut members = [other; 20];
        members[0] = 0;
        members[5] = it.0;
        members[6] = it.1;
        file.table(&members)
    });
    for (name, table) in X86_METHODS.iter().zip(tables) {
        let at = file.next_code();
        let code = match machine {
            Machine::X86_64 => x86_method(at, table, pointers),
            Machine::Aarch64 => arm64_method(at, table),
        };
        file.function(name, &code);
    }
    Library {
        file,
        connect,
        accept,
        free,
        clear,
        tables,
    }
}

fn tls(file: &File) -> Result<Option<Tls>, Misfit> {
    tls_on(&file.write(), Some(file.machine))
}

/// What has to be found in `library`.
fn expected(library: &Library, rwstate: Option<u32>) -> Tls {
    Tls::OpenSsl {
        connect: File::position(library.connect),
        accept: File::position(library.accept),
        free: File::position(library.free),
        resets: vec![File::position(library.clear)],
        rwstate,
    }
}

#[test]
fn the_state_machine_is_found_behind_tables_of_every_form() {
    for machine in [Machine::X86_64, Machine::Aarch64] {
        for pointers in [Pointers::Plain, Pointers::Rela, Pointers::Relr] {
            for dynamic in [true, false] {
                let mut library = library(machine, pointers);
                library.file.dynamic = dynamic;
                let found = tls(&library.file);
                let expected = expected(&library, Some(0x68));
                assert_eq!(found, Ok(Some(expected)), "{machine:?} {pointers:?}");
            }
        }
    }
}

#[test]
fn mov_of_a_sign_extended_address_is_read() {
    let mut library = library(Machine::X86_64, Pointers::Plain);
    for (name, table) in X86_METHODS.iter().zip(library.tables) {
        library.file.symbols.retain(|it| it.0 != *name);
        let table = u32::try_from(table).unwrap().to_le_bytes();
        // mov $table,%rax; xor %ecx,%ecx; ret
        let code = [&[0x48, 0xc7, 0xc0][..], &table, &[0x31, 0xc9, 0xc3]];
        library.file.function(name, &code.concat());
    }
    assert_eq!(tls(&library.file), Ok(Some(expected(&library, Some(0x68)))));
}

#[test]
fn rwstate_is_left_out_if_the_getter_does_something_else() {
    for code in [
        // A 64-bit member, as in BoringSSL: mov 0x40(%rdi),%rax; ret
        &[0x48, 0x8b, 0x47, 0x40, 0xc3][..],
        // Of another structure: mov 0x40(%rsi),%eax; ret
        &[0x8b, 0x46, 0x40, 0xc3],
        // Two members: mov 0x40(%rdi),%eax; ret; mov 0x44(%rdi),%eax; ret
        &[0x8b, 0x47, 0x40, 0xc3, 0x8b, 0x47, 0x44, 0xc3],
        // Not what is returned: mov 0x40(%rdi),%eax; add %eax,%eax; ret
        &[0x8b, 0x47, 0x40, 0x01, 0xc0, 0xc3],
        // These bytes within an instruction: mov $0xc340478b,%ecx; ret
        &[0xb9, 0x8b, 0x47, 0x40, 0xc3, 0xc3],
        // Not aligned: mov 0x41(%rdi),%eax; ret
        &[0x8b, 0x47, 0x41, 0xc3],
        // No instruction.
        &[0x06, 0x8b, 0x47, 0x40, 0xc3],
    ] {
        let mut library = library(Machine::X86_64, Pointers::Rela);
        library.file.symbols.retain(|it| it.0 != "SSL_want");
        library.file.function("SSL_want", code);
        let found = tls(&library.file);
        assert_eq!(found, Ok(Some(expected(&library, None))), "{code:x?}");
    }
}

#[test]
fn boringssl_is_probed_at_ssl_do_handshake() {
    for machine in [Machine::X86_64, Machine::Aarch64] {
        let mut library = library(machine, Pointers::Rela);
        // Its tables have data where OpenSSL's have functions, and the same for both roles.
        for table in library.tables {
            for index in 0..20 {
                library.file.pointer(table + 8 * index, library.tables[0]);
            }
        }
        let handshake = library
            .file
            .symbols
            .iter()
            .find(|it| it.0 == "SSL_do_handshake");
        let expected = Tls::DoHandshake {
            handshake: File::position(handshake.unwrap().1),
            free: File::position(library.free),
        };
        assert_eq!(tls(&library.file), Ok(Some(expected.clone())));

        // TLS_client_method jumps to TLS_method.
        let jump: &[u8] = match machine {
            Machine::X86_64 => &[0xe9, 0, 0, 0, 0],
            Machine::Aarch64 => &[0x00, 0, 0, 0x14],
        };
        library
            .file
            .symbols
            .retain(|it| it.0 != "TLS_client_method");
        library.file.function("TLS_client_method", jump);
        assert_eq!(tls(&library.file), Ok(Some(expected)));
    }
}

#[test]
fn tables_that_leave_a_doubt_are_not_used() {
    // A second function that clients have and servers have not.
    let mut twice = library(Machine::X86_64, Pointers::Plain);
    for table in twice.tables.into_iter().take(2) {
        twice.file.pointer(table + 8 * 9, twice.connect + 5);
    }
    // Another function takes the place of the client's accept.
    let mut differs = library(Machine::X86_64, Pointers::Plain);
    differs
        .file
        .pointer(differs.tables[1] + 8 * ACCEPT, differs.free);
    // No function connects.
    let mut none = library(Machine::X86_64, Pointers::Rela);
    for table in none.tables {
        none.file.pointer(table + 8 * CONNECT, 0);
    }
    // The one that connects is data.
    let mut data = library(Machine::X86_64, Pointers::Plain);
    for table in data.tables.into_iter().take(2) {
        data.file.pointer(table + 8 * CONNECT, data.tables[0]);
    }
    // It accepts as well.
    let mut same = library(Machine::X86_64, Pointers::Plain);
    for table in same.tables.into_iter().take(2) {
        same.file.pointer(table + 8 * CONNECT, same.accept);
    }
    for library in [twice, differs, none, data, same] {
        assert_eq!(tls(&library.file), Err(Misfit::MethodTables));
    }
}

#[test]
fn contradictory_relocations_are_not_used() {
    let mut library = library(Machine::X86_64, Pointers::Rela);
    let at = library.tables[0] + 8 * CONNECT;
    library.file.relocations.push((at, library.accept));
    let misfit = Misfit::Malformed("contradictory relocations");
    assert_eq!(tls(&library.file), Err(misfit));
}

#[test]
fn functions_that_are_no_code_are_not_probed() {
    for machine in [Machine::X86_64, Machine::Aarch64] {
        let whole = library(machine, Pointers::Rela);
        for (name, address) in [
            ("ossl_statem_connect", whole.connect),
            ("ossl_statem_accept", whole.accept),
            ("SSL_free", whole.free),
        ] {
            let mut file = whole.file.clone();
            // Neither machine has such an instruction.
            file.code_at(address)[..4].copy_from_slice(&[0x06, 0, 0, 0]);
            let misfit = Misfit::Undecodable(name.to_owned());
            assert_eq!(tls(&file), Err(misfit), "{machine:?}");
        }
        // The symbol points to data, behind the file's content, or to nowhere.
        for address in [whole.tables[0], DATA_BIAS + 0x1000, u64::MAX] {
            let mut file = whole.file.clone();
            for symbol in file.symbols.iter_mut().filter(|it| it.0 == "SSL_free") {
                symbol.1 = address;
            }
            let misfit = Misfit::NotCode("SSL_free".to_owned());
            assert_eq!(tls(&file), Err(misfit));
        }
    }
    // Between two instructions.
    let mut file = library(Machine::Aarch64, Pointers::Rela).file;
    for symbol in file.symbols.iter_mut().filter(|it| it.0 == "SSL_free") {
        symbol.1 += 2;
    }
    assert!(matches!(tls(&file), Err(Misfit::Undecodable(_))));
}

#[test]
fn symbols_that_are_missing_imported_or_double() {
    let whole = library(Machine::X86_64, Pointers::Rela);
    let mut file = whole.file.clone();
    file.symbols.retain(|it| it.0 != "SSL_free");
    assert_eq!(tls(&file), Err(Misfit::Missing("SSL_free".to_owned())));

    // Two versions of one function.
    let mut file = whole.file.clone();
    file.function("SSL_free", &[0xc3]);
    assert_eq!(tls(&file), Err(Misfit::Ambiguous("SSL_free".to_owned())));

    // What uses the library has the same names.
    let mut file = whole.file.clone();
    for symbol in &mut file.symbols {
        symbol.1 = 0;
    }
    assert_eq!(tls(&file), Ok(None));

    // A variable, and names that begin or end alike.
    let mut file = File::new(Machine::X86_64, Pointers::Rela);
    file.symbols
        .push(("SSL_do_handshake".to_owned(), whole.tables[0], 0x11, 8));
    file.function("SSL_do_handshake_twice", &[0xc3]);
    file.function("my_SSL_do_handshake", &[0xc3]);
    assert_eq!(tls(&file), Ok(None));
}

#[test]
fn gnutls_is_probed_at_its_exported_functions() {
    let mut file = File::new(Machine::X86_64, Pointers::Rela);
    let handshake = file.function("gnutls_handshake", &[0x55, 0xc3]);
    assert_eq!(tls(&file), Err(Misfit::Missing("gnutls_deinit".to_owned())));
    let deinit = file.function("gnutls_deinit", &[0x55, 0xc3]);
    let expected = Tls::GnuTls {
        handshake: File::position(handshake),
        deinit: File::position(deinit),
    };
    assert_eq!(tls(&file), Ok(Some(expected)));
}

/// A user may map any file as a library, and of that only headers, tables and a few functions matter.
#[test]
fn of_a_large_file_little_is_read() {
    for pointers in [Pointers::Plain, Pointers::Rela, Pointers::Relr] {
        let library = library(Machine::X86_64, pointers);
        let bytes = library.file.write();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let length = 255 << 20;
        file.set_len(length).unwrap();
        let found = |limit| {
            let on_disk = OnDisk::new(&file, length, limit);
            tls_on(&on_disk, Some(Machine::X86_64))
        };
        assert_eq!(found(64 << 10), Ok(Some(expected(&library, Some(0x68)))));
        assert!(found(4 << 10).is_err());
    }
}
