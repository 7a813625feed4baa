//! Go programs.

use super::{
    super::{Function, Misfit, Tls, go_functions_on, machine::Machine, tls_on},
    file::{File, Pointers},
};

pub const CLIENT: &str = "crypto/tls.(*Conn).clientHandshake";
pub const SERVER: &str = "crypto/tls.(*Conn).serverHandshake";

/// How a program is built.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub machine: Machine,
    pub pointers: Pointers,
    /// Go 1.18 and 1.19 have another magic number than those since.
    pub magic: u32,
    /// Whether the header has the address of the first function; not since 1.26.
    pub text_start: bool,
    /// Whether C code is linked before Go's, as with cgo.
    pub cgo: bool,
    /// Whether there is a symbol table.
    pub symbols: bool,
    /// Where the description of the module is.
    pub module: &'static str,
    /// Whether the table has no section of its own, as with cgo in programs that are loaded anywhere.
    pub merged: bool,
}

pub const GO_1_26: Form = Form {
    machine: Machine::X86_64,
    pointers: Pointers::Plain,
    magic: 0xffff_fff1,
    text_start: false,
    cgo: true,
    symbols: false,
    module: ".go.module",
    merged: false,
};

/// A program and where its parts are.
pub struct Program {
    pub file: File,
    /// Name and address of each function, in the order of the table.
    pub functions: Vec<(String, u64)>,
    /// Addresses of the table, of its `functab`, of the first record behind that, and of the module.
    pub table: u64,
    pub functab: u64,
    pub records: u64,
    pub module: u64,
}

/// A function as the compiler writes it, and where its RETs are. The constant contains their bytes.
pub fn code(machine: Machine) -> (Vec<u8>, [u64; 2]) {
    match machine {
        Machine::X86_64 => {
            let code = [
                // cmp 0x10(%r14),%rsp; jbe 32; sub $0x18,%rsp
                &[0x49, 0x3b, 0x66, 0x10, 0x76, 0x1a, 0x48, 0x83, 0xec, 0x18][..],
                // mov $0xc3c3c3c3,%eax; test %rax,%rax; je 25
                &[0xb8, 0xc3, 0xc3, 0xc3, 0xc3, 0x48, 0x85, 0xc0, 0x74, 0x05],
                // add $0x18,%rsp; ret; xor %eax,%eax; add $0x18,%rsp; ret
                &[
                    0x48, 0x83, 0xc4, 0x18, 0xc3, 0x31, 0xc0, 0x48, 0x83, 0xc4, 0x18, 0xc3,
                ],
                // call; jmp 0
                &[0xe8, 0, 0, 0, 0, 0xeb, 0xd9],
            ];
            (code.concat(), [24, 31])
        }
        Machine::Aarch64 => {
            let code = [
                // ldr x16, [x28, #16]; cmp sp, x16; b.ls +24; ret
                0xf940_0b90,
                0xeb30_63ff,
                0x5400_00c9,
                0xd65f_03c0,
                // mov x3, x30; ret; bl +0; b -28
                0xaa1e_03e3,
                0xd65f_03c0,
                0x9400_0000,
                0x17ff_fff9_u32,
            ];
            (code.map(u32::to_le_bytes).concat(), [12, 20])
        }
    }
}

pub fn program(form: Form, names: &[&str]) -> Program {
    let (code, _) = code(form.machine);
    let functions: Vec<_> = names.iter().map(|it| (*it, code.clone())).collect();
    program_of(form, &functions)
}

pub fn program_of(form: Form, functions: &[(&str, Vec<u8>)]) -> Program {
    let mut file = File::new(form.machine, form.pointers);
    file.dynamic = false;
    if form.cgo {
        file.function("_start", &code(form.machine).0);
    }
    let mut placed = Vec::new();
    for (name, code) in functions {
        let address = match form.symbols {
            true => file.function(name, code),
            false => file.hidden(code),
        };
        placed.push(((*name).to_owned(), address));
    }
    let text = placed[0].1;
    let end = file.hidden(&[]);

    let mut names = vec![0];
    let (mut functab, mut records) = (Vec::new(), Vec::new());
    let records_at = 8 * placed.len() + 8;
    for (name, address) in &placed {
        let record = u32::try_from(records_at + records.len()).unwrap();
        let start = u32::try_from(address - text).unwrap();
        functab.extend([start, record].map(u32::to_le_bytes).concat());
        let name_at = u32::try_from(names.len()).unwrap();
        records.extend([start, name_at, 0, 0].map(u32::to_le_bytes).concat());
        names.extend(name.as_bytes());
        names.push(0);
    }
    functab.extend(u32::try_from(end - text).unwrap().to_le_bytes());
    functab.resize(records_at, 0);
    names.resize(names.len().next_multiple_of(8), 0);

    let (names_at, functab_at) = (72, 72 + names.len() as u64);
    let mut table = form.magic.to_le_bytes().to_vec();
    table.extend([0, 0, form.machine.go_quantum(), 8]);
    let count = functions.len() as u64;
    let words = [count, 1, 0, names_at, 0, 0, 0, functab_at];
    table.extend(words.iter().flat_map(|it: &u64| it.to_le_bytes()));
    table.extend([&names[..], &functab, &records].concat());
    table.resize(table.len().next_multiple_of(8), 0);
    let size = table.len() as u64;
    let info = file.words(&[0; 4]);
    file.sections.push((".go.buildinfo".to_owned(), info, 32));
    // What the table begins with, where none is.
    let first = u64::from_le_bytes(*table.first_chunk().unwrap());
    let before = file.words(&[0, first]);
    let at = file.next_data();
    file.data.extend(table);
    if form.text_start {
        file.pointer(at + 24, text);
    }
    let (name, start) = match form.pointers {
        _ if form.merged => (".data.rel.ro", before),
        Pointers::Plain => (".gopclntab", at),
        Pointers::Rela | Pointers::Relr => (".data.rel.ro.gopclntab", at),
    };
    file.sections
        .push((name.to_owned(), start, size + at - start));

    // Something that points to the table and is not what is looked for.
    let decoy = file.table(&[at, at]);
    let (names, functab) = (at + names_at, at + functab_at);
    let module = add_module(&mut file, [at, names, functab], count + 1, [text, end]);
    let size = file.next_data() - decoy;
    file.sections.push((form.module.to_owned(), decoy, size));
    Program {
        file,
        functions: placed,
        table: at,
        functab,
        records: functab + records_at as u64,
        module,
    }
}

/// Adds a `moduledata`.
pub fn add_module(file: &mut File, at: [u64; 3], count: u64, text: [u64; 2]) -> u64 {
    let ([table, names, functab], [start, end]) = (at, text);
    let module = file.words(&[0; 24]);
    for (index, target) in [
        (0, table),
        (1, names),
        (13, functab),
        (16, functab),
        (20, start),
        (21, end),
        (22, start),
        (23, end),
    ] {
        file.pointer(module + 8 * index, target);
    }
    for index in [17, 18] {
        file.data_at(module + 8 * index)[..8].copy_from_slice(&count.to_le_bytes());
    }
    module
}

impl Program {
    /// What has to be found of a function.
    pub fn function(&self, name: &str) -> Option<Function> {
        let (_, address) = self.functions.iter().find(|it| it.0 == name)?;
        let entry = File::position(*address);
        let returns = code(self.file.machine).1.map(|it| entry + it).to_vec();
        Some(Function { entry, returns })
    }

    /// The section that the table is in.
    pub fn table_section(&mut self) -> &mut (String, u64, u64) {
        &mut self.file.sections[1]
    }

    /// The section that the description of the module is in.
    pub fn module_section(&mut self) -> &mut (String, u64, u64) {
        &mut self.file.sections[2]
    }

    pub fn tls(&self) -> Result<Option<Tls>, Misfit> {
        tls_on(&self.file.write(), Some(self.file.machine))
    }
}

pub const NAMES: [&str; 5] = ["go:buildid", "main.main", CLIENT, "runtime.main", SERVER];

#[test]
fn functions_of_every_form_are_found() {
    let mut forms = Vec::new();
    for machine in [Machine::X86_64, Machine::Aarch64] {
        for pointers in [Pointers::Plain, Pointers::Rela, Pointers::Relr] {
            for symbols in [true, false] {
                let form = Form {
                    machine,
                    pointers,
                    symbols,
                    ..GO_1_26
                };
                let older = Form {
                    text_start: true,
                    module: ".noptrdata",
                    ..form
                };
                let oldest = Form {
                    magic: 0xffff_fff0,
                    cgo: false,
                    ..older
                };
                let merged = Form {
                    merged: true,
                    ..older
                };
                let cgo = Form {
                    cgo: true,
                    ..oldest
                };
                forms.extend([form, older, oldest, merged, cgo]);
            }
        }
    }
    for form in forms {
        let program = program(form, &NAMES);
        let expected = Tls::Go {
            client: program.function(CLIENT),
            server: program.function(SERVER),
        };
        assert_eq!(program.tls(), Ok(Some(expected)), "{form:?}");
    }
}

#[test]
fn the_linker_leaves_out_what_is_never_called() {
    let client = program(GO_1_26, &["main.main", CLIENT]);
    let function = client.function(CLIENT);
    assert!(function.is_some());
    let expected = Tls::Go {
        client: function,
        server: None,
    };
    assert_eq!(client.tls(), Ok(Some(expected)));

    let neither = program(
        GO_1_26,
        &["main.main", "crypto/tls.(*Conn).clientHandshakes"],
    );
    assert_eq!(neither.tls(), Ok(None));
}

#[test]
fn other_functions_are_found_in_the_order_of_the_names() {
    let program = program(GO_1_26, &NAMES);
    let bytes = program.file.write();
    let names = [SERVER, "main.mai", "main.main", "ain.main", ""];
    let found = go_functions_on(&bytes, &names, Some(Machine::X86_64));
    let expected = vec![
        program.function(SERVER),
        None,
        program.function("main.main"),
        None,
        None,
    ];
    assert_eq!(found, Ok(Some(expected)));
    let none = go_functions_on(&bytes, &[], Some(Machine::X86_64));
    assert_eq!(none, Ok(Some(Vec::new())));

    let c = File::new(Machine::X86_64, Pointers::Rela).write();
    assert_eq!(go_functions_on(&c, &names, Some(Machine::X86_64)), Ok(None));
}

/// A function that goes on in another returns from there.
#[test]
fn functions_that_do_not_end_in_ret_have_no_known_returns() {
    let machine = Machine::X86_64;
    // ret; jmp +0x100
    let jumps = vec![0xc3, 0xe9, 0, 1, 0, 0];
    // jmp 0
    let endless = vec![0xeb, 0xfe];
    let (usual, _) = code(machine);
    let functions = [
        ("a", jumps.clone()),
        ("b", endless),
        (CLIENT, jumps),
        ("c", usual),
    ];
    let program = program_of(GO_1_26, &functions);
    let found = go_functions_on(&program.file.write(), &["a", "b", "c"], Some(machine));
    let found = found.unwrap().unwrap();
    for (index, name) in ["a", "b"].into_iter().enumerate() {
        let mut function = program.function(name).unwrap();
        function.returns.clear();
        assert_eq!(found[index], Some(function));
    }
    assert_eq!(found[2], program.function("c"));
    assert_eq!(program.tls(), Err(Misfit::Undecodable(CLIENT.to_owned())));
}

#[test]
fn branches_of_arm64_out_of_a_function_are_noticed() {
    let machine = Machine::Aarch64;
    // ret; b +0x100
    let out = [0xd65f_03c0, 0x1400_0040_u32]
        .map(u32::to_le_bytes)
        .concat();
    // ret; b -8, before the function
    let before = [0xd65f_03c0, 0x17ff_fffe_u32]
        .map(u32::to_le_bytes)
        .concat();
    for code in [out, before] {
        let form = Form { machine, ..GO_1_26 };
        let program = program_of(form, &[("main.main", code.clone()), (CLIENT, code)]);
        assert_eq!(program.tls(), Err(Misfit::Undecodable(CLIENT.to_owned())));
    }
}
