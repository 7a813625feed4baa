//! Everything that touches the kernel: the load table and its verdicts, field offsets
//! from BTF, maps, the ring, and taking in sockets that are older than the daemon.

mod attach;
pub mod btf;
mod cpu_stats;
mod fdinfo;
mod iterators;
pub mod ladder;
pub mod layout;
mod listeners;
mod live;
mod load;
mod map_iter;
mod mapped;
mod object;
mod plan;
mod ports;
pub mod programs;
mod reset_reasons;
mod resting;
pub mod resync;
mod ring;
mod selftest;
mod time_waits;
mod tracefs;

pub use btf::VMLINUX as KERNEL_BTF;
pub use layout::Absent;
pub use live::{Live, monotonic_ns};
pub use load::{Kernel, LoadError, LoadOptions, Loaded};
pub use programs::{POLLED_LISTEN, POLLED_PORTS};
pub use reset_reasons::reset_reasons;
pub use ring::Stream;
pub use tracefs::{field_offset, find_tracefs, mount_tracefs};
