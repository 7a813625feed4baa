//! Compares the observer's socket counts with the kernel's, in every network namespace.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use crate::daemon::{scheduler::Job, shared::Shared};
use anyhow::Context as _;
use observer_common::{CLOSE, STATES, TIME_WAIT, TimeWaitCount};
use observer_core::{
    config::Settings,
    contract::KernelSource as _,
    export::jobs::DriftMetrics,
    net::{netns, sockstat::SockStat},
    process::ProcRoot,
    table::Kind,
};

/// The kernel's own counts.
struct KernelCounts {
    /// The network namespaces that a process is in, by inode number; the kernel's have 32 bits.
    living: HashSet<u32>,
    /// Sockets in TIME_WAIT by network namespace (inode number, where it is known).
    time_wait: Vec<(Option<u32>, u64)>,
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
            living: namespaces.found.iter().map(|it| it.inode as u32).collect(),
            time_wait: Vec::new(),
            in_use: 0,
        };
        for (netns, pid) in others.chain([own]) {
            let read = SockStat::read(&root, pid).context("cannot read socket statistics")?;
            // `None`: the process has ended, and maybe its namespace.
            if let Some(sockstat) = read {
                counts
                    .time_wait
                    .push((netns.map(|netns| netns as u32), sockstat.tcp_time_wait));
                counts.in_use += sockstat.tcp_inuse + sockstat.tcp6_inuse.unwrap_or(0);
            }
        }
        Ok(counts)
    }

    /// Our sockets in other namespaces: those without a process, whose counts cannot be read.
    fn sockets_elsewhere(&self, sockets: &BTreeMap<u32, u64>) -> u64 {
        let read: Option<HashSet<u32>> = self.time_wait.iter().map(|(netns, _)| *netns).collect();
        // Without its number, the sockets of the own namespace cannot be told from others.
        let Some(read) = read else {
            return 0;
        };
        let elsewhere = sockets.iter().filter(|(netns, _)| !read.contains(netns));
        elsewhere.map(|(_, count)| count).sum()
    }
}

pub struct Reconcile {
    shared: Shared,
    drift: DriftMetrics,
}

impl Job for Reconcile {
    fn name(&self) -> &'static str {
        "reconcile"
    }

    fn interval(&self, settings: &Settings) -> Duration {
        settings.reconcile_interval
    }

    fn run(&mut self) -> anyhow::Result<()> {
        // First, because otherwise the map of timewait sockets fills if the comparison fails.
        let ended = self.shared.live.find_ended_time_waits();
        let counts = ended
            .and_then(|_| KernelCounts::read().context("cannot compare with the kernel's counts"));
        let counts = counts.inspect_err(|_| self.drift.withdraw())?;
        self.compare_sockets(&counts);
        self.compare_time_wait(&counts);
        self.shared.live.forget_netns(&counts.living);
        Ok(())
    }
}

impl Reconcile {
    pub fn new(shared: Shared, drift: DriftMetrics) -> Self {
        Self { shared, drift }
    }

    fn compare_sockets(&self, counts: &KernelCounts) {
        let mut ours = 0;
        self.shared
            .discover()
            .visit(&*self.shared.live, &*self.shared.facts, &mut |view| {
                // The sums of names contain the processes.
                if let Kind::Name { .. } = view.kind {
                    ours += (1..STATES as u8)
                        .filter(|state| !matches!(*state, CLOSE | TIME_WAIT))
                        .map(|state| view.counts.live(state))
                        .sum::<i64>();
                }
            });
        // The counters in slots are not by namespace, but the walk over connections is.
        let elsewhere = counts.sockets_elsewhere(&self.shared.walk.borrow().sockets);
        self.drift
            .show_sockets(ours - elsewhere as i64 - counts.in_use as i64);
    }

    fn compare_time_wait(&mut self, counts: &KernelCounts) {
        let ours: HashMap<u32, TimeWaitCount> =
            self.shared.live.time_wait_by_netns().into_iter().collect();
        let drifts: Vec<_> = counts
            .time_wait
            .iter()
            .filter_map(|&(netns, kernel)| {
                let netns = netns?;
                let ours = ours.get(&netns).map_or(0, TimeWaitCount::live);
                Some((netns, ours as i64 - kernel as i64))
            })
            .collect();
        self.drift.show_time_wait(&drifts);
    }
}
