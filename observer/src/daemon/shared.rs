//! State shared by the jobs.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock, RwLockWriteGuard},
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};
use observer_common::ProcessKey;
use observer_core::{
    config::Settings,
    detect::{Engine, RecordedBinds, RecordedPeers},
    host::HostFacts,
    net::counters::NamespaceCounters,
    process::{fd_kinds::FdKinds, resources::ScanLimits},
    sync::write,
    table::{Snapshot, Table},
    walk::Walk,
};
use tokio::sync::watch;

use crate::kernel::Attached;

/// The shared state of the jobs.
#[derive(Clone)]
pub struct Shared {
    pub live: Arc<Attached>,
    pub facts: Arc<HostFacts>,
    pub table: Arc<RwLock<Table>>,
    /// The table's processes and names: each tick publishes them, for readers that take no lock.
    pub snapshot: watch::Sender<Arc<Snapshot>>,
    /// The last walk over connections, for readers that take no lock; the default before the first
    /// one and if the last one failed.
    pub walk: watch::Sender<Arc<Walk>>,
    /// The findings. Locked for writing for about a millisecond each tick.
    pub engine: Arc<RwLock<Engine>>,
    /// With whom connections fail, added by the reader of the ring.
    pub recorded_peers: Arc<RwLock<RecordedPeers>>,
    /// Failed calls of bind() and listen() since the last tick, added by the same.
    pub recorded_binds: Arc<RwLock<RecordedBinds>>,
    /// The kinds of descriptors of processes that may run out of them.
    pub fd_kinds: watch::Sender<Arc<HashMap<ProcessKey, Arc<FdKinds>>>>,
    /// Counters of network namespaces with sockets and processes.
    pub namespaces: watch::Sender<Arc<Vec<NamespaceCounters>>>,
}

impl Shared {
    /// Locks the table and adds processes that got a slot since the last tick. Otherwise their samples
    /// would count for `<other>`.
    pub fn discover(&self) -> RwLockWriteGuard<'_, Table> {
        let mut table = write(&self.table);
        table.discover(&*self.live, &*self.facts);
        table
    }
}

/// Settings of the counting of descriptors.
pub fn scan_limits(settings: &Settings) -> ScanLimits {
    ScanLimits {
        batch: settings.fd_batch as usize,
        interval: settings.fd_interval,
        // Some time before a finding may be raised.
        close_percent: (85.0 * settings.thresholds.fd_least_share()) as u64,
    }
}

/// Limits work to a small part of a CPU by a pause after each run.
pub struct Paced {
    next: Instant,
}

impl Paced {
    /// The first run is due at once.
    pub fn new() -> Self {
        Self {
            next: Instant::now(),
        }
    }

    /// Whether the pause is over.
    pub fn is_due(&self) -> bool {
        Instant::now() >= self.next
    }

    /// Sets the next run to after `pause`.
    pub fn pause(&mut self, pause: Duration) {
        self.next = Instant::now() + pause;
    }
}

/// The result of `work`, and its CPU time on this thread, which does not include waiting.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let cpu_time =
        || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from);
    let began = cpu_time();
    let result = work();
    (result, cpu_time().saturating_sub(began))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paced_work_pauses() {
        let mut pace = Paced::new();
        assert!(pace.is_due());
        pace.pause(Duration::from_secs(3600));
        assert!(!pace.is_due());
        pace.pause(Duration::ZERO);
        assert!(pace.is_due());
    }

    #[test]
    fn waiting_costs_nothing() {
        let (_, took) = timed(|| std::thread::sleep(Duration::from_millis(50)));
        assert!(took < Duration::from_millis(25), "{took:?}");
    }
}
