//! Finds the globals that the code of each kernel program uses.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use object::{
    LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget,
    SectionIndex, SectionKind, SymbolKind, read::elf::ElfFile64,
};

/// Bytes of an instruction (`struct bpf_insn`); one that loads 64 bits has two.
const INSTRUCTION: u64 = 8;
/// Opcodes: BPF_LD | BPF_DW | BPF_IMM, and BPF_JMP | BPF_CALL.
const LOAD: u8 = 0x18;
const CALL: u8 = 0x85;
/// Source register of a call to a function of the object.
const BPF_PSEUDO_CALL: u8 = 1;

struct Function {
    section: SectionIndex,
    range: Range<u64>,
    globals: BTreeSet<String>,
    /// Section and address of those that it calls, or passes on.
    calls: Vec<(SectionIndex, u64)>,
}

/// The globals that each function of an object uses, those that it calls included. Programs are functions.
pub fn globals_by_function(object: &[u8]) -> BTreeMap<String, BTreeSet<String>> {
    let file = ElfFile64::<LittleEndian>::parse(object).expect("an object");
    let mut functions = BTreeMap::new();
    for symbol in file.symbols().filter(|it| it.kind() == SymbolKind::Text) {
        let (Some(section), name) = (symbol.section_index(), symbol.name().expect("a name")) else {
            continue;
        };
        let range = symbol.address()..symbol.address() + symbol.size();
        let function = Function {
            section,
            range,
            globals: BTreeSet::new(),
            calls: Vec::new(),
        };
        functions.insert(name.to_owned(), function);
    }
    for section in file.sections().filter(|it| it.kind() == SectionKind::Text) {
        let code = section.data().expect("code");
        let targets: BTreeMap<_, _> = section.relocations().collect();
        let here = functions
            .values_mut()
            .filter(|it| it.section == section.index());
        for function in here {
            for at in function.range.clone().step_by(INSTRUCTION as usize) {
                let instruction = &code[at as usize..][..INSTRUCTION as usize];
                let (opcode, source) = (instruction[0], instruction[1] >> 4);
                let immediate = i32::from_le_bytes(instruction[4..].try_into().expect("4 bytes"));
                let immediate = i64::from(immediate);
                let target = targets.get(&at).map(|it| match it.target() {
                    RelocationTarget::Symbol(index) => {
                        file.symbol_by_index(index).expect("a symbol")
                    }
                    other => panic!("{other:?}"),
                });
                match (opcode, target) {
                    (LOAD, Some(symbol)) => {
                        let section = symbol.section_index();
                        let is_code = section.is_some_and(|it| {
                            let section = file.section_by_index(it).expect("a section");
                            section.kind() == SectionKind::Text
                        });
                        if is_code {
                            let address = symbol.address().wrapping_add_signed(immediate);
                            function.calls.push((section.expect("code"), address));
                        } else {
                            // A constant without a name is identified by its section.
                            let name = symbol.name().expect("a name").to_owned();
                            function.globals.insert(name);
                        }
                    }
                    (CALL, Some(symbol)) => {
                        let offset = (immediate + 1) * INSTRUCTION as i64;
                        let address = symbol.address().wrapping_add_signed(offset);
                        let section = symbol.section_index().expect("a function");
                        function.calls.push((section, address));
                    }
                    (CALL, None) if source == BPF_PSEUDO_CALL => {
                        let offset = (immediate + 1) * INSTRUCTION as i64;
                        let address = at.wrapping_add_signed(offset);
                        function.calls.push((section.index(), address));
                    }
                    _ => {}
                }
            }
        }
    }
    let all = |name: &String| {
        let mut globals = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut next = vec![name.as_str()];
        while let Some(name) = next.pop() {
            if !seen.insert(name) {
                continue;
            }
            let function = &functions[name];
            globals.extend(function.globals.iter().cloned());
            for (section, address) in &function.calls {
                let called = functions
                    .iter()
                    .find(|(_, it)| it.section == *section && it.range.start == *address);
                let (called, _) = called.unwrap_or_else(|| panic!("{name} calls {address}"));
                next.push(called);
            }
        }
        (name.clone(), globals)
    };
    functions.keys().map(all).collect()
}
