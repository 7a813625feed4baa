//! A BTF writer, so that tests can make up kernels whose fields lie elsewhere, are
//! missing, or are bitfields.

use super::KernelBtf;
use crate::kernel::facts::fields::FieldSpec;

const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

const KIND_FLAG: u32 = 1 << 31;

/// `void`.
pub(crate) const VOID: u32 = 0;

/// Collects types; each method returns the id of the type it adds.
pub(crate) struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
    next: u32,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self {
            types: Vec::new(),
            strings: vec![0],
            next: 1,
        }
    }

    pub(crate) fn int(&mut self, name: &str, size: u32) -> u32 {
        self.add(name, INT, 0, size, &[size * 8])
    }

    pub(crate) fn pointer(&mut self, to: u32) -> u32 {
        self.add("", PTR, 0, to, &[])
    }

    pub(crate) fn array(&mut self, of: u32, elements: u32) -> u32 {
        self.add("", ARRAY, 0, 0, &[of, of, elements])
    }

    /// Members are name, type and bit offset.
    pub(crate) fn structure(&mut self, name: &str, size: u32, of: &[(&str, u32, u32)]) -> u32 {
        let words = self.members(of);
        self.add(name, STRUCT, of.len(), size, &words)
    }

    pub(crate) fn union(&mut self, name: &str, size: u32, of: &[(&str, u32, u32)]) -> u32 {
        let words = self.members(of);
        self.add(name, UNION, of.len(), size, &words)
    }

    /// A struct with bitfields: members are name, type, bit offset and width, where 0
    /// stands for an ordinary member.
    pub(crate) fn bitfields(&mut self, name: &str, size: u32, of: &[(&str, u32, u32, u32)]) -> u32 {
        let words: Vec<_> = of
            .iter()
            .flat_map(|(name, id, offset, bits)| [self.string(name), *id, bits << 24 | offset])
            .collect();
        self.add(name, STRUCT | KIND_FLAG, of.len(), size, &words)
    }

    pub(crate) fn enumeration(&mut self, name: &str, of: &[(&str, i32)], signed: bool) -> u32 {
        let words: Vec<_> = of
            .iter()
            .flat_map(|(name, value)| [self.string(name), value.cast_unsigned()])
            .collect();
        let flag = if signed { KIND_FLAG } else { 0 };
        self.add(name, ENUM | flag, of.len(), 4, &words)
    }

    pub(crate) fn enumeration64(&mut self, name: &str, of: &[(&str, u64)]) -> u32 {
        let words: Vec<_> = of
            .iter()
            .flat_map(|(name, value)| [self.string(name), *value as u32, (value >> 32) as u32])
            .collect();
        self.add(name, ENUM64, of.len(), 8, &words)
    }

    pub(crate) fn forward(&mut self, name: &str) -> u32 {
        self.add(name, FWD, 0, 0, &[])
    }

    pub(crate) fn typedef(&mut self, name: &str, of: u32) -> u32 {
        self.add(name, TYPEDEF, 0, of, &[])
    }

    pub(crate) fn volatile(&mut self, of: u32) -> u32 {
        self.add("", VOLATILE, 0, of, &[])
    }

    pub(crate) fn constant(&mut self, of: u32) -> u32 {
        self.add("", CONST, 0, of, &[])
    }

    pub(crate) fn type_tag(&mut self, tag: &str, of: u32) -> u32 {
        self.add(tag, TYPE_TAG, 0, of, &[])
    }

    pub(crate) fn prototype(&mut self, parameters: &[(&str, u32)]) -> u32 {
        let words: Vec<_> = parameters
            .iter()
            .flat_map(|(name, id)| [self.string(name), *id])
            .collect();
        self.add("", FUNC_PROTO, parameters.len(), VOID, &words)
    }

    pub(crate) fn function(&mut self, name: &str, prototype: u32) -> u32 {
        self.add(name, FUNC, 0, prototype, &[])
    }

    pub(crate) fn tracepoint(&mut self, name: &str, parameters: &[(&str, u32)]) -> u32 {
        let data = self.pointer(VOID);
        let parameters: Vec<_> = std::iter::once(("__data", data))
            .chain(parameters.iter().copied())
            .collect();
        let prototype = self.prototype(&parameters);
        let pointer = self.pointer(prototype);
        self.typedef(&format!("btf_trace_{name}"), pointer)
    }

    /// The id that the next type will have, for references forward and in circles.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let types = self.types.len() as u32;
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types, types, self.strings.len() as u32] {
            bytes.extend(u32::to_le_bytes(word));
        }
        bytes.extend(&self.types);
        bytes.extend(&self.strings);
        bytes
    }

    pub(crate) fn parse(&self) -> KernelBtf {
        KernelBtf::from_bytes(&self.bytes()).expect("the writer writes valid BTF")
    }

    fn members(&mut self, of: &[(&str, u32, u32)]) -> Vec<u32> {
        of.iter()
            .flat_map(|(name, id, offset)| [self.string(name), *id, *offset])
            .collect()
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let offset = self.strings.len() as u32;
        self.strings.extend(text.as_bytes());
        self.strings.push(0);
        offset
    }

    fn add(&mut self, name: &str, kind: u32, count: usize, last: u32, words: &[u32]) -> u32 {
        let name = self.string(name);
        let info = (kind & KIND_FLAG) | (kind & !KIND_FLAG) << 24 | count as u32;
        for word in [name, info, last].iter().chain(words) {
            self.types.extend(word.to_le_bytes());
        }
        self.next += 1;
        self.next - 1
    }
}

/// What a made-up kernel does with a field.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Has {
    /// Has it as expected.
    Expected,
    /// Lacks it.
    Nothing,
    /// Has it with another size.
    Size(u32),
    /// Has it as a bitfield of that width, one bit off a byte boundary.
    Bits(u32),
}

/// A kernel that has the fields of `specs`, one after the other with `gap` bytes between
/// them, each as `has` says.
pub(crate) fn kernel(specs: &[FieldSpec], gap: u32, has: impl Fn(&FieldSpec) -> Has) -> Writer {
    let mut writer = Writer::new();
    let mut structures: Vec<&str> = specs.iter().map(|spec| spec.structure).collect();
    structures.dedup();
    for structure in structures {
        let mut members = Vec::new();
        let mut offset = 0;
        for spec in specs.iter().filter(|spec| spec.structure == structure) {
            let (size, bits) = match has(spec) {
                Has::Expected => (spec.size, 0),
                Has::Nothing => continue,
                Has::Size(size) => (size, 0),
                Has::Bits(bits) => (spec.size, bits),
            };
            let mut id = writer.int("int", size);
            let mut segments = spec.path.split('.');
            let outer = segments.next().unwrap_or_default();
            for inner in segments.rev() {
                id = writer.structure("", size, &[(inner, id, 0)]);
            }
            offset += gap;
            members.push((outer, id, offset * 8 + u32::from(bits != 0), bits));
            offset += size;
        }
        writer.bitfields(structure, offset, &members);
    }
    writer
}
