//! Reads of memory. The permitted way depends on the program type, so code that several
//! types share is generic over it.

use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_user};

/// A way to read memory.
pub trait Memory {
    /// Reads a `T` at `base + offset`; zero if the read faults.
    ///
    /// # Safety
    ///
    /// `base` was obtained from the kernel for an object that has a `T` at `offset` (any address for [`User`]), and
    /// any bit pattern is a valid `T`.
    unsafe fn read<T: Copy + Default>(base: *const u8, offset: usize) -> T;
}

/// Loads that the verifier checks: from the value of a map; or through BTF pointers, where a fault reads zero (typed
/// arguments of `tp_btf`, fentry and iterator programs, within the pointer's type).
pub struct Direct;

impl Memory for Direct {
    #[inline(always)]
    unsafe fn read<T: Copy + Default>(base: *const u8, offset: usize) -> T {
        // SAFETY: passed on to the caller; the verifier refuses anything else.
        unsafe { *base.add(offset).cast::<T>() }
    }
}

/// Reads with `bpf_probe_read_kernel`: any address, any program type.
pub struct Probe;

impl Memory for Probe {
    #[inline(always)]
    unsafe fn read<T: Copy + Default>(base: *const u8, offset: usize) -> T {
        // SAFETY: the helper refuses bad addresses itself.
        unsafe { bpf_probe_read_kernel(base.wrapping_add(offset).cast::<T>()) }.unwrap_or_default()
    }
}

/// An address as a number, for exported functions: the verifier does not take pointers of the context for numbers.
#[inline(always)]
pub fn number(pointer: *const u8) -> u64 {
    // SAFETY: reads the variable itself.
    unsafe { Probe::read((&raw const pointer).cast(), 0) }
}

/// Reads memory of the running process with `bpf_probe_read_user`. The process chooses the address, and may change what is
/// there at any time.
pub struct User;

impl Memory for User {
    #[inline(always)]
    unsafe fn read<T: Copy + Default>(base: *const u8, offset: usize) -> T {
        // SAFETY: the helper refuses addresses that are not those of the process.
        unsafe { bpf_probe_read_user(base.wrapping_add(offset).cast::<T>()) }.unwrap_or_default()
    }
}
