//! Comparing our numbers with the kernel's own, in every network namespace.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex},
    time::Instant,
};

use anyhow::Context as _;
use observer_common::{Account, CLOSE, FIN_WAIT2, SLOT_UNATTRIBUTED, STATES, TIME_WAIT};
use prometheus::{IntCounter, IntGaugeVec, Opts, Registry, core::Collector};
use tracing::{debug, warn};

use crate::{
    contract::KernelSource as _,
    export::metric::{Metric, Scope, Type},
    kernel::{Live, Resynced},
    net::{
        netns,
        sockdiag::{SockDiag, StateMask},
        sockstat::SockStat,
    },
    process::ProcRoot,
    sync::lock,
    table::{Kind, ProcessFacts, TIME_WAIT_LENGTH, Table},
};

const fn own(
    name: &'static str,
    kind: Type,
    unit: &'static str,
    help: &'static str,
    query: &'static str,
) -> Metric {
    Metric {
        name,
        kind,
        scope: Scope::Observer,
        unit,
        labels: &[],
        hooks: "",
        help,
        query,
    }
}

const SOCKETS_DRIFT: Metric = own(
    "observer_sockets_drift",
    Type::Gauge,
    "sockets",
    "Live TCP sockets counted here minus those the kernel counts in the network namespaces of all \
     processes (sockstat, TCP inuse). Sockets that no process holds, of the kernel itself or of a \
     process hidden from us, show as a constant negative number; growth either way means that \
     sockets were missed.",
    "abs(delta(observer_sockets_drift[1h])) > 100",
);
const NETNS_TIME_WAIT_DRIFT: Metric = Metric {
    labels: &["netns"],
    ..own(
        "observer_netns_time_wait_drift_sockets",
        Type::Gauge,
        "sockets",
        "Sockets in TIME_WAIT counted here minus those the kernel counts, by network namespace \
         (inode number). Absent where TIME_WAIT is inferred. Negative in the first minute: some \
         are older than the observer.",
        "abs(observer_netns_time_wait_drift_sockets) > 100",
    )
};
const SEEDED: Metric = own(
    "observer_seeded_sockets_total",
    Type::Counter,
    "sockets",
    "Sockets that existed before the observer met them and were given to the process that holds \
     them.",
    "increase(observer_seeded_sockets_total[5m]) > 0",
);
const MOVED: Metric = own(
    "observer_moved_sockets_total",
    Type::Counter,
    "sockets",
    "Sockets found in the hands of another process than the one on record: passed on, inherited, \
     or accepted through io_uring.",
    "rate(observer_moved_sockets_total[5m])",
);
const RESYNC_FAILURES: Metric = own(
    "observer_resync_failures_total",
    Type::Counter,
    "walks",
    "Walks over the open files of all processes that failed.",
    "increase(observer_resync_failures_total[1h]) > 0",
);
const RECONCILE_FAILURES: Metric = own(
    "observer_reconcile_failures_total",
    Type::Counter,
    "comparisons",
    "Comparisons with the kernel's own socket counts that failed.",
    "increase(observer_reconcile_failures_total[1h]) > 0",
);

/// What [`Agreement`] registers, for the documents.
#[cfg(test)]
pub const METRICS: [&Metric; 6] = [
    &SOCKETS_DRIFT,
    &NETNS_TIME_WAIT_DRIFT,
    &SEEDED,
    &MOVED,
    &RESYNC_FAILURES,
    &RECONCILE_FAILURES,
];

fn opts(metric: &Metric) -> Opts {
    Opts::new(metric.name, metric.help)
}

/// Metrics about how well our picture agrees with the kernel's.
#[derive(Clone)]
pub struct Agreement {
    /// Without labels: it is there once there was a comparison.
    sockets_drift: IntGaugeVec,
    netns_time_wait_drift: IntGaugeVec,
    /// The namespaces that the last comparison showed.
    netns_shown: Arc<Mutex<HashSet<u32>>>,
    seeded: IntCounter,
    moved: IntCounter,
    resync_failures: IntCounter,
    reconcile_failures: IntCounter,
    /// For the daemon's own network namespace.
    sock_diag: Arc<Mutex<Option<SockDiag>>>,
    /// How many sockets had entered TIME_WAIT in other network namespaces, and when.
    elsewhere: Arc<Mutex<VecDeque<(Instant, u64)>>>,
}

impl Agreement {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    ///
    /// When a name is taken.
    pub fn new(registry: &Registry) -> anyhow::Result<Self> {
        let sock_diag = SockDiag::open()
            .inspect_err(|error| {
                warn!(%error, "early leavers of TIME_WAIT are shared out among all processes");
            })
            .ok();
        let this = Self {
            sock_diag: Arc::new(Mutex::new(sock_diag)),
            elsewhere: Arc::default(),
            sockets_drift: IntGaugeVec::new(opts(&SOCKETS_DRIFT), SOCKETS_DRIFT.labels)?,
            netns_time_wait_drift: IntGaugeVec::new(
                opts(&NETNS_TIME_WAIT_DRIFT),
                NETNS_TIME_WAIT_DRIFT.labels,
            )?,
            netns_shown: Arc::default(),
            seeded: IntCounter::with_opts(opts(&SEEDED))?,
            moved: IntCounter::with_opts(opts(&MOVED))?,
            resync_failures: IntCounter::with_opts(opts(&RESYNC_FAILURES))?,
            reconcile_failures: IntCounter::with_opts(opts(&RECONCILE_FAILURES))?,
        };
        let collectors: [Box<dyn Collector>; 6] = [
            Box::new(this.sockets_drift.clone()),
            Box::new(this.netns_time_wait_drift.clone()),
            Box::new(this.seeded.clone()),
            Box::new(this.moved.clone()),
            Box::new(this.resync_failures.clone()),
            Box::new(this.reconcile_failures.clone()),
        ];
        for collector in collectors {
            registry
                .register(collector)
                .context("cannot register a metric")?;
        }
        Ok(this)
    }

    /// Notes the result of a walk over the open files.
    pub fn resynced(&self, result: &anyhow::Result<Resynced>) {
        match result {
            Ok(resynced) => {
                self.seeded.inc_by(resynced.seeded);
                self.moved.inc_by(resynced.moved);
            }
            Err(_) => self.resync_failures.inc(),
        }
    }

    /// Shows how far the live sockets are off.
    pub fn show_drift(&self, drift: i64) {
        let none: [&str; 0] = [];
        self.sockets_drift.with_label_values(&none).set(drift);
    }

    /// Shows how far the sockets in TIME_WAIT of each namespace are off.
    pub fn show_netns_drift(&self, drifts: &[(u32, i64)]) {
        let mut shown = lock(&self.netns_shown);
        let gone = std::mem::take(&mut *shown);
        shown.extend(drifts.iter().map(|(netns, _)| *netns));
        for netns in gone.difference(&shown) {
            let _ = self
                .netns_time_wait_drift
                .remove_label_values(&[&netns.to_string()]);
        }
        for (netns, drift) in drifts {
            self.netns_time_wait_drift
                .with_label_values(&[&netns.to_string()])
                .set(*drift);
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
            self.reconcile_failures.inc();
            // The last ones would look like those of now.
            self.sockets_drift.reset();
            self.show_netns_drift(&[]);
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
        self.show_drift(live - in_use as i64);
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
            self.show_netns_drift(&drifts);
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
