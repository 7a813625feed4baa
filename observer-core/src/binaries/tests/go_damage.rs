//! Go programs with damaged tables: nothing is found, never a wrong function.

use super::{
    super::{Misfit, machine::Machine},
    file::{CODE, File, Pointers},
    go::{CLIENT, Form, GO_1_26, NAMES, Program, SERVER, add_module, program},
};

fn whole() -> Program {
    program(GO_1_26, &NAMES)
}

/// Overwrites data of a program.
fn put(program: &mut Program, at: u64, bytes: &[u8]) {
    program.file.data_at(at)[..bytes.len()].copy_from_slice(bytes);
}

#[test]
fn unknown_formats_are_not_read() {
    // Go 1.16, Go 1.2, and nothing.
    for magic in [0xffff_fffa, 0xffff_fffb, 0] {
        let program = program(Form { magic, ..GO_1_26 }, &NAMES);
        assert_eq!(program.tls(), Err(Misfit::GoFormat(magic)));
    }
    // Padding, the unit of code lengths, the size of a pointer.
    for (at, byte) in [(4, 1), (5, 1), (6, 4), (7, 4)] {
        let mut program = whole();
        let at = program.table + at;
        put(&mut program, at, &[byte]);
        let misfit = Misfit::Go("the function table's header");
        assert_eq!(program.tls(), Err(misfit));
    }
}

#[test]
fn sizes_and_offsets_out_of_the_table_are_noticed() {
    let header = Misfit::Go("the function table's header");
    let record = Misfit::Go("a function's record or name");
    let module = Misfit::Go("no description of the module");
    // Number of functions, offset of the names, offset of functab.
    for (at, value, misfit) in [
        (8, 1_u64 << 22, header.clone()),
        (8, u64::MAX, Misfit::TooMany("functions")),
        (8, 4, module.clone()),
        (8, 0, module.clone()),
        (32, 1 << 20, header.clone()),
        (32, u64::MAX, header.clone()),
        (32, 80, module.clone()),
        (64, u64::MAX - 7, header),
        (64, 80, module),
    ] {
        let mut program = whole();
        let at = program.table + at;
        put(&mut program, at, &value.to_le_bytes());
        assert_eq!(program.tls(), Err(misfit), "{at:x} {value:x}");
    }
    // The record of a function, and the name in a record.
    for value in [u32::MAX, 1 << 20, 3] {
        let mut program = whole();
        let at = program.functab + 4;
        put(&mut program, at, &value.to_le_bytes());
        assert_eq!(program.tls(), Err(record.clone()));
    }
    let mut program = whole();
    let at = program.records + 4;
    put(&mut program, at, &(1_u32 << 20).to_le_bytes());
    assert_eq!(program.tls(), Err(record));
    // The table ends in the middle.
    for size in [0, 7, 71, 150] {
        let mut program = whole();
        program.table_section().2 = size;
        assert!(matches!(program.tls(), Err(Misfit::Go(_))), "{size}");
    }
    // It is not in a segment.
    let mut program = whole();
    program.table_section().2 = 1 << 40;
    assert!(matches!(program.tls(), Err(Misfit::Malformed(_))));
}

#[test]
fn entries_have_to_agree_with_each_other_and_with_symbols() {
    // Another entry of a function, in its record too.
    let mut program = whole();
    let (functab, records) = (program.functab, program.records);
    put(&mut program, functab + 8 * 2, &0_u32.to_le_bytes());
    put(&mut program, records + 16 * 2, &0_u32.to_le_bytes());
    let misfit = Misfit::Go("the function table is not sorted");
    assert_eq!(program.tls(), Err(misfit));

    // In one of both places.
    let mut program = whole();
    put(&mut program, functab + 8 * 2, &0x61_u32.to_le_bytes());
    let misfit = Misfit::Go("a function's record or name");
    assert_eq!(program.tls(), Err(misfit));

    // The next function a byte later, so that this one ends within an instruction.
    let mut program = whole();
    for at in [functab + 8 * 3, records + 16 * 3] {
        let start = u32::from_le_bytes(program.file.data_at(at)[..4].try_into().unwrap());
        put(&mut program, at, &(start + 1).to_le_bytes());
    }
    assert_eq!(program.tls(), Err(Misfit::Undecodable(CLIENT.to_owned())));

    for name in [CLIENT, SERVER] {
        let mut program = program_with_symbols();
        for symbol in program.file.symbols.iter_mut().filter(|it| it.0 == name) {
            symbol.1 += 16;
        }
        assert_eq!(program.tls(), Err(Misfit::Ambiguous(name.to_owned())));
    }
    let twice = super::go::program(GO_1_26, &["main.main", CLIENT, CLIENT]);
    assert_eq!(twice.tls(), Err(Misfit::Ambiguous(CLIENT.to_owned())));
}

fn program_with_symbols() -> Program {
    program(
        Form {
            symbols: true,
            ..GO_1_26
        },
        &NAMES,
    )
}

#[test]
fn the_module_has_to_describe_the_table() {
    for pointers in [Pointers::Plain, Pointers::Rela, Pointers::Relr] {
        let form = Form {
            pointers,
            ..GO_1_26
        };
        let none = Misfit::Go("no description of the module");
        // The table, the names, pclntable, ftab, minpc, maxpc, text.
        for index in [0, 1, 13, 16, 20, 21, 22] {
            let mut program = program(form, &NAMES);
            let at = program.module + 8 * index;
            let is = program.file.relocations.iter().find(|it| it.0 == at);
            let is = is.unwrap().1;
            for other in [0, is + 16] {
                program.file.pointer(at, other);
                assert_eq!(program.tls(), Err(none.clone()), "{pointers:?} {index}");
            }
        }
        // The length of ftab.
        let mut program = program(form, &NAMES);
        let at = program.module + 8 * 17;
        put(&mut program, at, &5_u64.to_le_bytes());
        assert_eq!(program.tls(), Err(none));
    }
    // In a section that is not searched.
    let program = program(
        Form {
            module: ".rodata",
            ..GO_1_26
        },
        &NAMES,
    );
    let misfit = Misfit::Go("no description of the module");
    assert_eq!(program.tls(), Err(misfit));
}

#[test]
fn a_second_module_that_moves_the_functions_is_noticed() {
    let mut program = whole();
    let (table, functab) = (program.table, program.functab);
    let text = program.functions[0].1;
    let end = program.file.hidden(&[]);
    let count = NAMES.len() as u64 + 1;
    let at = [table, table + 72, functab];
    // The same description twice is no contradiction.
    let before = program.tls();
    assert!(matches!(before, Ok(Some(_))));
    add_module(&mut program.file, at, count, [text, end]);
    program.module_section().2 += 24 * 8;
    assert_eq!(program.tls(), before);
    add_module(&mut program.file, at, count, [text + 16, end + 16]);
    program.module_section().2 += 24 * 8;
    let misfit = Misfit::Go("several descriptions of the module");
    assert_eq!(program.tls(), Err(misfit));
}

#[test]
fn functions_that_are_no_code_are_not_probed() {
    // Where instructions begin.
    for (machine, offsets) in [
        (Machine::X86_64, [0, 10, 25]),
        (Machine::Aarch64, [0, 8, 24]),
    ] {
        for offset in offsets {
            let mut program = program(Form { machine, ..GO_1_26 }, &NAMES);
            let client = program.functions[2].1;
            program.file.code_at(client + offset)[..4].copy_from_slice(&[0x06, 0, 0, 0]);
            let misfit = Misfit::Undecodable(CLIENT.to_owned());
            assert_eq!(program.tls(), Err(misfit), "{machine:?} {offset}");
        }
    }
    // The code is in a segment that is not executable, or only in memory.
    let mut program = whole();
    program.file.segments[1].1 = 4;
    assert_eq!(program.tls(), Err(Misfit::NotCode(CLIENT.to_owned())));
    let mut program = whole();
    program.file.segments[1].4 = File::position(program.functions[2].1) - CODE;
    assert_eq!(program.tls(), Err(Misfit::NotCode(CLIENT.to_owned())));
    // Its end is.
    program.file.segments[1].4 += 16;
    let tls = program.tls();
    assert!(
        matches!(tls, Err(Misfit::NotCode(_) | Misfit::Undecodable(_))),
        "{tls:?}"
    );
}

#[test]
fn a_table_without_a_section_is_only_looked_for_in_go_programs() {
    let merged = Form {
        merged: true,
        pointers: Pointers::Rela,
        ..GO_1_26
    };
    let mut none = program(merged, &NAMES);
    none.file.sections.retain(|it| it.0 != ".go.buildinfo");
    assert_eq!(none.tls(), Ok(None));

    // Nothing begins like a table, or what does is none.
    let mut none = program(merged, &NAMES);
    none.table_section().2 = 8;
    assert_eq!(none.tls(), Err(Misfit::Go("no function table")));
    let mut none = program(merged, &NAMES);
    let at = none.table + 8;
    put(&mut none, at, &u64::MAX.to_le_bytes());
    assert!(none.tls().is_err());

    // A second one, with a description of its own.
    let mut twice = program(merged, &NAMES);
    let (start, size) = (twice.table, twice.file.next_data() - twice.table);
    let copy = twice.file.data_at(start).to_vec();
    let shift = twice.file.next_data() - start;
    twice.file.data.extend(copy);
    for (at, target) in twice.file.relocations.clone() {
        let moved = if target < start {
            target
        } else {
            target + shift
        };
        twice.file.pointer(at + shift, moved);
    }
    twice.table_section().2 += size + shift;
    let misfit = Misfit::Go("several function tables");
    assert_eq!(twice.tls(), Err(misfit));
}
