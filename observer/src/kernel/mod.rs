//! All kernel access: properties of the running kernel (`facts`), declarations of all programs (`hooks`),
//! loading and attaching (`loader`), programs on functions of user space (`uprobes`), and the maps of the
//! attached programs (`maps`, `attached`).

mod attached;
mod bpf;
mod clock;
mod facts;
mod hooks;
mod iter;
mod loader;
mod maps;
mod options;
mod program_stats;
mod uprobes;

pub use attached::Attached;
pub use clock::monotonic_ns;
pub use facts::{
    fields,
    fields::Absent,
    reset_reasons::reset_reasons,
    tracefs::{field_offset, find_tracefs, mount_tracefs},
};
pub use hooks::{
    spec::{Attach, check_args},
    table,
};
pub use loader::{Inputs, Kernel, LoadError, Loaded, OBJECT};
pub use maps::{open_files::Resynced, ring::Stream, tls::Tls};
pub use options::LoadOptions;
pub use uprobes::Contents;
