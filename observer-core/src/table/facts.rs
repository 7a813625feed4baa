//! What the table needs to know about processes, as a trait, so that the table reads no files.

use observer_common::{ProcessKey, Slot};

pub use crate::process::identity::Liveness;
use crate::process::{Unit, own::OwnProcess};

/// How a process is labelled when its slot is first seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Whether it had ended by then.
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
    /// Maximum number of descriptors seen open.
    pub fd_high_water: Option<u64>,
}

/// Answers about processes.
pub trait ProcessFacts: Send + Sync {
    /// Whether this process still runs, as opposed to another one with the same pid. Called at every
    /// tick for every process, so it should take a look-up or one system call.
    fn liveness(&self, process: &ProcessKey) -> Liveness;
    /// The labels of a process. Called once, when its slot is first seen; may read files. Only the
    /// identity fields of `slot` are set.
    fn describe(&self, slot: &Slot) -> Description;
    /// The process's descriptors. Called at every scrape, so it must not read files.
    fn resources(&self, process: &ProcessKey) -> Resources;
    /// The observer's own process. Likewise.
    fn own(&self) -> OwnProcess;
}
