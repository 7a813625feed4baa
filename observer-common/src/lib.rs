//! Types and tables that the kernel programs and the daemon share: the layouts of all map keys, map
//! values and ring-buffer records, and the meaning of indices in them.
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
mod errno;
mod handover;
mod histogram;
mod metric;
mod outcome;
mod pod;
mod process;
mod record;
mod scan;
mod signal;
mod signals;
mod slot;
mod socket;

pub use call_args::*;
pub use duration::*;
pub use errno::ERRNOS;
pub use handover::*;
pub use histogram::*;
pub use metric::*;
pub use outcome::*;
pub use pod::Pod;
pub(crate) use pod::assert_layout;
pub use process::*;
pub use record::*;
pub use scan::*;
pub use signal::*;
pub use signals::*;
pub use slot::*;
pub use socket::*;

#[cfg(test)]
#[path = "lib_tests.rs"]
mod tests;
