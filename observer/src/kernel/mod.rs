//! Everything that touches the kernel: the load table and its verdicts, field offsets
//! from BTF, maps, the ring, and taking in sockets that are older than the daemon.

mod attach;
pub mod btf;
pub mod ladder;
pub mod layout;
mod live;
mod load;
mod mapped;
mod object;
mod plan;
pub mod programs;
pub mod resync;
mod ring;
mod selftest;
pub mod source;
mod tracefs;
pub mod verdict;

pub use btf::VMLINUX as KERNEL_BTF;
pub use layout::Absent;
pub use live::{Live, monotonic_ns};
pub use load::{Kernel, LoadError, LoadOptions, Loaded};
pub use ring::Stream;
pub use tracefs::{field_offset, find_tracefs, mount_tracefs};
