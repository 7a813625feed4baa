//! The running kernel's type information (BTF): offsets of fields, arguments of tracepoints and
//! functions, numbers of enums. None of it is known at build time, because it differs between
//! kernels and, through backports, within one release.
//!
//! The bytes are not trusted: every walk over types is bounded, so that dangling and circular
//! references end in an error.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

pub use self::{types::Malformed, walk::Bits};
use self::{
    types::{Kind, Type, Types},
    walk::Broken,
};

#[cfg(any(test, feature = "testing"))]
pub mod fixture;
mod render;
#[cfg(test)]
mod tests;
mod types;
mod walk;

/// The kernel's BTF, if built with `CONFIG_DEBUG_INFO_BTF`.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Why the kernel's BTF cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file cannot be read; most often the kernel has none.
    #[error("cannot read BTF from {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The bytes are no BTF, or a version of it that is not known here.
    // Its text includes the cause.
    #[error("malformed BTF: {0}")]
    Malformed(Malformed),
    /// A file with such bytes.
    #[error("cannot use {path}", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The error in it.
        source: Box<Self>,
    },
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
        /// The size that the programs read.
        expected: u32,
        /// The size in the kernel.
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

/// Offset and size of a field, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// From the start of the outermost structure.
    pub offset: u32,
    /// Size of the field.
    pub size: u32,
}

/// A kernel's type information.
pub struct KernelBtf {
    types: Types,
}

impl KernelBtf {
    /// Reads a file: [`VMLINUX`], or one recorded on another kernel.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or is no BTF.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, BtfError> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|source| BtfError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::from_bytes(bytes).map_err(|error| BtfError::Unusable {
            path: path.to_owned(),
            source: Box::new(error),
        })
    }

    /// Reads BTF.
    ///
    /// # Errors
    ///
    /// When the bytes are none.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Self, BtfError> {
        let types = Types::new(bytes.into()).map_err(BtfError::Malformed)?;
        Ok(Self { types })
    }

    /// The bytes that were read.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.types.bytes()
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
        for (id, _) in self.types.named(structure) {
            let unqualified = self.types.unqualified(id);
            if !unqualified.is_ok_and(|it| matches!(it.kind, Kind::Struct | Kind::Union)) {
                continue;
            }
            known = true;
            let mut budget = walk::ENTERED;
            if let Some(place) = self
                .types
                .walk(id, path, &mut budget)
                .map_err(inconsistent)?
            {
                let bits = self.types.bits(&place).map_err(inconsistent)?;
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
        self.agreed(structure, |found| match found.kind {
            Kind::Struct | Kind::Union => Some(found.size_or_id),
            _ => None,
        })
    }

    /// Names and numbers of an enum. Numbers of a signed enum are sign-extended.
    #[must_use]
    pub fn enumerators(&self, name: &str) -> Option<Vec<(String, u64)>> {
        self.agreed(name, |found| match found.kind {
            Kind::Enum | Kind::Enum64 => {
                let owned = found
                    .enumerators()
                    .map(|(name, value)| (name.to_owned(), value));
                Some(owned.collect())
            }
            _ => None,
        })
    }

    /// The types of the arguments of a `tp_btf` program on a tracepoint, as C source. See
    /// [`Self::func_args`] for their form. `None` when the kernel has no such tracepoint.
    #[must_use]
    pub fn tracepoint_args(&self, tracepoint: &str) -> Option<Vec<String>> {
        // `typedef void (*btf_trace_NAME)(void *__data, ...)`, from
        // include/trace/bpf_probe.h.
        self.agreed(&format!("btf_trace_{tracepoint}"), |typedef| {
            let pointer = self.referred(typedef, Kind::Typedef)?;
            let proto = self.referred(pointer, Kind::Ptr)?;
            let mut args = self.args(proto)?;
            (!args.is_empty()).then(|| args.split_off(1))
        })
    }

    /// The types of a function's parameters, as C source: `struct sock *`, `int`, `u32`.
    /// `const` and its like are left out: they come and go between kernels and mean
    /// nothing to a BPF program. `None` when there is no such function, or several that
    /// differ.
    #[must_use]
    pub fn func_args(&self, function: &str) -> Option<Vec<String>> {
        self.agreed(function, |func| self.args(self.referred(func, Kind::Func)?))
    }

    /// Whether the kernel describes a function of that name.
    #[must_use]
    pub fn has_func(&self, function: &str) -> bool {
        let mut named = self.types.named(function);
        named.any(|(_, found)| found.kind == Kind::Func)
    }

    /// The type that `of` refers to, if `of` is of that kind.
    fn referred(&self, of: Type<'_>, kind: Kind) -> Option<Type<'_>> {
        (of.kind == kind).then(|| self.types.get(of.size_or_id))?
    }

    fn args(&self, proto: Type<'_>) -> Option<Vec<String>> {
        (proto.kind == Kind::FuncProto).then(|| self.types.args(proto))?
    }

    /// The result of `read` for the types called `name`, if it is the same for all for which it
    /// returns one.
    fn agreed<T: PartialEq>(&self, name: &str, read: impl Fn(Type<'_>) -> Option<T>) -> Option<T> {
        let named = self.types.named(name);
        let mut values = named.filter_map(|(_, found)| read(found));
        let first = values.next()?;
        values.all(|other| other == first).then_some(first)
    }
}

impl std::fmt::Debug for KernelBtf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelBtf").finish_non_exhaustive()
    }
}
