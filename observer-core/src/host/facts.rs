//! Information about processes for the table and the records, from /proc and cgroups.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
use observer_common::{ProcessKey, Slot};
use tracing::{debug, warn};

use crate::{
    net::netns,
    process::{
        ProcRoot,
        cgroup_id::{CgroupResolver, WalkLimits},
        fd_kinds::FdKinds,
        identity,
        identity::Identity,
        own::OwnProcess,
        resources::{ResourceScanner, ScanLimits},
    },
    sync::lock,
    table::{Description, Liveness, ProcessFacts, Resources},
};

/// Interval at which /proc is read for a process that exists according to kill(pid, 0): it may be a
/// zombie, or another process with the same pid.
const CLOSE_LOOK: Duration = Duration::from_secs(5);

/// Answers from this host.
pub struct HostFacts {
    root: ProcRoot,
    cgroups: Mutex<Option<CgroupResolver>>,
    scanner: ResourceScanner,
    looked_at: Mutex<HashMap<ProcessKey, Instant>>,
    own: Mutex<OwnProcess>,
}

impl HostFacts {
    /// Answers from /proc and the cgroup v2 file system. Cgroups are read now, so that those that are
    /// removed soon are known.
    #[must_use]
    pub fn new(limits: ScanLimits) -> Self {
        let root = ProcRoot::default();
        let mut cgroups =
            CgroupResolver::find(&root, WalkLimits::default()).unwrap_or_else(|error| {
                warn!(%error, "cannot read cgroups: units of short-lived processes stay unknown");
                None
            });
        if let Some(cgroups) = &mut cgroups {
            cgroups.walk(Instant::now());
        }
        let scanner = ResourceScanner::new(root.clone(), limits);
        Self {
            root,
            cgroups: Mutex::new(cgroups),
            scanner,
            looked_at: Mutex::new(HashMap::new()),
            own: Mutex::new(OwnProcess::read()),
        }
    }

    /// Measures the descriptors of some of the processes in `live`, at `now` (CLOCK_MONOTONIC).
    pub fn scan(&self, live: impl IntoIterator<Item = ProcessKey>, now: Duration) {
        self.scanner.set_live(live);
        let scan = self.scanner.scan(now);
        debug!(?scan, "descriptors");
    }

    /// Has the descriptors of these processes measured soon.
    pub fn watch_closely<'a>(&self, processes: impl IntoIterator<Item = &'a ProcessKey>) {
        self.scanner.watch_closely(processes);
    }

    /// The kinds of descriptors of a process; `None` if it has ended or access is denied.
    #[must_use]
    pub fn fd_kinds(&self, process: &ProcessKey) -> Option<FdKinds> {
        let kinds = FdKinds::read(&self.root, process.tgid)
            .inspect_err(|error| debug!(%error, pid = process.tgid, "cannot look at descriptors"))
            .ok()?;
        self.is_alive(process).then_some(kinds)
    }

    /// The network namespace of a process; `None` if it has ended or access is denied.
    #[must_use]
    pub fn netns(&self, process: &ProcessKey) -> Option<u32> {
        let netns = netns::of_process(&self.root, process.tgid)?;
        self.is_alive(process).then_some(netns)
    }

    /// To be asked after something was read from its folder in /proc: the pid may have been reused meanwhile.
    fn is_alive(&self, process: &ProcessKey) -> bool {
        identity::liveness(&self.root, process) != Liveness::Gone
    }

    /// Reads the observer's own resources.
    pub fn measure_own(&self) {
        *lock(&self.own) = OwnProcess::read();
    }

    /// Changes the limits of measuring.
    pub fn set_limits(&self, limits: ScanLimits) {
        self.scanner.set_limits(limits);
    }

    /// Forgets processes that are not in `live`.
    pub fn retain(&self, live: &std::collections::HashSet<ProcessKey>) {
        lock(&self.looked_at).retain(|key, _| live.contains(key));
    }
}

/// Whether a process exists that /proc does not show: without CAP_SYS_PTRACE, a /proc mounted with
/// hidepid=2 does not show processes of other users.
fn is_hidden(root: &ProcRoot, pid: Pid) -> bool {
    let shown = root.process(pid.as_raw() as u32).try_exists();
    matches!(shown, Ok(false)) && kill(pid, None) != Err(Errno::ESRCH)
}

impl ProcessFacts for HostFacts {
    fn liveness(&self, process: &ProcessKey) -> Liveness {
        // Signal 0 takes a fraction of a microsecond, reading /proc/PID/stat twenty.
        let pid = Pid::from_raw(process.tgid as i32);
        if kill(pid, None) == Err(Errno::ESRCH) {
            return Liveness::Gone;
        }
        let now = Instant::now();
        let mut looked_at = lock(&self.looked_at);
        match looked_at.get(process) {
            Some(last) if now.duration_since(*last) < CLOSE_LOOK => Liveness::Alive(None),
            _ => {
                let liveness = match identity::liveness(&self.root, process) {
                    Liveness::Gone if is_hidden(&self.root, pid) => Liveness::Alive(None),
                    liveness => liveness,
                };
                // Spreads reads of processes that were found at the same time.
                let first = !looked_at.contains_key(process);
                let early = CLOSE_LOOK * (process.tgid % 16) / 16;
                let noted = now.checked_sub(early).filter(|_| first).unwrap_or(now);
                match liveness {
                    Liveness::Alive(_) => looked_at.insert(*process, noted),
                    Liveness::Gone => looked_at.remove(process),
                };
                liveness
            }
        }
    }

    fn describe(&self, slot: &Slot) -> Description {
        match identity::identify(&self.root, &slot.key) {
            Ok(Some(Identity { comm, unit, .. })) => Description {
                gone: false,
                comm: Some(comm),
                unit,
            },
            // The kernel programs recorded its comm and cgroup.
            unknown => {
                let unit = lock(&self.cgroups)
                    .as_mut()
                    .filter(|_| slot.cgroup_id != 0)
                    .and_then(|cgroups| cgroups.resolve(slot.cgroup_id, Instant::now()))
                    .cloned()
                    .unwrap_or_default();
                let pid = Pid::from_raw(slot.key.tgid as i32);
                let gone = matches!(unknown, Ok(None)) && !is_hidden(&self.root, pid);
                Description {
                    gone,
                    comm: None,
                    unit,
                }
            }
        }
    }

    fn resources(&self, process: &ProcessKey) -> Resources {
        self.scanner.get(process).unwrap_or_default()
    }

    fn own(&self) -> OwnProcess {
        *lock(&self.own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_proc_does_not_show_is_hidden() {
        let empty = tempfile::tempdir().unwrap();
        let root = ProcRoot::new(empty.path());
        let me = Pid::this();
        assert!(is_hidden(&root, me));
        assert!(!is_hidden(&ProcRoot::default(), me));
        // Above the kernel's limit of four million.
        assert!(!is_hidden(&root, Pid::from_raw(1 << 30)));
    }
}
