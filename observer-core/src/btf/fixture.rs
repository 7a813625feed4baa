//! A BTF writer, so that tests can make up kernels whose fields lie elsewhere, are
//! missing, or are bitfields.

use super::KernelBtf;

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
pub const VOID: u32 = 0;

/// Collects types; each method returns the id of the type it adds.
pub struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
    next: u32,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            types: Vec::new(),
            strings: vec![0],
            next: 1,
        }
    }
}

impl Writer {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn int(&mut self, name: &str, size: u32) -> u32 {
        self.add(name, INT, 0, size, &[size * 8])
    }

    pub fn pointer(&mut self, to: u32) -> u32 {
        self.add("", PTR, 0, to, &[])
    }

    pub fn array(&mut self, of: u32, elements: u32) -> u32 {
        self.add("", ARRAY, 0, 0, &[of, of, elements])
    }

    /// Members are name, type and bit offset.
    pub fn structure(&mut self, name: &str, size: u32, of: &[(&str, u32, u32)]) -> u32 {
        let words = self.members(of);
        self.add(name, STRUCT, of.len(), size, &words)
    }

    pub fn union(&mut self, name: &str, size: u32, of: &[(&str, u32, u32)]) -> u32 {
        let words = self.members(of);
        self.add(name, UNION, of.len(), size, &words)
    }

    /// A struct with bitfields: members are name, type, bit offset and width, where 0
    /// stands for an ordinary member.
    pub fn bitfields(&mut self, name: &str, size: u32, of: &[(&str, u32, u32, u32)]) -> u32 {
        let words: Vec<_> = of
            .iter()
            .flat_map(|(name, id, offset, bits)| [self.string(name), *id, bits << 24 | offset])
            .collect();
        self.add(name, STRUCT | KIND_FLAG, of.len(), size, &words)
    }

    pub fn enumeration(&mut self, name: &str, of: &[(&str, i32)], signed: bool) -> u32 {
        let words: Vec<_> = of
            .iter()
            .flat_map(|(name, value)| [self.string(name), value.cast_unsigned()])
            .collect();
        let flag = if signed { KIND_FLAG } else { 0 };
        self.add(name, ENUM | flag, of.len(), 4, &words)
    }

    pub fn enumeration64(&mut self, name: &str, of: &[(&str, u64)]) -> u32 {
        let words: Vec<_> = of
            .iter()
            .flat_map(|(name, value)| [self.string(name), *value as u32, (value >> 32) as u32])
            .collect();
        self.add(name, ENUM64, of.len(), 8, &words)
    }

    pub fn forward(&mut self, name: &str) -> u32 {
        self.add(name, FWD, 0, 0, &[])
    }

    pub fn typedef(&mut self, name: &str, of: u32) -> u32 {
        self.add(name, TYPEDEF, 0, of, &[])
    }

    pub fn volatile(&mut self, of: u32) -> u32 {
        self.add("", VOLATILE, 0, of, &[])
    }

    pub fn constant(&mut self, of: u32) -> u32 {
        self.add("", CONST, 0, of, &[])
    }

    pub fn type_tag(&mut self, tag: &str, of: u32) -> u32 {
        self.add(tag, TYPE_TAG, 0, of, &[])
    }

    pub fn prototype(&mut self, parameters: &[(&str, u32)]) -> u32 {
        let words: Vec<_> = parameters
            .iter()
            .flat_map(|(name, id)| [self.string(name), *id])
            .collect();
        self.add("", FUNC_PROTO, parameters.len(), VOID, &words)
    }

    pub fn function(&mut self, name: &str, prototype: u32) -> u32 {
        self.add(name, FUNC, 0, prototype, &[])
    }

    pub fn tracepoint(&mut self, name: &str, parameters: &[(&str, u32)]) -> u32 {
        let data = self.pointer(VOID);
        let parameters: Vec<_> = std::iter::once(("__data", data))
            .chain(parameters.iter().copied())
            .collect();
        let prototype = self.prototype(&parameters);
        let pointer = self.pointer(prototype);
        self.typedef(&format!("btf_trace_{name}"), pointer)
    }

    /// The id that the next type will have, for references forward and in circles.
    pub fn next(&self) -> u32 {
        self.next
    }

    pub fn bytes(&self) -> Vec<u8> {
        let types = self.types.len() as u32;
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types, types, self.strings.len() as u32] {
            bytes.extend(u32::to_le_bytes(word));
        }
        bytes.extend(&self.types);
        bytes.extend(&self.strings);
        bytes
    }

    pub fn parse(&self) -> KernelBtf {
        KernelBtf::from_bytes(self.bytes()).expect("the writer writes valid BTF")
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
