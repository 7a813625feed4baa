//! Information about processes, as a trait, so that the table reads no files.

use observer_common::{ProcessKey, Slot};

use crate::process::{Unit, own::OwnProcess};
pub use crate::process::{identity::Liveness, resources::Resources};

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

/// Answers about processes.
pub trait ProcessFacts: Send + Sync {
    /// Whether this process still runs, as opposed to another one with the same pid. Called at
    /// every tick for every process, so it should cost a lookup or one system call.
    fn liveness(&self, process: &ProcessKey) -> Liveness;
    /// The labels of a process. Called once, when its slot is first seen; may read files. Only the
    /// identity fields of `slot` are set.
    fn describe(&self, slot: &Slot) -> Description;
    /// The process's descriptors. Called at every scrape, so it must not read files.
    fn resources(&self, process: &ProcessKey) -> Resources;
    /// The observer's own process, as of the last tick.
    fn own(&self) -> OwnProcess;
}
