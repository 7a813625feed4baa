//! Compares our numbers with the kernel's own, in every network namespace.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::daemon::{scheduler::Job, shared::Shared};
use anyhow::Context as _;
use observer_common::{Account, CLOSE, SLOT_UNATTRIBUTED, STATES, TIME_WAIT};
use observer_core::{
    config::Settings,
    contract::KernelSource as _,
    export::jobs::DriftMetrics,
    net::{netns, sockstat::SockStat},
    process::ProcRoot,
    sync::write,
    table::{Kind, TIME_WAIT_LENGTH},
};

/// The kernel's own counts.
struct KernelCounts {
    /// Sockets in TIME_WAIT by network namespace (inode number, where it is known).
    time_wait: Vec<(Option<u64>, u64)>,
    /// TCP sockets in use in all of them.
    in_use: u64,
}

impl KernelCounts {
    /// Reads them in the network namespaces of all processes.
    fn read() -> anyhow::Result<Self> {
        let root = ProcRoot::default();
        let namespaces = netns::enumerate(&root).context("cannot list network namespaces")?;
        let others = namespaces
            .found
            .iter()
            .filter(|namespace| Some(namespace.inode) != namespaces.own)
            .map(|namespace| (Some(namespace.inode), namespace.pid));
        let own = (namespaces.own, std::process::id());
        let mut counts = Self {
            time_wait: Vec::new(),
            in_use: 0,
        };
        for (netns, pid) in others.chain([own]) {
            let read = SockStat::read(&root, pid).context("cannot read socket statistics")?;
            // `None`: the process has ended, and maybe its namespace.
            if let Some(sockstat) = read {
                counts.time_wait.push((netns, sockstat.tcp_time_wait));
                counts.in_use += sockstat.tcp_inuse + sockstat.tcp6_inuse.unwrap_or(0);
            }
        }
        Ok(counts)
    }

    /// Sockets in TIME_WAIT in all namespaces that were read.
    fn total_time_wait(&self) -> u64 {
        self.time_wait.iter().map(|(_, count)| count).sum()
    }
}

pub struct Reconcile {
    shared: Shared,
    drift: DriftMetrics,
    /// Number of sockets that had entered TIME_WAIT in other network namespaces, by time.
    elsewhere: VecDeque<(Instant, u64)>,
}

impl Job for Reconcile {
    fn name(&self) -> &'static str {
        "reconcile"
    }

    fn interval(&self, settings: &Settings) -> Duration {
        settings.reconcile_interval
    }

    fn run(&mut self) -> anyhow::Result<()> {
        let counts = match KernelCounts::read() {
            Ok(counts) => counts,
            Err(error) => {
                self.drift.withdraw();
                write(&self.shared.table).forget_time_wait_drift();
                return Err(error.context("cannot compare with the kernel's counts"));
            }
        };
        self.compare_sockets(&counts);
        if self.shared.live.account(SLOT_UNATTRIBUTED).is_some() {
            self.compare_time_wait(&counts);
        } else {
            self.correct_time_wait(&counts);
        }
        Ok(())
    }
}

impl Reconcile {
    pub fn new(shared: Shared, drift: DriftMetrics) -> Self {
        Self {
            shared,
            drift,
            elsewhere: VecDeque::new(),
        }
    }

    fn compare_sockets(&self, counts: &KernelCounts) {
        let mut ours = 0;
        self.shared
            .discover()
            .visit(&*self.shared.live, &*self.shared.facts, &mut |view| {
                // Processes are in the names' sums.
                if let Kind::Name { .. } = view.kind {
                    ours += (1..STATES as u8)
                        .filter(|state| !matches!(*state, CLOSE | TIME_WAIT))
                        .map(|state| view.counts.live(state))
                        .sum::<i64>();
                }
            });
        self.drift.show_sockets(ours - counts.in_use as i64);
    }

    /// Where both ends of TIME_WAIT are seen.
    fn compare_time_wait(&mut self, counts: &KernelCounts) {
        let ours: HashMap<u32, Account> =
            self.shared.live.time_wait_by_netns().into_iter().collect();
        let drifts: Vec<_> = counts
            .time_wait
            .iter()
            .filter_map(|&(netns, kernel)| {
                // The kernel's inode numbers of namespaces have 32 bits.
                let netns = netns? as u32;
                let ours = ours.get(&netns).map_or(0, Account::live);
                Some((netns, ours as i64 - kernel as i64))
            })
            .collect();
        let sum = drifts.iter().map(|(_, drift)| drift).sum();
        write(&self.shared.table).note_time_wait_drift(sum);
        self.drift.show_time_wait(&drifts);
    }

    /// Where TIME_WAIT is inferred.
    fn correct_time_wait(&mut self, counts: &KernelCounts) {
        // A namespace without processes, of a container that is gone, is not among those
        // read, and the timewait sockets of others cannot be told apart from here. So the
        // kernel's numbers are a measure only while all that entered did so here.
        let elsewhere = self.shared.live.stats().time_wait_elsewhere;
        let elsewhere = self.entered_elsewhere(elsewhere);
        let mut table = write(&self.shared.table);
        table.infer_time_wait(Instant::now(), &*self.shared.live);
        table.reconcile_time_wait(counts.total_time_wait());
        if elsewhere {
            table.trust_inferred_time_wait();
        }
    }

    /// Whether sockets in other network namespaces can be in TIME_WAIT now: some entered within its
    /// length. `total` is the number of entries there so far.
    fn entered_elsewhere(&mut self, total: u64) -> bool {
        let now = Instant::now();
        let is_old = |time: &Instant| now.duration_since(*time) > TIME_WAIT_LENGTH;
        self.elsewhere.push_back((now, total));
        // Keep one sample that is older than TIME_WAIT, for the comparison.
        while self.elsewhere.get(1).is_some_and(|(time, _)| is_old(time)) {
            self.elsewhere.pop_front();
        }
        let before = match self.elsewhere.front() {
            Some((time, total)) if is_old(time) => *total,
            // Not running for that long yet: compare with the start.
            _ => 0,
        };
        total > before
    }
}
