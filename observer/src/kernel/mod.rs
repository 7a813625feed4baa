//! Everything that touches the kernel: the load table and its verdicts, field offsets
//! from BTF, maps, the ring, and taking in sockets that are older than the daemon.

mod attached;
mod facts;
mod hooks;
mod loader;
mod maps;
mod program_stats;

use attached as live;
pub use attached::{Live, monotonic_ns};
use facts::tracefs;
pub use facts::{btf, fields as layout};
pub use facts::{
    btf::VMLINUX as KERNEL_BTF,
    fields::Absent,
    reset_reasons::reset_reasons,
    tracefs::{field_offset, find_tracefs, mount_tracefs},
};
pub use hooks::table::{POLLED_LISTEN, POLLED_PORTS};
pub use hooks::{spec as ladder, table as programs};
use loader as load;
pub use loader::{Kernel, LoadError, LoadOptions, Loaded};
use maps::{listeners, ports};
pub use maps::{open_files as resync, ring::Stream};
use program_stats as fdinfo;
