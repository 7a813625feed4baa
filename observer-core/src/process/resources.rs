//! Descriptor use of all watched processes, refreshed a few at a time.

use std::{
    collections::{HashMap, HashSet},
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
    /// Hard limit, up to which the process may raise the soft one.
    pub hard_max_fds: Option<u64>,
    /// The most that were open at any measurement.
    pub fd_high_water: Option<u64>,
    /// CLOCK_MONOTONIC at the last measurement.
    pub measured_at: Duration,
}

/// Limits of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanLimits {
    /// The most processes measured per call.
    pub batch: usize,
    /// The least time between two measurements of one process, unless its descriptors may run out soon.
    pub interval: Duration,
    /// Open descriptors in hundredths of the limit from which they may run out soon.
    pub close_percent: u64,
}

impl Default for ScanLimits {
    fn default() -> Self {
        Self {
            batch: 256,
            interval: Duration::from_secs(1),
            close_percent: 30,
        }
    }
}

/// The result of one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Processes measured, at least in part.
    pub measured: usize,
    /// Processes among them whose descriptors cannot be counted.
    pub denied: usize,
    /// Processes that could not be measured for another reason; they keep their values.
    pub failed: usize,
    /// Processes that have ended. They keep their last values until they are removed from the live
    /// processes, and are not measured again.
    pub gone: Vec<ProcessKey>,
}

/// The longest interval between two measurements of a process whose descriptors may run out soon.
const CLOSE_INTERVAL: Duration = Duration::from_secs(1);

/// Such a process has [`ScanLimits::close_percent`] of its descriptors open, or so many more than at the last measurement,
/// in hundredths of the limit;
const GROWTH_PERCENT: u64 = 2;

/// or a limit that is used up within seconds.
const SMALL_LIMIT: u64 = 256;

/// Measures descriptor use: never measured first, then those that have waited longest for their interval. One
/// process costs a stat, and two reads of short files.
pub struct ResourceScanner {
    root: ProcRoot,
    method: FdMethod,
    /// Not locked while a process is measured, which can take long: before 6.2, half a million
    /// descriptors take a second. A scrape does not wait for it.
    state: Mutex<State>,
}

struct State {
    limits: ScanLimits,
    processes: HashMap<ProcessKey, Watched>,
}

/// A process that is watched.
#[derive(Default)]
struct Watched {
    resources: Option<Resources>,
    /// Time of the last measurement or attempt.
    looked_at: Option<Duration>,
    /// Its descriptors may run out soon.
    closely: bool,
    gone: bool,
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
        let processes = &mut lock(&self.state).processes;
        processes.retain(|key, _| live.contains(key));
        for key in live {
            processes.entry(key).or_default();
        }
    }

    /// Has these measured as often as those whose descriptors may run out soon, until their next measurement.
    pub fn watch_closely<'a>(&self, processes: impl IntoIterator<Item = &'a ProcessKey>) {
        let watched = &mut lock(&self.state).processes;
        for key in processes {
            if let Some(watched) = watched.get_mut(key) {
                watched.closely = true;
            }
        }
    }

    /// The values of a process: `None` before its first measurement.
    #[must_use]
    pub fn get(&self, key: &ProcessKey) -> Option<Resources> {
        lock(&self.state).processes.get(key)?.resources
    }

    /// Measures the processes that are due at `now` (CLOCK_MONOTONIC), at most one batch of them.
    pub fn scan(&self, now: Duration) -> Scan {
        let mut scan = Scan::default();
        let due = lock(&self.state).due(now);
        for key in due {
            let outcome = self.measure(&key, now);
            lock(&self.state).note(key, outcome, now, &mut scan);
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
        let [soft, hard] = parse_max_open_files(&limits)?;
        // A process that ended after the first look may have left its pid to another.
        match Stat::read(&self.root, key.tgid)? {
            Some(stat) if stat.is(key) => {}
            _ => return Ok(None),
        }
        Ok(Some(Resources {
            open_fds,
            max_fds: Some(soft),
            hard_max_fds: Some(hard),
            fd_high_water: None,
            measured_at: now,
        }))
    }
}

impl State {
    /// Those to be measured at `now`, at most one batch.
    fn due(&self, now: Duration) -> Vec<ProcessKey> {
        let ScanLimits {
            batch, interval, ..
        } = self.limits;
        let mut due: Vec<_> = self
            .processes
            .iter()
            .filter_map(|(key, it)| Some((it.waited(now, interval)?, key)))
            .collect();
        due.sort_unstable_by(|(a, a_key), (b, b_key)| {
            b.total_cmp(a).then(a_key.tgid.cmp(&b_key.tgid))
        });
        due.truncate(batch);
        due.into_iter().map(|(_, key)| *key).collect()
    }

    /// Adds the result of a measurement.
    fn note(
        &mut self,
        key: ProcessKey,
        outcome: Result<Option<Resources>, ProcError>,
        now: Duration,
        scan: &mut Scan,
    ) {
        // It may have been forgotten meanwhile.
        let Some(watched) = self.processes.get_mut(&key) else {
            return;
        };
        watched.looked_at = Some(now);
        let close_percent = self.limits.close_percent;
        match outcome {
            Ok(Some(measured)) => {
                scan.measured += 1;
                scan.denied += usize::from(measured.open_fds.is_none());
                watched.take(measured, close_percent);
            }
            Ok(None) => {
                watched.gone = true;
                scan.gone.push(key);
            }
            Err(error) => {
                tracing::debug!(pid = key.tgid, %error, "cannot measure process");
                scan.failed += 1;
                // The last values may be outdated.
                if let Some(resources) = &mut watched.resources {
                    (resources.open_fds, resources.max_fds) = (None, None);
                }
            }
        }
    }
}

impl Watched {
    /// Time since the last measurement, in intervals; `None` if that is less than one, or the process has ended.
    fn waited(&self, now: Duration, interval: Duration) -> Option<f64> {
        if self.gone {
            return None;
        }
        let Some(looked_at) = self.looked_at else {
            return Some(f64::INFINITY);
        };
        let interval = if self.closely {
            interval.min(CLOSE_INTERVAL)
        } else {
            interval
        };
        let waited = now.saturating_sub(looked_at);
        (waited >= interval).then(|| waited.as_secs_f64() / interval.as_secs_f64().max(0.001))
    }

    fn take(&mut self, measured: Resources, close_percent: u64) {
        let before = self.resources.unwrap_or_default();
        self.closely = measured.may_run_out(before.open_fds, close_percent);
        self.resources = Some(Resources {
            fd_high_water: measured.open_fds.max(before.fd_high_water),
            ..measured
        });
    }
}

impl Resources {
    /// Whether the descriptors may run out within a common interval. `before` is their number at the last
    /// measurement.
    fn may_run_out(&self, before: Option<u64>, close_percent: u64) -> bool {
        let (Some(open), Some(limit)) = (self.open_fds, self.max_fds) else {
            return false;
        };
        let growth = before.map_or(0, |before| open.saturating_sub(before));
        let reaches =
            |number: u64, percent: u64| number.saturating_mul(100) / u64::max(percent, 1) >= limit;
        limit <= SMALL_LIMIT || reaches(open, close_percent) || reaches(growth, GROWTH_PERCENT)
    }
}

#[cfg(test)]
#[path = "resources_tests.rs"]
mod tests;
