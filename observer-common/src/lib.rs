//! What the kernel programs and the daemon share: the layout of every map value,
//! map key and ring-buffer record, and the few tables both sides must agree on.
//!
//! Rules for this crate:
//!
//! * `repr(C)`, no implicit padding, size and alignment asserted at compile time;
//! * integers on the wire, never a Rust `enum` (an unknown value would be undefined
//!   behaviour on the reading side);
//! * no pointers, no `usize`, nothing that depends on the host;
//! * `no_std` and no dependencies, because it is compiled for the BPF target too.

// proptest's macros need std.
#![cfg_attr(not(test), no_std)]
#![deny(missing_docs)]

mod call_args;
mod duration;
mod handover;
mod histogram;
mod outcome;
mod record;
mod signals;
mod slot;
mod socket;

pub use call_args::*;
pub use duration::*;
pub use handover::*;
pub use histogram::*;
pub use outcome::*;
pub use record::*;
pub use signals::*;
pub use slot::*;
pub use socket::*;

/// Types whose every bit pattern is valid and that have no padding, so that they can
/// be read from a map or a ring buffer as plain bytes.
///
/// # Safety
///
/// The implementor is `repr(C)`, consists of integers and arrays of integers only, and
/// has no padding bytes.
pub unsafe trait Pod: Copy + 'static {
    /// Reads a value from the start of `bytes`, or `None` when there are too few.
    /// A longer input is accepted: a newer kernel side may append fields.
    fn read_from(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        // SAFETY: the length was checked, the read is unaligned, and every bit pattern
        // is a valid value by the contract of this trait.
        Some(unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast()) })
    }
}

/// Asserts size, and that the fields add up to it, which means there is no padding.
macro_rules! assert_layout {
    ($type:ident, $size:expr, [$($field:ident : $field_type:ty),+ $(,)?]) => {
        const _: () = {
            assert!(size_of::<$type>() == $size);
            assert!(0 $(+ size_of::<$field_type>())+ == $size);
            // Naming each field here breaks the build when one is added or renamed.
            #[expect(dead_code, reason = "compiled for its type check only")]
            fn fields(value: $type) {
                let $type { $($field: _),+ } = value;
            }
        };
        // SAFETY: integers only, and the assertions above rule out padding.
        unsafe impl $crate::Pod for $type {}
        // SAFETY: as above.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    };
}
pub(crate) use assert_layout;

#[cfg(test)]
#[path = "lib_tests.rs"]
mod tests;
