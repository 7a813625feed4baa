//! Comparing our numbers with the kernel's own, in every network namespace.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Instant,
};

use anyhow::Context as _;
use observer_common::{Account, CLOSE, FIN_WAIT2, SLOT_UNATTRIBUTED, STATES, TIME_WAIT};
use observer_core::{
    contract::KernelSource as _,
    export::DriftMetrics,
    net::{
        netns,
        sockdiag::{SockDiag, StateMask},
        sockstat::SockStat,
    },
    process::ProcRoot,
    sync::lock,
    table::{Kind, ProcessFacts, TIME_WAIT_LENGTH, Table},
};
use tracing::{debug, warn};

use crate::kernel::{Live, Resynced};

/// Compares our numbers with the kernel's, and shows the difference.
pub struct Reconciler {
    metrics: DriftMetrics,
    /// For the daemon's own network namespace.
    sock_diag: Mutex<Option<SockDiag>>,
    /// How many sockets had entered TIME_WAIT in other network namespaces, and when.
    elsewhere: Mutex<VecDeque<(Instant, u64)>>,
}

impl Reconciler {
    /// Shows its results in `metrics`.
    pub fn new(metrics: DriftMetrics) -> Self {
        let sock_diag = SockDiag::open()
            .inspect_err(|error| {
                warn!(
                    %error,
                    "cannot open sock_diag: TIME_WAIT sockets that ended early are apportioned \
                     among all processes"
                );
            })
            .ok();
        Self {
            metrics,
            sock_diag: Mutex::new(sock_diag),
            elsewhere: Mutex::default(),
        }
    }

    /// Counts the result of a walk over the open files.
    pub fn resynced(&self, result: &anyhow::Result<Resynced>) {
        match result {
            Ok(resynced) => self.metrics.resynced(resynced.seeded, resynced.moved),
            Err(_) => self.metrics.resync_failed(),
        }
    }

    /// Compares now.
    ///
    /// # Errors
    ///
    /// When /proc cannot be read.
    pub fn reconcile(
        &self,
        table: &Arc<Mutex<Table>>,
        source: &Live,
        facts: &dyn ProcessFacts,
    ) -> anyhow::Result<()> {
        let result = self.try_reconcile(table, source, facts);
        if result.is_err() {
            self.metrics.reconcile_failed();
            lock(table).forget_time_wait_drift();
        }
        result
    }

    /// Whether sockets entered TIME_WAIT in other network namespaces within the time they
    /// stay there; `total` is how many ever did.
    fn entered_elsewhere(&self, total: u64) -> bool {
        let now = Instant::now();
        let mut elsewhere = lock(&self.elsewhere);
        elsewhere.push_back((now, total));
        // One sample that is old enough is kept, to compare with.
        while elsewhere
            .get(1)
            .is_some_and(|(time, _)| now.duration_since(*time) > TIME_WAIT_LENGTH)
        {
            elsewhere.pop_front();
        }
        let before = match elsewhere.front() {
            Some((time, total)) if now.duration_since(*time) > TIME_WAIT_LENGTH => *total,
            // Not running for that long yet: since the start.
            _ => 0,
        };
        total > before
    }

    /// How many timewait sockets of the own namespace each process left behind; `None`
    /// unless nearly every one of them has a known owner.
    fn owned_time_wait(&self, source: &Live) -> Option<HashMap<(u32, u32), u64>> {
        let mut guard = lock(&self.sock_diag);
        // Timewait sockets of either substate.
        let entries = guard
            .as_mut()?
            .dump(StateMask::of(&[TIME_WAIT, FIN_WAIT2]))
            .inspect_err(|error| debug!(%error, "cannot dump sockets in TIME_WAIT"))
            .ok()?;
        let mut owned = HashMap::new();
        let (mut known, mut unknown) = (0, 0);
        for entry in entries.iter().filter(|entry| entry.timewait) {
            match source.time_wait_owner(entry.cookie) {
                Some(owner) => {
                    *owned.entry(owner).or_default() += 1;
                    known += 1;
                }
                None => unknown += 1,
            }
        }
        // Now and then one is forgotten early.
        (unknown <= known / 50).then_some(owned)
    }

    fn try_reconcile(
        &self,
        table: &Arc<Mutex<Table>>,
        source: &Live,
        facts: &dyn ProcessFacts,
    ) -> anyhow::Result<()> {
        let root = ProcRoot::default();
        let namespaces = netns::enumerate(&root).context("cannot list network namespaces")?;
        let mut pids: Vec<(Option<u64>, u32)> = namespaces
            .found
            .iter()
            .filter(|namespace| Some(namespace.inode) != namespaces.own)
            .map(|namespace| (Some(namespace.inode), namespace.pid))
            .collect();
        pids.push((namespaces.own, std::process::id()));
        let mut time_wait = Vec::new();
        let mut in_use = 0;
        for (netns, pid) in pids {
            let read = SockStat::read(&root, pid).context("cannot read socket statistics")?;
            // `None`: the process went away, and its namespace maybe with it.
            if let Some(sockstat) = read {
                time_wait.push((netns, sockstat.tcp_time_wait));
                in_use += sockstat.tcp_inuse + sockstat.tcp6_inuse.unwrap_or(0);
            }
        }
        let table_lock = table;
        let mut table = lock(table_lock);
        let mut live = 0;
        table.visit(source, facts, &mut |view| {
            // Processes are in the names' sums.
            if let Kind::Name { .. } = view.kind {
                live += (1..STATES as u8)
                    .filter(|state| !matches!(*state, CLOSE | TIME_WAIT))
                    .map(|state| view.counts.live(state))
                    .sum::<i64>();
            }
        });
        self.metrics.show_drift(live - in_use as i64);
        if source.account(SLOT_UNATTRIBUTED).is_some() {
            let counts: HashMap<u32, Account> = source.time_wait_by_netns().into_iter().collect();
            let drifts: Vec<_> = time_wait
                .into_iter()
                .filter_map(|(netns, kernel)| {
                    // The kernel's inode numbers of namespaces have 32 bits.
                    let netns = netns? as u32;
                    let ours = counts.get(&netns).map_or(0, Account::live);
                    Some((netns, ours as i64 - kernel as i64))
                })
                .collect();
            table.note_time_wait_drift(drifts.iter().map(|(_, drift)| drift).sum());
            self.metrics.show_netns_drift(&drifts);
            return Ok(());
        }
        table.reconcile_time_wait(time_wait.iter().map(|(_, kernel)| kernel).sum());
        // A namespace without processes, of a container that is gone, is not among those
        // read, and the timewait sockets of others cannot be told apart from here. So the
        // kernel's numbers are a measure only while all that entered did so here.
        if self.entered_elsewhere(source.stats().time_wait_elsewhere) {
            table.cap_time_wait(None);
            table.trust_inferred_time_wait();
        } else {
            let drifted = table.time_wait_drift().is_some_and(|drift| drift > 0);
            drop(table);
            let owned = drifted.then(|| self.owned_time_wait(source)).flatten();
            lock(table_lock).cap_time_wait(owned.as_ref());
        }
        Ok(())
    }
}
