//! Code that depends on the instruction set.

use object::elf;

use super::{arm64, body::Body, x86};

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    X86_64,
    Aarch64,
}

impl Machine {
    /// That of the running machine, if it is known here.
    pub const RUNNING: Option<Self> = if cfg!(target_arch = "x86_64") {
        Some(Self::X86_64)
    } else if cfg!(target_arch = "aarch64") {
        Some(Self::Aarch64)
    } else {
        None
    };

    /// `e_machine` of its ELF files.
    pub fn elf(self) -> u16 {
        match self {
            Self::X86_64 => elf::EM_X86_64,
            Self::Aarch64 => elf::EM_AARCH64,
        }
    }

    /// The type of a relocation that adds the load address to an addend.
    pub fn relative(self) -> u32 {
        match self {
            Self::X86_64 => elf::R_X86_64_RELATIVE,
            Self::Aarch64 => elf::R_AARCH64_RELATIVE,
        }
    }

    /// The unit of code lengths in Go's tables (`MinLC` in cmd/internal/sys), in bytes.
    pub fn go_quantum(self) -> u8 {
        match self {
            Self::X86_64 => 1,
            Self::Aarch64 => 4,
        }
    }

    /// Whether `code`, which begins at `address` and may be longer than the function, begins with
    /// instructions.
    pub fn is_code(self, code: &[u8], address: u64) -> bool {
        match self {
            Self::X86_64 => x86::is_code(code),
            Self::Aarch64 => arm64::is_code(code, address),
        }
    }

    /// Decodes a function whose `code` contains nothing else but padding. `None` if that is not possible
    /// up to its end.
    pub fn body(self, code: &[u8]) -> Option<Body> {
        match self {
            Self::X86_64 => x86::body(code),
            Self::Aarch64 => arm64::body(code),
        }
    }

    /// The address that a function at `address` returns, if that is all it does.
    pub fn returned_address(self, code: &[u8], address: u64) -> Option<u64> {
        match self {
            Self::X86_64 => x86::returned_address(code, address),
            Self::Aarch64 => arm64::returned_address(code, address),
        }
    }

    /// The offset of the 32-bit member of its first argument that a function returns, in bytes. `None`
    /// if it returns several.
    pub fn returned_member(self, code: &[u8]) -> Option<u32> {
        match self {
            Self::X86_64 => x86::returned_member(code),
            Self::Aarch64 => arm64::returned_member(code),
        }
    }
}
