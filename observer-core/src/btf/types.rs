//! The types in BTF, read where they lie: only where each begins is kept, and an index of names.
//! The format is described in the kernel's Documentation/bpf/btf.rst.

use std::{
    hash::{DefaultHasher, Hasher as _},
    ops::Range,
};

/// The first two bytes, in the order of the machine that the BTF is for.
const MAGIC: [u8; 2] = 0xeb9f_u16.to_le_bytes();

/// The only version there is.
const VERSION: u8 = 1;

/// Bytes of `struct btf_header` up to `str_len`; newer kernels may have more.
const HEADER: usize = 24;

/// Bytes of `struct btf_type`, which each type begins with.
const TYPE: usize = 12;

/// What is wrong with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The header is not that of little-endian BTF of version 1, or points outside the file.
    #[error("the header is invalid")]
    Header,
    /// A type is cut off, or of a kind that is not known here.
    #[error("type {0} is cut off or of an unknown kind")]
    Type(u32),
}

/// The kind of a type: `BTF_KIND_` in include/uapi/linux/btf.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Void,
    Int,
    Ptr,
    Array,
    Struct,
    Union,
    Enum,
    Fwd,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Func,
    FuncProto,
    Var,
    DataSec,
    Float,
    DeclTag,
    TypeTag,
    Enum64,
}

/// The kinds by number, with the bytes that follow `struct btf_type`: in all, and for each element.
const KINDS: [(Kind, usize, usize); 20] = [
    (Kind::Void, 0, 0),
    (Kind::Int, 4, 0),
    (Kind::Ptr, 0, 0),
    (Kind::Array, 12, 0),
    (Kind::Struct, 0, 12),
    (Kind::Union, 0, 12),
    (Kind::Enum, 0, 8),
    (Kind::Fwd, 0, 0),
    (Kind::Typedef, 0, 0),
    (Kind::Volatile, 0, 0),
    (Kind::Const, 0, 0),
    (Kind::Restrict, 0, 0),
    (Kind::Func, 0, 0),
    (Kind::FuncProto, 0, 8),
    (Kind::Var, 4, 0),
    (Kind::DataSec, 0, 12),
    (Kind::Float, 0, 0),
    (Kind::DeclTag, 4, 0),
    (Kind::TypeTag, 0, 0),
    (Kind::Enum64, 0, 12),
];

/// One type.
#[derive(Clone, Copy)]
pub(super) struct Type<'a> {
    pub kind: Kind,
    pub name: &'a str,
    /// Whether an enum is signed, a forward declaration is of a union, a struct has bitfields.
    pub flag: bool,
    /// The size in bytes of those that have one; the id of the type that others refer to.
    pub size_or_id: u32,
    types: &'a Types,
    after: &'a [u8],
}

/// A member of a struct or union.
pub(super) struct Member<'a> {
    pub name: &'a str,
    pub type_id: u32,
    pub bit_offset: u32,
    /// The width of a bitfield; 0 for an ordinary member.
    pub bits: u32,
}

impl<'a> Type<'a> {
    /// The members of a struct or union; of other types none.
    pub fn members(self) -> impl Iterator<Item = Member<'a>> {
        let bitfields = self.flag;
        self.elements(matches!(self.kind, Kind::Struct | Kind::Union), 12)
            .map(move |element| {
                let offset = word(element, 8);
                let (bit_offset, bits) = match bitfields {
                    true => (offset & 0xff_ffff, offset >> 24),
                    false => (offset, 0),
                };
                Member {
                    name: self.types.string(word(element, 0)),
                    type_id: word(element, 4),
                    bit_offset,
                    bits,
                }
            })
    }

    /// The names and values of an enum; of other types none. Values of a signed enum are
    /// sign-extended.
    pub fn enumerators(self) -> impl Iterator<Item = (&'a str, u64)> {
        let wide = self.kind == Kind::Enum64;
        let size = if wide { 12 } else { 8 };
        self.elements(wide || self.kind == Kind::Enum, size)
            .map(move |element| {
                let low = word(element, 4);
                let value = match (wide, self.flag) {
                    (true, _) => u64::from(word(element, 8)) << 32 | u64::from(low),
                    (false, true) => i64::from(low.cast_signed()).cast_unsigned(),
                    (false, false) => u64::from(low),
                };
                (self.types.string(word(element, 0)), value)
            })
    }

    /// The types of a prototype's parameters, `None` for `...`; of other types none.
    pub fn parameters(self) -> impl Iterator<Item = Option<u32>> {
        self.elements(self.kind == Kind::FuncProto, 8)
            .map(|element| Some(word(element, 4)).filter(|id| *id != 0 || word(element, 0) != 0))
    }

    /// The type of an array's elements and their number; `None` for other types.
    pub fn array(self) -> Option<(u32, u32)> {
        (self.kind == Kind::Array).then(|| (word(self.after, 0), word(self.after, 8)))
    }

    fn elements(self, are_there: bool, size: usize) -> std::slice::ChunksExact<'a, u8> {
        let after = if are_there { self.after } else { &[] };
        after.chunks_exact(size)
    }
}

/// All types of a kernel.
pub(super) struct Types {
    bytes: Vec<u8>,
    strings: Range<usize>,
    /// Start of each type, by its id minus one: 0 is `void`, which is not stored.
    starts: Vec<u32>,
    /// The hash of its name and the id of each type that has a name, sorted.
    names: Vec<(u32, u32)>,
}

impl Types {
    /// Reads the header, and finds where each type begins.
    pub fn new(bytes: Vec<u8>) -> Result<Self, Malformed> {
        let header = bytes.get(..HEADER).ok_or(Malformed::Header)?;
        if header[..2] != MAGIC || header[2] != VERSION {
            return Err(Malformed::Header);
        }
        let section = |offset: usize, length: usize| {
            let start = (word(header, 4) as usize).checked_add(word(header, offset) as usize)?;
            let end = start.checked_add(word(header, length) as usize)?;
            (start >= HEADER && end <= bytes.len()).then_some(start..end)
        };
        let types = section(8, 12).ok_or(Malformed::Header)?;
        let strings = section(16, 20).ok_or(Malformed::Header)?;
        // Positions and ids are kept in 32 bits.
        if u32::try_from(bytes.len()).is_err() {
            return Err(Malformed::Header);
        }
        let mut starts = Vec::new();
        let mut start = types.start;
        while start < types.end {
            let id = starts.len() as u32 + 1;
            let end = end_of_type(&bytes[..types.end], start).ok_or(Malformed::Type(id))?;
            starts.push(start as u32);
            start = end;
        }
        let mut types = Self {
            bytes,
            strings,
            starts,
            names: Vec::new(),
        };
        types.names = (1..=types.starts.len() as u32)
            .filter_map(|id| Some((hash(types.get(id)?.name)?, id)))
            .collect();
        types.names.sort_unstable();
        Ok(types)
    }

    /// The bytes that this was read from.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The type of that number, if there is one.
    pub fn get(&self, id: u32) -> Option<Type<'_>> {
        let Some(index) = id.checked_sub(1) else {
            return Some(Type {
                kind: Kind::Void,
                name: "",
                flag: false,
                size_or_id: 0,
                types: self,
                after: &[],
            });
        };
        let start = *self.starts.get(index as usize)? as usize;
        let (kind, length) = kind_and_length(&self.bytes, start)?;
        Some(Type {
            kind,
            name: self.string(word(&self.bytes, start)),
            flag: word(&self.bytes, start + 4) >> 31 == 1,
            size_or_id: word(&self.bytes, start + 8),
            types: self,
            after: self.bytes.get(start + TYPE..start + length)?,
        })
    }

    /// The types called `name`, with their numbers. There may be several: a type and a function,
    /// copies that could not be merged, or private structures of unrelated files.
    pub fn named(&self, name: &str) -> impl Iterator<Item = (u32, Type<'_>)> {
        let hash = hash(name);
        let first = hash.map_or(self.names.len(), |hash| {
            self.names.partition_point(|(other, _)| *other < hash)
        });
        self.names[first..]
            .iter()
            .take_while(move |(other, _)| Some(*other) == hash)
            .filter_map(|(_, id)| Some((*id, self.get(*id)?)))
            .filter(move |(_, found)| found.name == name)
    }

    /// A string, empty when there is none at `offset`.
    fn string(&self, offset: u32) -> &str {
        let strings = &self.bytes[self.strings.clone()];
        let from = strings.get(offset as usize..).unwrap_or_default();
        let mut parts = from.split(|byte| *byte == 0);
        str::from_utf8(parts.next().unwrap_or_default()).unwrap_or_default()
    }
}

/// The hash of a name, `None` for the empty one, which many types have.
fn hash(name: &str) -> Option<u32> {
    let mut hasher = DefaultHasher::new();
    hasher.write(name.as_bytes());
    (!name.is_empty()).then(|| hasher.finish() as u32)
}

/// End of the type that begins at `start`, if it is complete.
fn end_of_type(bytes: &[u8], start: usize) -> Option<usize> {
    bytes.get(start..start.checked_add(TYPE)?)?;
    let end = start.checked_add(kind_and_length(bytes, start)?.1)?;
    (end <= bytes.len()).then_some(end)
}

/// The kind and the bytes of the type whose `struct btf_type` begins at `start`. `void` has no
/// bytes: a kind that is none.
fn kind_and_length(bytes: &[u8], start: usize) -> Option<(Kind, usize)> {
    let info = word(bytes, start + 4);
    let (kind, fixed, each) = *KINDS.get((info >> 24 & 0x1f) as usize)?;
    let length = TYPE + fixed + each * (info & 0xffff) as usize;
    (kind != Kind::Void).then_some((kind, length))
}

/// The four bytes at `at`, which the caller has checked to exist.
fn word(bytes: &[u8], at: usize) -> u32 {
    let bytes = &bytes[at..at + 4];
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
