//! The running kernel's own type information (BTF): where a field lies, what a tracepoint
//! passes, how an enum is numbered. Nothing here is known at build time, because all of it
//! differs between kernels and, through backports, within one.
//!
//! The bytes come from outside and are not trusted: every walk over types is bounded, so
//! that dangling and circular references end in an error.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use btf_rs::{Btf, BtfType, FuncProto, Member, Type};

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

/// Where the kernel shows its BTF, when built with `CONFIG_DEBUG_INFO_BTF`.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Size of a pointer: the programs run on 64-bit kernels only.
const POINTER: u64 = 8;

/// References followed from one type to the next before they count as circular. The
/// longest chain of typedefs and qualifiers in a kernel is below ten.
const CHAIN: usize = 64;

/// Structs and unions entered in one look-up. A `task_struct` has some dozens of
/// anonymous ones.
const ENTERED: usize = 10_000;

/// Why the kernel's BTF cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file cannot be read; most often the kernel has none.
    #[error("cannot read BTF from {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes are no BTF, or a version of it that is not known here.
    #[error("malformed BTF")]
    Malformed(#[source] btf_rs::Error),
}

/// Why a field cannot be read by a kernel program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The kernel has no such structure.
    #[error("the kernel has no struct {structure}")]
    NoStruct {
        /// Its name.
        structure: String,
    },
    /// The structure has no such member.
    #[error("struct {structure} has no member {path}")]
    NoMember {
        /// The structure.
        structure: String,
        /// The dotted path.
        path: String,
    },
    /// The member does not fill whole bytes, so a plain load cannot read it.
    #[error("{structure}.{path} is a bitfield of {} bits", place.bits)]
    Bitfield {
        /// The structure.
        structure: String,
        /// The dotted path.
        path: String,
        /// Where it lies.
        place: Bits,
    },
    /// The member has another size than the programs were written for.
    #[error("{structure}.{path} has {found} bytes where {expected} were expected")]
    Size {
        /// The structure.
        structure: String,
        /// The dotted path.
        path: String,
        /// What the programs read.
        expected: u32,
        /// What the kernel has.
        found: u32,
    },
    /// Several structures of that name have the member in different places.
    #[error("the kernel has several structs {structure} that disagree about {path}")]
    Ambiguous {
        /// The structure.
        structure: String,
        /// The dotted path.
        path: String,
    },
    /// The type information contradicts itself.
    #[error("the type information about {structure}.{path} is inconsistent")]
    Inconsistent {
        /// The structure.
        structure: String,
        /// The dotted path.
        path: String,
    },
}

/// Where a field lies, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// From the start of the outermost structure.
    pub offset: u32,
    /// Size of the field.
    pub size: u32,
}

/// Where a field lies, in bits. Bits are counted from the least significant one, as
/// little-endian kernels lay them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits {
    /// The byte the first bit is in.
    pub byte_offset: u32,
    /// The first bit within that byte.
    pub bit_offset: u32,
    /// How many bits.
    pub bits: u32,
}

/// A dangling or circular reference.
#[derive(Debug)]
struct Broken;

/// A member that was found: `bits` is set for bitfields.
struct Place {
    bit_offset: u64,
    type_id: u32,
    bits: Option<u32>,
}

/// A kernel's type information.
pub struct KernelBtf {
    btf: Btf,
}

impl KernelBtf {
    /// Reads the running kernel's.
    pub fn from_sys_fs() -> Result<Self, BtfError> {
        Self::from_file(VMLINUX)
    }

    /// Reads a file, such as one recorded on another kernel.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, BtfError> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|source| BtfError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::from_bytes(&bytes)
    }

    /// Parses BTF.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BtfError> {
        // This is the backend that parses everything up front and so finds all errors
        // here. The other one maps the file, which older kernels do not allow.
        Btf::from_bytes(bytes)
            .map(|btf| Self { btf })
            .map_err(BtfError::Malformed)
    }

    /// Finds the member at the dotted `path`, through embedded and anonymous structs and
    /// unions. A segment may index an array: `regs[2]`.
    pub fn member(&self, structure: &str, path: &str) -> Result<Field, LayoutError> {
        let place = self.bitfield(structure, path)?;
        if place.bit_offset != 0 || place.bits % 8 != 0 {
            return Err(LayoutError::Bitfield {
                structure: structure.to_owned(),
                path: path.to_owned(),
                place,
            });
        }
        Ok(Field {
            offset: place.byte_offset,
            size: place.bits / 8,
        })
    }

    /// Like [`Self::member`], for members that may be bitfields.
    pub fn bitfield(&self, structure: &str, path: &str) -> Result<Bits, LayoutError> {
        let inconsistent = |Broken| LayoutError::Inconsistent {
            structure: structure.to_owned(),
            path: path.to_owned(),
        };
        let mut known = false;
        let mut found = None;
        // One name may stand for several types: copies that the BTF writer could not
        // merge, or private structures of unrelated files.
        for id in self.ids(structure) {
            let Ok(kind) = self.unqualified(id) else {
                continue;
            };
            if !matches!(kind, Type::Struct(_) | Type::Union(_)) {
                continue;
            }
            known = true;
            let mut budget = ENTERED;
            if let Some(place) = self.walk(id, path, &mut budget).map_err(inconsistent)? {
                let bits = self.bits(&place).map_err(inconsistent)?;
                if found.is_some_and(|other| other != bits) {
                    return Err(LayoutError::Ambiguous {
                        structure: structure.to_owned(),
                        path: path.to_owned(),
                    });
                }
                found = Some(bits);
            }
        }
        found.ok_or_else(|| match known {
            true => LayoutError::NoMember {
                structure: structure.to_owned(),
                path: path.to_owned(),
            },
            false => LayoutError::NoStruct {
                structure: structure.to_owned(),
            },
        })
    }

    /// Size of a structure in bytes, `None` when the kernel has none of that name or
    /// several of different sizes.
    #[must_use]
    pub fn size(&self, structure: &str) -> Option<u32> {
        self.agreed(structure, |kind| match kind {
            Type::Struct(it) | Type::Union(it) => u32::try_from(it.size()).ok(),
            _ => None,
        })
    }

    /// Names and numbers of an enum. Numbers of a signed enum are sign-extended.
    #[must_use]
    pub fn enumerators(&self, name: &str) -> Option<Vec<(String, u64)>> {
        self.agreed(name, |kind| match kind {
            Type::Enum(it) => it
                .members
                .iter()
                .map(|member| {
                    let value = match it.is_signed() {
                        true => i64::from(member.val().cast_signed()).cast_unsigned(),
                        false => u64::from(member.val()),
                    };
                    Some((self.btf.resolve_name(member).ok()?, value))
                })
                .collect(),
            Type::Enum64(it) => it
                .members
                .iter()
                .map(|member| Some((self.btf.resolve_name(member).ok()?, member.val())))
                .collect(),
            _ => None,
        })
    }

    /// The types of what a tracepoint passes to a `tp_btf` program, as C source. See
    /// [`Self::func_args`] for their form. `None` when the kernel has no such tracepoint.
    #[must_use]
    pub fn tracepoint_args(&self, tracepoint: &str) -> Option<Vec<String>> {
        // `typedef void (*btf_trace_NAME)(void *__data, ...)`, from
        // include/trace/bpf_probe.h.
        self.agreed(&format!("btf_trace_{tracepoint}"), |kind| {
            let Type::Typedef(typedef) = kind else {
                return None;
            };
            let Ok(Type::Ptr(pointer)) = self.btf.resolve_chained_type(&typedef) else {
                return None;
            };
            let Ok(Type::FuncProto(proto)) = self.btf.resolve_chained_type(&pointer) else {
                return None;
            };
            let mut args = self.args(&proto)?;
            (!args.is_empty()).then(|| args.split_off(1))
        })
    }

    /// The types of a function's parameters, as C source: `struct sock *`, `int`, `u32`.
    /// `const` and its like are left out: they come and go between kernels and mean
    /// nothing to a BPF program. `None` when there is no such function, or several that
    /// differ.
    #[must_use]
    pub fn func_args(&self, function: &str) -> Option<Vec<String>> {
        self.agreed(function, |kind| {
            let Type::Func(func) = kind else { return None };
            match self.btf.resolve_chained_type(&func) {
                Ok(Type::FuncProto(proto)) => self.args(&proto),
                _ => None,
            }
        })
    }

    /// Whether the kernel describes a function of that name.
    #[must_use]
    pub fn has_func(&self, function: &str) -> bool {
        self.ids(function)
            .into_iter()
            .any(|id| matches!(self.btf.resolve_type_by_id(id), Ok(Type::Func(_))))
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        match name {
            // btf-rs would return every anonymous type.
            "" => Vec::new(),
            _ => self.btf.resolve_ids_by_name(name).unwrap_or_default(),
        }
    }

    /// What `read` makes of the types called `name`, if it makes the same of all of which
    /// it makes anything.
    fn agreed<T: PartialEq>(&self, name: &str, read: impl Fn(Type) -> Option<T>) -> Option<T> {
        let mut values = self
            .ids(name)
            .into_iter()
            .filter_map(|id| read(self.btf.resolve_type_by_id(id).ok()?));
        let first = values.next()?;
        values.all(|other| other == first).then_some(first)
    }

    fn name(&self, of: &dyn BtfType) -> String {
        self.btf.resolve_name(of).unwrap_or_default()
    }

    /// The type behind typedefs, qualifiers and type tags.
    fn unqualified(&self, id: u32) -> Result<Type, Broken> {
        let mut kind = self.btf.resolve_type_by_id(id).map_err(|_| Broken)?;
        for _ in 0..CHAIN {
            let next = match &kind {
                Type::Typedef(it) => self.btf.resolve_chained_type(it),
                Type::Const(it) | Type::Volatile(it) | Type::Restrict(it) => {
                    self.btf.resolve_chained_type(it)
                }
                Type::TypeTag(it) => self.btf.resolve_chained_type(it),
                _ => return Ok(kind),
            };
            kind = next.map_err(|_| Broken)?;
        }
        Err(Broken)
    }

    fn size_of(&self, id: u32) -> Result<u64, Broken> {
        let mut id = id;
        let mut elements = 1_u64;
        for _ in 0..CHAIN {
            let size = match self.unqualified(id)? {
                Type::Array(it) => {
                    elements = elements.checked_mul(it.len() as u64).ok_or(Broken)?;
                    id = it.get_type_id().ok_or(Broken)?;
                    continue;
                }
                Type::Int(it) => it.size() as u64,
                Type::Float(it) => it.size() as u64,
                Type::Enum(it) => it.size() as u64,
                Type::Enum64(it) => it.size() as u64,
                Type::Struct(it) | Type::Union(it) => it.size() as u64,
                Type::Ptr(_) => POINTER,
                _ => return Err(Broken),
            };
            return elements.checked_mul(size).ok_or(Broken);
        }
        Err(Broken)
    }

    fn bits(&self, place: &Place) -> Result<Bits, Broken> {
        let bits = match place.bits {
            Some(bits) => bits,
            None => self
                .size_of(place.type_id)?
                .checked_mul(8)
                .and_then(|bits| u32::try_from(bits).ok())
                .ok_or(Broken)?,
        };
        let byte_offset = u32::try_from(place.bit_offset / 8).map_err(|_| Broken)?;
        Ok(Bits {
            byte_offset,
            bit_offset: (place.bit_offset % 8) as u32,
            bits,
        })
    }

    /// Follows `path` from the structure `id`.
    fn walk(&self, id: u32, path: &str, budget: &mut usize) -> Result<Option<Place>, Broken> {
        let mut place = Place {
            bit_offset: 0,
            type_id: id,
            bits: None,
        };
        for segment in path.split('.') {
            let (name, index) = match segment.strip_suffix(']').and_then(|it| it.split_once('[')) {
                Some((name, index)) => match index.parse::<u64>() {
                    Ok(index) => (name, Some(index)),
                    Err(_) => return Ok(None),
                },
                None => (segment, None),
            };
            let base = place.bit_offset;
            let Some(inner) = self.find(place.type_id, name, budget)? else {
                return Ok(None);
            };
            place = inner;
            place.bit_offset = base.checked_add(place.bit_offset).ok_or(Broken)?;
            if let Some(index) = index {
                match self.unqualified(place.type_id)? {
                    Type::Array(array) if index < array.len() as u64 => {
                        place.type_id = array.get_type_id().ok_or(Broken)?;
                        place.bit_offset = self
                            .size_of(place.type_id)?
                            .checked_mul(8)
                            .and_then(|bits| bits.checked_mul(index))
                            .and_then(|bits| bits.checked_add(place.bit_offset))
                            .ok_or(Broken)?;
                    }
                    _ => return Ok(None),
                }
            }
        }
        Ok(Some(place))
    }

    /// Finds the member `name` of the structure `id` or of one of its anonymous members.
    fn find(&self, id: u32, name: &str, budget: &mut usize) -> Result<Option<Place>, Broken> {
        // A list and not a recursion: hostile BTF would decide how deep the stack goes.
        let mut pending = vec![(id, 0_u64)];
        while let Some((id, base)) = pending.pop() {
            *budget = budget.checked_sub(1).ok_or(Broken)?;
            let (Type::Struct(it) | Type::Union(it)) = self.unqualified(id)? else {
                continue;
            };
            for member in &it.members {
                let type_id = member.get_type_id().ok_or(Broken)?;
                let bit_offset = base
                    .checked_add(u64::from(member.bit_offset()))
                    .ok_or(Broken)?;
                let member_name = self.name(member);
                if member_name == name {
                    return Ok(Some(Place {
                        bit_offset,
                        type_id,
                        bits: bitfield_size(member),
                    }));
                }
                if member_name.is_empty() && pending.len() < ENTERED {
                    pending.push((type_id, bit_offset));
                }
            }
        }
        Ok(None)
    }

    fn args(&self, proto: &FuncProto) -> Option<Vec<String>> {
        proto
            .parameters
            .iter()
            .map(|parameter| match parameter.is_variadic() {
                true => Some("...".to_owned()),
                false => self.render(parameter.get_type_id()?),
            })
            .collect()
    }

    /// A type as C source, without qualifiers.
    fn render(&self, id: u32) -> Option<String> {
        let mut id = id;
        let mut suffix = String::new();
        for _ in 0..CHAIN {
            let kind = self.btf.resolve_type_by_id(id).ok()?;
            let name = match &kind {
                Type::Ptr(it) => {
                    suffix.insert(0, '*');
                    id = it.get_type_id()?;
                    continue;
                }
                Type::Const(it) | Type::Volatile(it) | Type::Restrict(it) => {
                    id = it.get_type_id()?;
                    continue;
                }
                Type::TypeTag(it) => {
                    id = it.get_type_id()?;
                    continue;
                }
                Type::Void => "void".to_owned(),
                Type::Int(it) => self.name(it),
                Type::Float(it) => self.name(it),
                Type::Typedef(it) => self.name(it),
                Type::Struct(it) => format!("struct {}", self.name(it)),
                Type::Union(it) => format!("union {}", self.name(it)),
                Type::Enum(it) => format!("enum {}", self.name(it)),
                Type::Enum64(it) => format!("enum {}", self.name(it)),
                Type::Fwd(it) if it.is_union() => format!("union {}", self.name(it)),
                Type::Fwd(it) => format!("struct {}", self.name(it)),
                Type::FuncProto(_) => "function".to_owned(),
                _ => return None,
            };
            return Some(match suffix.is_empty() {
                true => name,
                false => format!("{name} {suffix}"),
            });
        }
        None
    }
}

impl std::fmt::Debug for KernelBtf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelBtf").finish_non_exhaustive()
    }
}

/// The width of a bitfield; `None` for an ordinary member, which a structure that has
/// bitfields describes with a width of zero.
fn bitfield_size(member: &Member) -> Option<u32> {
    member.bitfield_size().filter(|bits| *bits != 0)
}
