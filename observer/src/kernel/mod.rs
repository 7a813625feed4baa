//! Everything that touches the kernel: the load table and its verdicts, field offsets
//! from BTF, maps, the ring, and taking in sockets that are older than the daemon.

pub mod btf;
pub mod layout;
pub mod live;
pub mod load;
pub mod mapped;
pub mod programs;
pub mod resync;
pub mod source;
pub mod verdict;
