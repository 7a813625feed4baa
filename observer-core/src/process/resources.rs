//! Descriptor use of all watched processes, refreshed a few at a time.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Mutex,
    time::Duration,
};

use observer_common::ProcessKey;

use super::{
    ProcError, ProcRoot,
    fds::{FdMethod, OpenFds, count_open, parse_max_open_files},
    identity::Stat,
};
use crate::sync::lock;

/// A process's descriptors. The default is that of a process that was not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Open file descriptors; `None` when they may not be counted.
    pub open_fds: Option<u64>,
    /// Soft limit on their number, `RLIMIT_NOFILE`; `u64::MAX` when unlimited, `None` when not readable.
    pub max_fds: Option<u64>,
    /// The most that were open at any measurement.
    pub fd_high_water: Option<u64>,
    /// CLOCK_MONOTONIC at the last measurement.
    pub measured_at: Duration,
}

/// What a scan may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanLimits {
    /// The most processes measured per call.
    pub batch: usize,
    /// The least time between two measurements of one process.
    pub interval: Duration,
}

impl Default for ScanLimits {
    fn default() -> Self {
        Self {
            batch: 256,
            interval: Duration::from_secs(1),
        }
    }
}

/// What one call did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Processes measured, at least in part.
    pub measured: usize,
    /// Of those, processes whose descriptors may not be counted.
    pub denied: usize,
    /// Processes that could not be measured for another reason; they keep their values.
    pub failed: usize,
    /// Processes that are gone. They keep their last values until they are no longer among
    /// the live ones, and are not measured again.
    pub gone: Vec<ProcessKey>,
}

/// Measures descriptor use, round-robin: never measured first, then the oldest
/// measurement. One process costs a stat, and two reads of short files.
pub struct ResourceScanner {
    root: ProcRoot,
    method: FdMethod,
    /// Not locked while a process is measured, which can take long: before 6.2, half a million
    /// descriptors take a second. A scrape does not wait for it.
    state: Mutex<State>,
}

struct State {
    limits: ScanLimits,
    /// Those to be measured, the oldest measurement at the front.
    queue: VecDeque<ProcessKey>,
    processes: HashMap<ProcessKey, Option<Resources>>,
}

impl ResourceScanner {
    /// A scanner that watches nothing yet. Finds out how this kernel counts descriptors.
    #[must_use]
    pub fn new(root: ProcRoot, limits: ScanLimits) -> Self {
        let method = FdMethod::detect(&root);
        Self {
            root,
            method,
            state: Mutex::new(State {
                limits,
                queue: VecDeque::new(),
                processes: HashMap::new(),
            }),
        }
    }

    /// How descriptors are counted on this kernel.
    #[must_use]
    pub const fn method(&self) -> FdMethod {
        self.method
    }

    /// Changes the pace.
    pub fn set_limits(&self, limits: ScanLimits) {
        lock(&self.state).limits = limits;
    }

    /// Tells which processes are live. Others are forgotten, their peaks included.
    pub fn set_live(&self, live: impl IntoIterator<Item = ProcessKey>) {
        let live: HashSet<ProcessKey> = live.into_iter().collect();
        let State {
            queue, processes, ..
        } = &mut *lock(&self.state);
        processes.retain(|key, _| live.contains(key));
        queue.retain(|key| live.contains(key));
        for key in live {
            processes.entry(key).or_insert_with(|| {
                queue.push_front(key);
                None
            });
        }
    }

    /// What is known of a process: `None` before its first measurement.
    #[must_use]
    pub fn get(&self, key: &ProcessKey) -> Option<Resources> {
        lock(&self.state).get(key).copied()
    }

    /// Measures the processes that are due at `now` (CLOCK_MONOTONIC), at most one batch of them.
    pub fn scan(&self, now: Duration) -> Scan {
        let mut scan = Scan::default();
        let turns = lock(&self.state).turns();
        for _ in 0..turns {
            let Some(key) = lock(&self.state).next_due(now) else {
                break;
            };
            let outcome = self.measure(&key, now);
            lock(&self.state).note(key, outcome, &mut scan);
        }
        scan
    }

    fn measure(&self, key: &ProcessKey, now: Duration) -> Result<Option<Resources>, ProcError> {
        let Some(stat) = Stat::read(&self.root, key.tgid)? else {
            return Ok(None);
        };
        if !stat.is(key) || stat.has_exited() {
            return Ok(None);
        }
        let open_fds = match count_open(&self.root, key.tgid, &stat, self.method)? {
            OpenFds::Open(count) => Some(count),
            OpenFds::Denied => None,
            OpenFds::Gone => return Ok(None),
        };
        let Some(limits) = self.root.read(key.tgid, "limits")? else {
            return Ok(None);
        };
        let max_fds = parse_max_open_files(&limits)?;
        // A process that ended after the first look may have left its pid to another.
        match Stat::read(&self.root, key.tgid)? {
            Some(stat) if stat.is(key) => {}
            _ => return Ok(None),
        }
        Ok(Some(Resources {
            open_fds,
            fd_high_water: open_fds,
            max_fds: Some(max_fds),
            measured_at: now,
        }))
    }
}

impl State {
    fn get(&self, key: &ProcessKey) -> Option<&Resources> {
        self.processes.get(key)?.as_ref()
    }

    /// How many processes one scan may measure.
    fn turns(&self) -> usize {
        self.limits.batch.min(self.queue.len())
    }

    /// The process to be measured next, if one is due; `note` takes the outcome.
    fn next_due(&mut self, now: Duration) -> Option<ProcessKey> {
        let key = self.queue.pop_front()?;
        if let Some(before) = self.get(&key)
            && now.saturating_sub(before.measured_at) < self.limits.interval
        {
            // The queue is in the order of age, so none of the others is due either. One
            // whose measurement failed has lost its place and waits with them.
            self.queue.push_front(key);
            return None;
        }
        Some(key)
    }

    /// Takes in what a measurement came to.
    fn note(
        &mut self,
        key: ProcessKey,
        outcome: Result<Option<Resources>, ProcError>,
        scan: &mut Scan,
    ) {
        match outcome {
            Ok(Some(measured)) => {
                scan.measured += 1;
                scan.denied += usize::from(measured.open_fds.is_none());
                let before = self.get(&key).and_then(|old| old.fd_high_water);
                let fd_high_water = measured.fd_high_water.max(before);
                self.processes.insert(
                    key,
                    Some(Resources {
                        fd_high_water,
                        ..measured
                    }),
                );
                self.queue.push_back(key);
            }
            Ok(None) => scan.gone.push(key),
            Err(error) => {
                tracing::debug!(pid = key.tgid, %error, "cannot measure process");
                scan.failed += 1;
                // What was measured last may not be so any more.
                let unknown = self.get(&key).map(|old| Resources {
                    open_fds: None,
                    max_fds: None,
                    ..*old
                });
                self.processes.insert(key, unknown);
                self.queue.push_back(key);
            }
        }
    }
}

#[cfg(test)]
#[path = "resources_tests.rs"]
mod tests;
