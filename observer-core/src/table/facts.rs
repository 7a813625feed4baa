//! What the table asks about processes, as a trait: the answers come from /proc and
//! cgroups, which the table does not touch.

use observer_common::{ProcessKey, Slot};

use crate::process::Unit;
pub use crate::process::identity::Liveness;

/// How a process is labelled when its slot is first seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Whether it had exited by then.
    pub gone: bool,
    /// Its comm. `None` falls back to the comm that the kernel programs recorded.
    pub comm: Option<Vec<u8>>,
    /// Its systemd unit or container; the default when there is none.
    pub unit: Unit,
}

/// A process's descriptors; each is absent when it could not be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Open descriptors.
    pub open_fds: Option<u64>,
    /// Soft limit on open descriptors.
    pub max_fds: Option<u64>,
    /// The most descriptors ever seen open.
    pub fd_high_water: Option<u64>,
}

/// Answers about processes.
pub trait ProcessFacts: Send + Sync {
    /// Whether this very process still runs: a process that took over its pid is another.
    /// Asked at every tick for every process, so it should cost a look-up or one system
    /// call.
    fn liveness(&self, process: &ProcessKey) -> Liveness;
    /// How to label a process. Asked once, when its slot is first seen; may read files.
    /// Only the identity fields of `slot` are filled in.
    fn describe(&self, slot: &Slot) -> Description;
    /// The process's descriptors. Asked at every scrape, so it must answer from memory.
    fn resources(&self, process: &ProcessKey) -> Resources;
}
