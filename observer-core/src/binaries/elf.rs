//! Views of an ELF file: segments, sections, symbols, pointers.

use std::collections::HashMap;

use object::{
    LittleEndian as LE,
    elf::{
        ET_DYN, ET_EXEC, FileHeader64, PF_X, PT_LOAD, Rela64, SHF_ALLOC, SHN_LORESERVE, SHN_UNDEF,
        SHT_DYNSYM, SHT_RELA, SHT_RELR, SHT_SYMTAB, STT_FUNC, SectionHeader64, Sym64,
    },
    pod,
    read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _},
};

use super::{
    bytes::{Bytes, Reference},
    machine::Machine,
    misfit::Misfit,
};

/// Bounds for loops over tables. Node.js 20, 100 MB, has 185,000 symbols, and its library in Debian
/// (libnode 18) 84,000 relocations.
const MAX_SEGMENTS: usize = 64;
const MAX_PROGRAM_HEADERS: usize = 1024;
const MAX_SECTIONS: usize = 4096;
const MAX_SYMBOLS: usize = 1 << 22;
const MAX_RELOCATIONS: usize = 1 << 22;

/// What decides about the bytes of a page in memory: offsets in a file and addresses agree below it.
/// arm64 has larger pages at times, for which files are linked so that they agree as well.
const PAGE: u64 = 4096;

/// Enough of a function to see that it is one.
const PROLOGUE: u64 = 512;

type Header = SectionHeader64<LE>;

/// A file of the running machine, with its segments checked.
pub struct Elf<'a> {
    data: Reference<'a>,
    machine: Machine,
    /// Whether addresses in it are relative to where it is loaded.
    relocatable: bool,
    segments: Vec<Segment>,
    sections: &'a [Header],
    section_names: &'a [u8],
}

/// A PT_LOAD, as far as it has content in the file.
struct Segment {
    address: u64,
    offset: u64,
    /// In the file.
    size: u64,
    executable: bool,
}

/// A function from a symbol table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    pub address: u64,
    /// In bytes; 0 if it is not known.
    pub size: u64,
}

impl<'a> Elf<'a> {
    /// Reads the headers of `data`, which has to be for `machine`.
    pub fn parse(data: &'a dyn Bytes, machine: Option<Machine>) -> Result<Self, Misfit> {
        let data = Reference(data);
        let header = FileHeader64::<LE>::parse(data).map_err(|_| Misfit::Format)?;
        header.endian().map_err(|_| Misfit::Format)?;
        let relocatable = match header.e_type(LE) {
            ET_DYN => true,
            ET_EXEC => false,
            _ => return Err(Misfit::Format),
        };
        let its = header.e_machine(LE);
        let machine = machine
            .filter(|it| it.elf() == its)
            .ok_or(Misfit::Machine(its))?;
        let sections = header
            .section_headers(LE, data)
            .map_err(|_| Misfit::Malformed("section headers"))?;
        if sections.len() > MAX_SECTIONS {
            return Err(Misfit::TooMany("sections"));
        }
        let section_names = if sections.is_empty() {
            &[][..]
        } else {
            let index = header.section_strings_index(LE, data);
            let section = index.ok().and_then(|it| sections.get(it.0));
            let section = section.ok_or(Misfit::Malformed("section names"))?;
            content(section, data, "section names")?
        };
        Ok(Self {
            data,
            machine,
            relocatable,
            segments: segments(header, data)?,
            sections,
            section_names,
        })
    }

    pub fn machine(&self) -> Machine {
        self.machine
    }

    /// The bytes at an address.
    pub fn content_at(&self, address: u64, length: u64) -> Option<&'a [u8]> {
        let (segment, offset) = self.place(address)?;
        let end = (address - segment.address).checked_add(length)?;
        (end <= segment.size)
            .then(|| self.data.0.range(offset, length))
            .flatten()
    }

    /// The 64-bit number at an address, as it is in the file.
    pub fn number_at(&self, address: u64) -> Option<u64> {
        let number = self.content_at(address, 8)?.first_chunk()?;
        Some(u64::from_le_bytes(*number))
    }

    /// Whether there is code at an address.
    pub fn is_code_at(&self, address: u64) -> bool {
        self.place(address).is_some_and(|(it, _)| it.executable)
    }

    /// The code at an address, at most `length` bytes and not beyond its segment, and the address's offset in the file.
    pub fn code_at(&self, address: u64, length: u64) -> Option<(&'a [u8], u64)> {
        let (segment, offset) = self.place(address).filter(|(it, _)| it.executable)?;
        let rest = segment.size - (address - segment.address);
        Some((self.data.0.range(offset, rest.min(length))?, offset))
    }

    /// The offset in the file of the function `name`'s first instruction.
    pub fn entry(&self, name: &str, address: u64) -> Result<u64, Misfit> {
        let (code, offset) = self
            .code_at(address, PROLOGUE)
            .ok_or_else(|| Misfit::NotCode(name.to_owned()))?;
        if !self.machine.is_code(code, address) {
            return Err(Misfit::Undecodable(name.to_owned()));
        }
        Ok(offset)
    }

    /// The segment of an address, and the address's offset in the file.
    fn place(&self, address: u64) -> Option<(&Segment, u64)> {
        let segment = self.segments.iter().find(|it| it.contains(address))?;
        Some((segment, segment.offset + (address - segment.address)))
    }

    /// The address and the size in the file of the section `name`, in bytes. Like every section that is
    /// asked for, it is in memory.
    pub fn section(&self, name: &str) -> Result<Option<(u64, u64)>, Misfit> {
        let mut found = None;
        for section in self.sections {
            if !is_string(self.section_names, section.sh_name(LE), name) {
                continue;
            }
            let (address, size) = (section.sh_addr(LE), section.sh_size(LE));
            let inside = self.place(address).is_some_and(|(segment, _)| {
                let rest = segment.size - (address - segment.address);
                size <= rest
            });
            let allocated = section.sh_flags(LE) & u64::from(SHF_ALLOC) != 0;
            if !inside || !allocated || found.replace((address, size)).is_some() {
                return Err(Misfit::Malformed("a section is not in memory, or twice"));
            }
        }
        Ok(found)
    }

    /// Functions that the file defines, by name, in the order of `names`.
    pub fn symbols(&self, names: &[&str]) -> Result<Vec<Option<Symbol>>, Misfit> {
        let mut found = vec![None; names.len()];
        // No linker writes more than one of a type. The second is the larger one and often stripped.
        for kind in [SHT_DYNSYM, SHT_SYMTAB] {
            let Some(table) = self.sections.iter().find(|it| it.sh_type(LE) == kind) else {
                continue;
            };
            let strings = self
                .sections
                .get(table.link(LE).0)
                .ok_or(Misfit::Malformed("symbol names"))?;
            let strings = content(strings, self.data, "symbol names")?;
            let symbols: &[Sym64<LE>] = array(table, self.data, "symbols")?;
            if symbols.len() > MAX_SYMBOLS {
                return Err(Misfit::TooMany("symbols"));
            }
            for symbol in symbols {
                let section = symbol.st_shndx.get(LE);
                let defined = section != SHN_UNDEF && section < SHN_LORESERVE;
                if !defined || symbol.st_type() != STT_FUNC {
                    continue;
                }
                let name = symbol.st_name.get(LE);
                for (wanted, place) in names.iter().zip(&mut found) {
                    if is_string(strings, name, wanted) {
                        add(wanted, place, symbol)?;
                    }
                }
            }
        }
        Ok(found)
    }

    /// The pointers at `addresses`, as they are when the file is loaded at 0; `None` where there is no
    /// pointer into this file.
    pub fn pointers(&self, addresses: &[u64]) -> Result<Vec<Option<u64>>, Misfit> {
        if !self.relocatable {
            return Ok(addresses.iter().map(|it| self.number_at(*it)).collect());
        }
        let mut found: HashMap<u64, Option<u64>> = addresses.iter().map(|it| (*it, None)).collect();
        let mut twice = false;
        self.relocations(|address, target| {
            if let Some(place) = found.get_mut(&address) {
                twice |= place.replace(target).is_some_and(|it| it != target);
            }
        })?;
        if twice {
            return Err(Misfit::Malformed("contradictory relocations"));
        }
        Ok(addresses
            .iter()
            .map(|it| found.get(it).copied().flatten())
            .collect())
    }

    /// Addresses of pointers to `target`, at most `limit`: in a file that is loaded anywhere, wherever
    /// there is a relocation; in others in one of `sections`.
    pub fn pointers_to(
        &self,
        target: u64,
        sections: &[&str],
        limit: usize,
    ) -> Result<Vec<u64>, Misfit> {
        if !self.relocatable {
            return self.numbers_equal(target, sections, limit);
        }
        let mut found = Vec::new();
        self.relocations(|address, its| {
            if its == target && found.len() < limit {
                found.push(address);
            }
        })?;
        Ok(found)
    }

    /// Addresses of the 64-bit number `number` in one of `sections`, at most `limit`.
    pub fn numbers_equal(
        &self,
        number: u64,
        sections: &[&str],
        limit: usize,
    ) -> Result<Vec<u64>, Misfit> {
        let mut found = Vec::new();
        for name in sections {
            let Some((start, size)) = self.section(name)? else {
                continue;
            };
            let bytes = self.content_at(start, size).unwrap_or_default();
            let (words, _) = bytes.as_chunks();
            let places = words.iter().zip((start..).step_by(8));
            let equal = places.filter(|(word, _)| u64::from_le_bytes(**word) == number);
            found.extend(equal.map(|(_, address)| address).take(limit - found.len()));
        }
        Ok(found)
    }

    /// Calls `each` with the address and the value of each relocation that adds the load address.
    fn relocations(&self, mut each: impl FnMut(u64, u64)) -> Result<(), Misfit> {
        let mut count = 0_usize;
        let mut bounded = |more: usize| {
            count = count.saturating_add(more);
            if count > MAX_RELOCATIONS {
                return Err(Misfit::TooMany("relocations"));
            }
            Ok(())
        };
        let allocated = |it: &&Header| it.sh_flags(LE) & u64::from(SHF_ALLOC) != 0;
        for section in self.sections.iter().filter(allocated) {
            match section.sh_type(LE) {
                SHT_RELA => {
                    let relocations: &[Rela64<LE>] = array(section, self.data, "relocations")?;
                    bounded(relocations.len())?;
                    for relocation in relocations {
                        if relocation.r_type(LE, false) == self.machine.relative() {
                            let addend = relocation.r_addend.get(LE).cast_unsigned();
                            each(relocation.r_offset.get(LE), addend);
                        }
                    }
                }
                // Only addresses; the addends are where they are added to.
                SHT_RELR => {
                    let words: &[object::U64<LE>] = array(section, self.data, "relocations")?;
                    bounded(words.len().saturating_mul(63))?;
                    relr(words, |address| {
                        if let Some(addend) = self.number_at(address) {
                            each(address, addend);
                        }
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Segment {
    fn contains(&self, address: u64) -> bool {
        let offset = address.checked_sub(self.address);
        offset.is_some_and(|it| it < self.size)
    }
}

/// Unpacks a SHT_RELR: an even word is an address, an odd one a bitmap of the 63 words after the last
/// ("Relative relocations", System V ABI, generic part).
fn relr(words: &[object::U64<LE>], mut each: impl FnMut(u64)) {
    let mut next = 0_u64;
    for word in words {
        let word = word.get(LE);
        if word & 1 == 0 {
            each(word);
            next = word.wrapping_add(8);
            continue;
        }
        for bit in 1..64 {
            if word >> bit & 1 == 1 {
                each(next.wrapping_add(8 * (bit - 1)));
            }
        }
        next = next.wrapping_add(8 * 63);
    }
}

/// Enters a symbol of the name `wanted`. Several versions of one function have the same name.
fn add(wanted: &str, place: &mut Option<Symbol>, symbol: &Sym64<LE>) -> Result<(), Misfit> {
    let symbol = Symbol {
        address: symbol.st_value.get(LE),
        size: symbol.st_size.get(LE),
    };
    match place {
        Some(it) if it.address != symbol.address => Err(Misfit::Ambiguous(wanted.to_owned())),
        Some(_) => Ok(()),
        None => {
            *place = Some(symbol);
            Ok(())
        }
    }
}

/// Whether the string that begins at `start` is `wanted`. Takes no longer if it has no end.
fn is_string(strings: &[u8], start: u32, wanted: &str) -> bool {
    let rest = strings.get(start as usize..).unwrap_or_default();
    rest.strip_prefix(wanted.as_bytes())
        .is_some_and(|it| it.first() == Some(&0))
}

fn content<'a>(
    section: &Header,
    data: Reference<'a>,
    what: &'static str,
) -> Result<&'a [u8], Misfit> {
    section.data(LE, data).map_err(|_| Misfit::Malformed(what))
}

fn array<'a, T: pod::Pod>(
    section: &Header,
    data: Reference<'a>,
    what: &'static str,
) -> Result<&'a [T], Misfit> {
    pod::slice_from_all_bytes(content(section, data, what)?).map_err(|()| Misfit::Malformed(what))
}

/// The segments that are loaded. The kernel's loader and ld.so map whole pages of the file, and a later
/// segment over an earlier one.
fn segments(header: &FileHeader64<LE>, data: Reference<'_>) -> Result<Vec<Segment>, Misfit> {
    let malformed = || Misfit::Malformed("segments");
    let mut segments = Vec::new();
    let mut end = 0;
    let headers = header.program_headers(LE, data).map_err(|_| malformed())?;
    if headers.len() > MAX_PROGRAM_HEADERS {
        return Err(Misfit::TooMany("segments"));
    }
    for segment in headers.iter().filter(|it| it.p_type(LE) == PT_LOAD) {
        let (address, offset) = (segment.p_vaddr(LE), segment.p_offset(LE));
        let size = segment.p_filesz(LE);
        let is_inside = offset
            .checked_add(size)
            .is_some_and(|end| end <= data.0.length());
        if !is_inside {
            return Err(malformed());
        }
        let past = address
            .checked_add(segment.p_memsz(LE))
            .ok_or_else(malformed)?;
        let agrees = address % PAGE == offset % PAGE;
        // Ascending, as the System V ABI demands, so that none covers another.
        if !agrees || address < end || segment.p_memsz(LE) < size {
            return Err(malformed());
        }
        end = past;
        if segments.len() == MAX_SEGMENTS {
            return Err(Misfit::TooMany("segments"));
        }
        segments.push(Segment {
            address,
            offset,
            size,
            executable: segment.p_flags(LE) & PF_X != 0,
        });
    }
    Ok(segments)
}
