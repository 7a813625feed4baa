//! Descriptor use of all watched processes, refreshed a few at a time.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use observer_common::ProcessKey;

use super::{
    ProcError, ProcRoot,
    fds::{FdMethod, OpenFds, count_open, parse_max_open_files},
    identity::Stat,
};

/// What one process has and may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Open file descriptors; `None` when the kernel did not let us look.
    pub open_fds: Option<u64>,
    /// The most that were open at any measurement.
    pub peak_fds: Option<u64>,
    /// Soft limit, `RLIMIT_NOFILE`; `u64::MAX` when unlimited, `None` when not readable.
    pub max_fds: Option<u64>,
    /// When that was so.
    pub measured_at: Instant,
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

/// Measures one process: a stat, and two reads of short files.
#[derive(Clone, Debug)]
pub struct Meter {
    root: ProcRoot,
    method: FdMethod,
}

/// Which processes are measured when, round-robin: never measured first, then the oldest
/// measurement. And what is known of them.
pub struct ResourceScanner {
    meter: Meter,
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
            meter: Meter { root, method },
            limits,
            queue: VecDeque::new(),
            processes: HashMap::new(),
        }
    }

    /// How descriptors are counted on this kernel.
    #[must_use]
    pub const fn method(&self) -> FdMethod {
        self.meter.method
    }

    /// What measures: by itself, because that can take long, and nobody need wait for it.
    #[must_use]
    pub const fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Changes the pace.
    pub fn set_limits(&mut self, limits: ScanLimits) {
        self.limits = limits;
    }

    /// Tells which processes are live. Others are forgotten, their peaks included.
    pub fn set_live(&mut self, live: impl IntoIterator<Item = ProcessKey>) {
        let live: HashSet<ProcessKey> = live.into_iter().collect();
        self.processes.retain(|key, _| live.contains(key));
        self.queue.retain(|key| live.contains(key));
        for key in live {
            self.processes.entry(key).or_insert_with(|| {
                self.queue.push_front(key);
                None
            });
        }
    }

    /// What is known of a process: `None` before its first measurement.
    #[must_use]
    pub fn get(&self, key: &ProcessKey) -> Option<&Resources> {
        self.processes.get(key)?.as_ref()
    }

    /// How many processes one scan may measure.
    #[must_use]
    pub fn turns(&self) -> usize {
        self.limits.batch.min(self.queue.len())
    }

    /// The process to be measured next, if one is due; [`note`](Self::note) takes the outcome.
    pub fn next_due(&mut self, now: Instant) -> Option<ProcessKey> {
        let key = self.queue.pop_front()?;
        if let Some(before) = self.get(&key)
            && now.saturating_duration_since(before.measured_at) < self.limits.interval
        {
            // The queue is in the order of age, so none of the others is due either. One
            // whose measurement failed has lost its place and waits with them.
            self.queue.push_front(key);
            return None;
        }
        Some(key)
    }

    /// Takes in what a measurement came to.
    pub fn note(
        &mut self,
        key: ProcessKey,
        outcome: Result<Option<Resources>, ProcError>,
        scan: &mut Scan,
    ) {
        match outcome {
            Ok(Some(measured)) => {
                scan.measured += 1;
                scan.denied += usize::from(measured.open_fds.is_none());
                let before = self.get(&key).and_then(|old| old.peak_fds);
                let peak_fds = measured.peak_fds.max(before);
                self.processes.insert(
                    key,
                    Some(Resources {
                        peak_fds,
                        ..measured
                    }),
                );
                self.queue.push_back(key);
            }
            Ok(None) => scan.gone.push(key),
            Err(error) => {
                tracing::debug!(pid = key.tgid, %error, "cannot measure process");
                scan.failed += 1;
                self.queue.push_back(key);
            }
        }
    }

    /// Measures the processes that are due, at most one batch of them.
    #[cfg(test)]
    pub fn scan(&mut self, now: Instant) -> Scan {
        let mut scan = Scan::default();
        for _ in 0..self.turns() {
            let Some(key) = self.next_due(now) else {
                break;
            };
            let outcome = self.meter.measure(&key, now);
            self.note(key, outcome, &mut scan);
        }
        scan
    }
}

impl Meter {
    /// What a process has and may have; `None` when it is gone.
    ///
    /// # Errors
    ///
    /// When its files in /proc cannot be read or understood.
    pub fn measure(&self, key: &ProcessKey, now: Instant) -> Result<Option<Resources>, ProcError> {
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
            peak_fds: open_fds,
            max_fds: Some(max_fds),
            measured_at: now,
        }))
    }
}

#[cfg(test)]
#[path = "resources_tests.rs"]
mod tests;
