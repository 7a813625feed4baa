//! Functions of Go programs, from the table that the runtime itself uses for stack traces (pclntab),
//! which stripping leaves in place.
//!
//! Its header (`pcHeader` in runtime/symtab.go) is a magic number, the sizes, and offsets of other
//! tables. The address that functions are relative to is `text` of `runtime.firstmoduledata`
//! (`moduledata` in the same file): the header's own copy is 0 since Go 1.26, and where C code is linked
//! before Go's, it is not the address of the section `.text`.

use super::{
    elf::Elf,
    found::{Function, Tls},
    machine::Machine,
    misfit::Misfit,
};

const CLIENT: &str = "crypto/tls.(*Conn).clientHandshake";
const SERVER: &str = "crypto/tls.(*Conn).serverHandshake";

/// Section of the table; the second in position-independent programs.
const TABLES: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];
/// Section of the table in position-independent programs linked by another linker than Go's (cgo):
/// GNU ld merges sections with a common prefix.
const MERGED: &str = ".data.rel.ro";
/// A section of every Go program.
const GO: &str = ".go.buildinfo";
/// Where `runtime.firstmoduledata` is, the first since Go 1.26.
const MODULES: [&str; 3] = [".go.module", ".noptrdata", ".data"];

/// `abi.Go118PCLnTabMagic` and `Go120PCLnTabMagic` (internal/abi/symtab.go).
const MAGIC: [u32; 2] = [0xffff_fff0, 0xffff_fff1];

/// Bounds. The largest programs have some 300,000 functions and return from one at some 30 places.
const MAX_FUNCTIONS: u64 = 1 << 22;
const MAX_CODE: u64 = 1 << 20;
const MAX_RETURNS: usize = 256;
/// Places that may be the table or `runtime.firstmoduledata`.
const MAX_PLACES: usize = 4;
const MAX_MODULES: usize = 16;

/// Fields of `moduledata`, in words: `pcHeader`, the pointers of the slices `funcnametab`, `pclntable` and
/// `ftab`, `minpc`, `maxpc`, `text`. Unchanged from Go 1.18 to 1.27.
const POINTERS: [u64; 7] = [0, 1, 13, 16, 20, 21, 22];
/// The length of `ftab`.
const FTAB_LEN: u64 = 17;

/// The table of functions.
struct Table<'a> {
    /// The names, each with a NUL at its end.
    names: &'a [u8],
    /// `functab` and what its second halves are offsets in, `_func` records.
    functions: &'a [u8],
    /// Pairs of an entry, relative to `text`, and an offset in `functions`; at the end an entry alone.
    entries: &'a [[u8; 8]],
    /// The end of the last function, relative to `text`.
    end: u32,
    /// `runtime.text`.
    text: u64,
}

pub fn tls(elf: &Elf<'_>) -> Result<Option<Tls>, Misfit> {
    let Some(functions) = functions(elf, &[CLIENT, SERVER])? else {
        return Ok(None);
    };
    let mut functions = functions.into_iter();
    let (client, server) = (functions.next().flatten(), functions.next().flatten());
    for (name, function) in [(CLIENT, &client), (SERVER, &server)] {
        if function.as_ref().is_some_and(|it| it.returns.is_empty()) {
            return Err(Misfit::Undecodable(name.to_owned()));
        }
    }
    if client.is_none() && server.is_none() {
        return Ok(None);
    }
    Ok(Some(Tls::Go { client, server }))
}

pub fn functions(elf: &Elf<'_>, names: &[&str]) -> Result<Option<Vec<Option<Function>>>, Misfit> {
    let Some(table) = Table::read(elf)? else {
        return Ok(None);
    };
    let places = table.find(names)?;
    // If the symbol table was not stripped, it must agree.
    let symbols = elf.symbols(names)?;
    let mut found = Vec::new();
    for ((name, place), symbol) in names.iter().zip(places).zip(symbols) {
        let Some((start, end)) = place else {
            found.push(None);
            continue;
        };
        let address = table.text.wrapping_add(u64::from(start));
        if symbol.is_some_and(|it| it.address != address) {
            return Err(Misfit::Ambiguous((*name).to_owned()));
        }
        found.push(Some(function(elf, name, address, u64::from(end - start))?));
    }
    Ok(Some(found))
}

/// Decodes the function at an address.
fn function(elf: &Elf<'_>, name: &str, address: u64, size: u64) -> Result<Function, Misfit> {
    let entry = elf.entry(name, address)?;
    let code = elf.content_at(address, size.min(MAX_CODE + 1));
    let code = code.ok_or_else(|| Misfit::NotCode(name.to_owned()))?;
    let undecodable = || Misfit::Undecodable(name.to_owned());
    if code.len() as u64 > MAX_CODE {
        return Err(undecodable());
    }
    let body = elf.machine().body(code).ok_or_else(undecodable)?;
    if body.returns.len() > MAX_RETURNS {
        return Err(undecodable());
    }
    let known = !body.leaves;
    let returns = body.returns.into_iter().filter(|_| known);
    Ok(Function {
        entry,
        returns: returns.map(|it| entry + it as u64).collect(),
    })
}

impl<'a> Table<'a> {
    /// Reads the table of a Go program.
    fn read(elf: &Elf<'a>) -> Result<Option<Self>, Misfit> {
        for name in TABLES {
            if let Some((address, size)) = elf.section(name)? {
                let table = elf.content_at(address, size).unwrap_or_default();
                return Self::at(elf, address, table).map(Some);
            }
        }
        if elf.section(GO)?.is_none() {
            return Ok(None);
        }
        Self::search(elf).map(Some)
    }

    /// Searches for the table by its header.
    fn search(elf: &Elf<'a>) -> Result<Self, Misfit> {
        let mut places = Vec::new();
        for magic in MAGIC {
            let head = u64::from_le_bytes(head(magic, elf.machine()));
            places.extend(elf.numbers_equal(head, &[MERGED], MAX_PLACES)?);
        }
        let mut found = Vec::new();
        let mut misfit = Misfit::Go("no function table");
        let (start, size) = elf.section(MERGED)?.unwrap_or_default();
        let merged = elf.content_at(start, size).unwrap_or_default();
        for address in places {
            let at = usize::try_from(address - start).ok();
            let table = at.and_then(|at| merged.get(at..)).unwrap_or_default();
            match Self::at(elf, address, table) {
                Ok(it) => found.push(it),
                Err(its) => misfit = its,
            }
        }
        let table = found.pop().ok_or(misfit)?;
        if !found.is_empty() {
            return Err(Misfit::Go("several function tables"));
        }
        Ok(table)
    }

    /// Reads the table that `table` begins with, and compares it with the runtime's description of the
    /// module.
    fn at(elf: &Elf<'a>, address: u64, table: &'a [u8]) -> Result<Self, Misfit> {
        let malformed = Misfit::Go("the function table's header");
        let first = table.first_chunk::<8>().ok_or(malformed.clone())?;
        let magic = u32_at(first, 0).ok_or(malformed.clone())?;
        if !MAGIC.contains(&magic) {
            return Err(Misfit::GoFormat(magic));
        }
        if *first != head(magic, elf.machine()) {
            return Err(malformed);
        }
        // nfunc, nfiles, textStart, and offsets of funcnametab, cutab, filetab, pctab and pclntab.
        let word = |index: usize| {
            let bytes = table.get(8 + 8 * index..)?.first_chunk()?;
            Some(u64::from_le_bytes(*bytes))
        };
        let fields = (word(0), word(3), word(7));
        let (Some(count), Some(names_at), Some(functions_at)) = fields else {
            return Err(malformed);
        };
        let from = |offset| table.get(usize::try_from(offset).ok()?..);
        let (Some(names), Some(functions)) = (from(names_at), from(functions_at)) else {
            return Err(malformed);
        };
        if count > MAX_FUNCTIONS {
            return Err(Misfit::TooMany("functions"));
        }
        let (pairs, _) = functions.as_chunks();
        let count = usize::try_from(count).map_err(|_| malformed.clone())?;
        let (Some(entries), Some(last)) = (pairs.get(..count), functions.get(8 * count..)) else {
            return Err(malformed);
        };
        let end = u32_at(last, 0).ok_or(malformed)?;
        let mut this = Self {
            names,
            functions,
            entries,
            end,
            text: 0,
        };
        let module = Module {
            table: address,
            names: address.wrapping_add(names_at),
            functions: address.wrapping_add(functions_at),
            functions_len: count as u64 + 1,
            first: this.entry(0),
            end,
        };
        this.text = module.text(elf)?;
        Ok(this)
    }

    /// Start of function `index`, relative to `text`; the index after the last function is its end.
    fn entry(&self, index: usize) -> u32 {
        let pair = self.entries.get(index);
        pair.and_then(|it| u32_at(it, 0)).unwrap_or(self.end)
    }

    /// Start and end of functions, relative to `text`, in the order of `names`.
    fn find(&self, names: &[&str]) -> Result<Vec<Option<(u32, u32)>>, Misfit> {
        let mut found = vec![None; names.len()];
        for index in 0..self.entries.len() {
            let (start, end) = (self.entry(index), self.entry(index + 1));
            if start > end {
                return Err(Misfit::Go("the function table is not sorted"));
            }
            let name = self.name(index, start);
            let name = name.ok_or(Misfit::Go("a function's record or name"))?;
            for (wanted, place) in names.iter().zip(&mut found) {
                let is = name
                    .strip_prefix(wanted.as_bytes())
                    .is_some_and(|it| it.first() == Some(&0));
                if is && place.replace((start, end)).is_some() {
                    return Err(Misfit::Ambiguous((*wanted).to_owned()));
                }
            }
        }
        Ok(found)
    }

    /// The bytes from the name of function `index` on. Its record (`_func` in runtime/runtime2.go)
    /// repeats the entry and has an offset into the names.
    fn name(&self, index: usize, start: u32) -> Option<&'a [u8]> {
        let record = u32_at(self.entries.get(index)?, 4)?;
        let record = self.functions.get(record as usize..)?;
        if u32_at(record, 0)? != start {
            return None;
        }
        self.names.get(u32_at(record, 4)? as usize..)
    }
}

/// Checks that `runtime.firstmoduledata` describes the table at `table`.
struct Module {
    table: u64,
    names: u64,
    functions: u64,
    functions_len: u64,
    first: u32,
    end: u32,
}

impl Module {
    /// `text` in the module's description, which is the only place that describes this table.
    fn text(&self, elf: &Elf<'_>) -> Result<u64, Misfit> {
        let candidates = elf.pointers_to(self.table, &MODULES, MAX_MODULES)?;
        let field = |module: u64, index: u64| module.wrapping_add(8 * index);
        let fields: Vec<u64> = candidates
            .iter()
            .flat_map(|it| POINTERS.map(|index| field(*it, index)))
            .collect();
        let pointers = elf.pointers(&fields)?;
        let (modules, _) = pointers.as_chunks();
        let texts = candidates.iter().zip(modules).filter_map(|(it, module)| {
            let text = self.text_of(module)?;
            let count = elf.number_at(field(*it, FTAB_LEN))?;
            (count == self.functions_len).then_some(text)
        });
        let mut texts: Vec<u64> = texts.collect();
        texts.dedup();
        match texts[..] {
            [text] => Ok(text),
            [] => Err(Misfit::Go("no description of the module")),
            _ => Err(Misfit::Go("several descriptions of the module")),
        }
    }

    /// `text`, if the fields in [`POINTERS`] are those of this table.
    fn text_of(&self, fields: &[Option<u64>; POINTERS.len()]) -> Option<u64> {
        let [table, names, pclntable, functions, first, end, text] = *fields;
        let text = text?;
        let at = |offset: u32| Some(text.wrapping_add(u64::from(offset)));
        let fits = (table, names) == (Some(self.table), Some(self.names))
            && [pclntable, functions] == [Some(self.functions); 2]
            && (first, end) == (at(self.first), at(self.end));
        fits.then_some(text)
    }
}

/// The header of a table: the magic number, padding, the unit of code lengths and the size of a pointer.
fn head(magic: u32, machine: Machine) -> [u8; 8] {
    let [a, b, c, d] = magic.to_le_bytes();
    [a, b, c, d, 0, 0, machine.go_quantum(), 8]
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}
