//! Small ELF files, put together as a linker does it.

use super::super::machine::Machine;

/// Addresses lie this much above offsets in the file, for code and for data, so that a position that
/// was not converted is noticed.
const CODE_BIAS: u64 = 0x40_0000;
pub const DATA_BIAS: u64 = 0x60_0000;
/// Offsets in the file, of code, data and what is not in memory.
pub const CODE: u64 = 0x400;
pub const DATA: u64 = 0x800;
const REST: u64 = 0x1000;

pub const PT_LOAD: u32 = 1;
const SHT_PROGBITS: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_STRTAB: u32 = 3;
const SHT_RELA: u32 = 4;
const SHT_DYNSYM: u32 = 11;
const SHT_RELR: u32 = 19;
const SHF_ALLOC: u64 = 2;

/// How pointers in data are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pointers {
    /// As they are: the file is loaded at its own addresses (ET_EXEC).
    Plain,
    /// As addends of SHT_RELA; the data itself has zeros.
    Rela,
    /// In the data, listed in SHT_RELR.
    Relr,
}

/// The contents of a file. Tests damage it before it is written.
#[derive(Clone)]
pub struct File {
    pub machine: Machine,
    pub pointers: Pointers,
    /// Which table the symbols are in.
    pub dynamic: bool,
    pub code: Vec<u8>,
    pub data: Vec<u8>,
    /// Name, address, type in `st_info`, size.
    pub symbols: Vec<(String, u64, u8, u64)>,
    pub relocations: Vec<(u64, u64)>,
    /// Name, address, size.
    pub sections: Vec<(String, u64, u64)>,
    /// Type, flags, offset, address, size in the file, size in memory.
    pub segments: Vec<(u32, u32, u64, u64, u64, u64)>,
}

impl File {
    pub fn new(machine: Machine, pointers: Pointers) -> Self {
        Self {
            machine,
            pointers,
            dynamic: true,
            code: Vec::new(),
            data: Vec::new(),
            symbols: Vec::new(),
            relocations: Vec::new(),
            sections: Vec::new(),
            segments: vec![
                (PT_LOAD, 4, 0, CODE_BIAS, CODE, CODE),
                (PT_LOAD, 5, CODE, CODE + CODE_BIAS, DATA - CODE, DATA - CODE),
                (
                    PT_LOAD,
                    6,
                    DATA,
                    DATA + DATA_BIAS,
                    REST - DATA,
                    2 * (REST - DATA),
                ),
            ],
        }
    }

    /// The offset in the file of an address in the code.
    pub fn position(address: u64) -> u64 {
        address - CODE_BIAS
    }

    /// Where the next function will be.
    pub fn next_code(&self) -> u64 {
        (CODE + CODE_BIAS + self.code.len() as u64).next_multiple_of(16)
    }

    /// Where the next data will be.
    pub fn next_data(&self) -> u64 {
        DATA + DATA_BIAS + self.data.len() as u64
    }

    /// Adds a function without a symbol.
    pub fn hidden(&mut self, code: &[u8]) -> u64 {
        let address = self.next_code();
        let filler = match self.machine {
            Machine::X86_64 => 0xcc,
            Machine::Aarch64 => 0,
        };
        let start = usize::try_from(address - CODE - CODE_BIAS).unwrap();
        self.code.resize(start, filler);
        self.code.extend(code);
        address
    }

    /// Adds a function with a symbol.
    pub fn function(&mut self, name: &str, code: &[u8]) -> u64 {
        let address = self.hidden(code);
        // Global, STT_FUNC.
        let symbol = (name.to_owned(), address, 0x12, code.len() as u64);
        self.symbols.push(symbol);
        address
    }

    /// Adds numbers to the data.
    pub fn words(&mut self, words: &[u64]) -> u64 {
        let address = self.next_data();
        self.data
            .extend(words.iter().flat_map(|it| it.to_le_bytes()));
        address
    }

    /// The code from an address on.
    pub fn code_at(&mut self, address: u64) -> &mut [u8] {
        let start = usize::try_from(address - CODE - CODE_BIAS).unwrap();
        &mut self.code[start..]
    }

    /// The data from an address on.
    pub fn data_at(&mut self, address: u64) -> &mut [u8] {
        let start = usize::try_from(address - DATA - DATA_BIAS).unwrap();
        &mut self.data[start..]
    }

    /// Makes the number at an address in the data a pointer, or none if `target` is 0.
    pub fn pointer(&mut self, at: u64, target: u64) {
        let stored = match self.pointers {
            Pointers::Rela => 0,
            Pointers::Plain | Pointers::Relr => target,
        };
        self.data_at(at)[..8].copy_from_slice(&stored.to_le_bytes());
        self.relocations.retain(|it| it.0 != at);
        if target != 0 {
            self.relocations.push((at, target));
        }
    }

    /// Adds pointers to the data; 0 is none.
    pub fn table(&mut self, targets: &[u64]) -> u64 {
        let address = self.words(&vec![0; targets.len()]);
        for (target, at) in targets.iter().zip((address..).step_by(8)) {
            self.pointer(at, *target);
        }
        address
    }

    /// The file's bytes.
    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_at(&mut out, CODE, &self.code);
        put_at(&mut out, DATA, &self.data);
        out.resize(usize::try_from(REST).unwrap(), 0);
        assert!(self.code.len() as u64 <= DATA - CODE && self.data.len() as u64 <= REST - DATA);

        let mut sections = Sections::default();
        for (name, address, size) in &self.sections {
            sections.add(
                name,
                SHT_PROGBITS,
                SHF_ALLOC,
                *address,
                address - DATA_BIAS,
                *size,
                0,
            );
        }
        self.write_relocations(&mut out, &mut sections);
        let (strings, symbols) = self.symbol_table();
        let at = out.len() as u64;
        out.extend(&strings);
        sections.add(".dynstr", SHT_STRTAB, 0, 0, at, strings.len() as u64, 0);
        let link = sections.count;
        out.resize(out.len().next_multiple_of(8), 0);
        let at = out.len() as u64;
        out.extend(&symbols);
        let kind = if self.dynamic { SHT_DYNSYM } else { SHT_SYMTAB };
        sections.add(".dynsym", kind, 0, 0, at, symbols.len() as u64, link);

        let (names, headers, count) = sections.finish(out.len() as u64);
        out.extend(names);
        let headers_at = out.len() as u64;
        out.extend(headers);
        let head = self.header(headers_at, count);
        out[..head.len()].copy_from_slice(&head);
        out
    }

    fn write_relocations(&self, out: &mut Vec<u8>, sections: &mut Sections) {
        let at = out.len() as u64;
        let kind = match self.pointers {
            Pointers::Plain => return,
            Pointers::Rela => {
                let kind = u64::from(self.machine.relative());
                for (address, target) in &self.relocations {
                    out.extend(
                        [*address, kind, *target]
                            .iter()
                            .flat_map(|it| it.to_le_bytes()),
                    );
                }
                SHT_RELA
            }
            Pointers::Relr => {
                let mut addresses: Vec<u64> = self.relocations.iter().map(|it| it.0).collect();
                addresses.sort_unstable();
                out.extend(relr(&addresses).iter().flat_map(|it| it.to_le_bytes()));
                SHT_RELR
            }
        };
        let size = out.len() as u64 - at;
        sections.add(".rel", kind, SHF_ALLOC, 0, at, size, 0);
    }

    /// Names, and the symbols that refer to them.
    fn symbol_table(&self) -> (Vec<u8>, Vec<u8>) {
        let (mut strings, mut symbols) = (vec![0], vec![0; 24]);
        for (name, address, info, size) in &self.symbols {
            symbols.extend(u32::try_from(strings.len()).unwrap().to_le_bytes());
            symbols.extend([*info, 0]);
            // Of section 1, if it is defined.
            symbols.extend(u16::from(*address != 0).to_le_bytes());
            symbols.extend(address.to_le_bytes());
            symbols.extend(size.to_le_bytes());
            strings.extend(name.as_bytes());
            strings.push(0);
        }
        (strings, symbols)
    }

    fn header(&self, at: u64, count: u16) -> Vec<u8> {
        let kind = if self.pointers == Pointers::Plain {
            2_u16
        } else {
            3
        };
        let mut head = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        head.extend(
            [kind, self.machine.elf()]
                .iter()
                .flat_map(|it| it.to_le_bytes()),
        );
        head.extend(1_u32.to_le_bytes());
        head.extend([0, 64, at].iter().flat_map(|it: &u64| it.to_le_bytes()));
        head.extend([0; 4]);
        let segment_count = u16::try_from(self.segments.len()).unwrap();
        let sizes = [64, 56, segment_count, 64, count, count - 1];
        head.extend(sizes.iter().flat_map(|it| it.to_le_bytes()));
        for (kind, flags, offset, address, size, memory) in &self.segments {
            head.extend([*kind, *flags].iter().flat_map(|it| it.to_le_bytes()));
            let words = [*offset, *address, *address, *size, *memory, 0x1000];
            head.extend(words.iter().flat_map(|it| it.to_le_bytes()));
        }
        head
    }
}

fn put_at(out: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    out.resize(usize::try_from(at).unwrap(), 0);
    out.extend(bytes);
}

/// Packs sorted addresses as SHT_RELR does.
fn relr(addresses: &[u64]) -> Vec<u64> {
    let mut words = Vec::new();
    let mut rest = addresses;
    while let Some((first, after)) = rest.split_first() {
        words.push(*first);
        rest = after;
        let mut base = first + 8;
        loop {
            let reached = rest.iter().take_while(|it| **it < base + 63 * 8).count();
            if reached == 0 {
                break;
            }
            let bits = rest[..reached].iter().map(|it| 2 << ((it - base) / 8));
            words.push(bits.fold(1, |all, bit: u64| all | bit));
            rest = &rest[reached..];
            base += 63 * 8;
        }
    }
    words
}

/// Section headers and their names.
struct Sections {
    names: Vec<u8>,
    headers: Vec<u8>,
    count: u32,
}

impl Default for Sections {
    fn default() -> Self {
        Self {
            names: vec![0],
            headers: vec![0; 64],
            count: 0,
        }
    }
}

impl Sections {
    #[expect(clippy::too_many_arguments, reason = "the fields of a header")]
    fn add(
        &mut self,
        name: &str,
        kind: u32,
        flags: u64,
        address: u64,
        at: u64,
        size: u64,
        link: u32,
    ) {
        let start = u32::try_from(self.names.len()).unwrap();
        self.names.extend(name.as_bytes());
        self.names.push(0);
        self.headers
            .extend([start, kind].iter().flat_map(|it| it.to_le_bytes()));
        self.headers.extend(
            [flags, address, at, size]
                .iter()
                .flat_map(|it| it.to_le_bytes()),
        );
        self.headers
            .extend([link, 0].iter().flat_map(|it| it.to_le_bytes()));
        self.headers
            .extend([8_u64, 0].iter().flat_map(|it| it.to_le_bytes()));
        self.count += 1;
    }

    /// The names, which lie at `at`, and the headers with theirs as the last, and how many these are.
    fn finish(mut self, at: u64) -> (Vec<u8>, Vec<u8>, u16) {
        let size = self.names.len() as u64 + ".shstrtab\0".len() as u64;
        self.add(".shstrtab", SHT_STRTAB, 0, 0, at, size, 0);
        (
            self.names,
            self.headers,
            u16::try_from(self.count + 1).unwrap(),
        )
    }
}
