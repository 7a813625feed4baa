//! The metrics of resynchronisation and of the comparison with the kernel's own socket counts.

use std::{collections::HashSet, sync::Mutex};

use prometheus::{IntCounter, IntGaugeVec, Opts, Registry, core::Collector};

use super::metric::{Metric, Scope, Type};
use crate::sync::lock;

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
    "Live TCP sockets counted by the observer minus those counted by the kernel in the \
     network namespaces of all processes (sockstat, TCP inuse). A constant negative value \
     comes from sockets without a visible process, such as those of the kernel; a value \
     that keeps moving away from 0 means that sockets are missed.",
    "abs(delta(observer_sockets_drift[1h])) > 100",
);
const NETNS_TIME_WAIT_DRIFT: Metric = Metric {
    labels: &["netns"],
    ..own(
        "observer_netns_time_wait_drift_sockets",
        Type::Gauge,
        "sockets",
        "Sockets in TIME_WAIT counted by the observer minus those counted by the kernel, by \
     network namespace (inode number). Absent if TIME_WAIT is inferred. Negative in the \
     first minute, because some sockets are older than the observer.",
        "abs(observer_netns_time_wait_drift_sockets) > 100",
    )
};
const SEEDED: Metric = own(
    "observer_seeded_sockets_total",
    Type::Counter,
    "sockets",
    "Sockets that were opened before the observer saw them and that a walk over open files \
     assigned to a process.",
    "increase(observer_seeded_sockets_total[5m]) > 0",
);
const MOVED: Metric = own(
    "observer_moved_sockets_total",
    Type::Counter,
    "sockets",
    "Sockets that a walk over open files assigned to another process: passed with \
     SCM_RIGHTS, inherited, or accepted through io_uring.",
    "rate(observer_moved_sockets_total[5m])",
);
const RESYNC_FAILURES: Metric = own(
    "observer_resync_failures_total",
    Type::Counter,
    "walks",
    "Failed walks over the open files of all processes.",
    "increase(observer_resync_failures_total[1h]) > 0",
);
const RECONCILE_FAILURES: Metric = own(
    "observer_reconcile_failures_total",
    Type::Counter,
    "comparisons",
    "Failed comparisons with the kernel's own socket counts.",
    "increase(observer_reconcile_failures_total[1h]) > 0",
);

/// What [`DriftMetrics`] registers, for the documents.
pub const METRICS: &[&Metric] = &[
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

/// What resynchronisation did, and how far our counts are from the kernel's.
pub struct DriftMetrics {
    /// Without labels. A vector, because it is absent until there was a comparison.
    sockets_drift: IntGaugeVec,
    netns_time_wait_drift: IntGaugeVec,
    /// The namespaces that the last comparison showed.
    netns_shown: Mutex<HashSet<u32>>,
    seeded: IntCounter,
    moved: IntCounter,
    resync_failures: IntCounter,
    reconcile_failures: IntCounter,
}

impl DriftMetrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    ///
    /// When a name is taken.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let this = Self {
            sockets_drift: IntGaugeVec::new(opts(&SOCKETS_DRIFT), SOCKETS_DRIFT.labels)?,
            netns_time_wait_drift: IntGaugeVec::new(
                opts(&NETNS_TIME_WAIT_DRIFT),
                NETNS_TIME_WAIT_DRIFT.labels,
            )?,
            netns_shown: Mutex::default(),
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
            registry.register(collector)?;
        }
        Ok(this)
    }

    /// Counts what a walk over the open files found.
    pub fn resynced(&self, seeded: u64, moved: u64) {
        self.seeded.inc_by(seeded);
        self.moved.inc_by(moved);
    }

    /// Counts a walk over the open files that failed.
    pub fn resync_failed(&self) {
        self.resync_failures.inc();
    }

    /// Counts a comparison that failed, and removes the results of the last one.
    pub fn reconcile_failed(&self) {
        self.reconcile_failures.inc();
        self.sockets_drift.reset();
        self.show_netns_drift(&[]);
    }

    /// Shows how many live sockets too many (or too few, if negative) are counted.
    pub fn show_drift(&self, drift: i64) {
        let none: [&str; 0] = [];
        self.sockets_drift.with_label_values(&none).set(drift);
    }

    /// Shows the same for sockets in TIME_WAIT, by network namespace (inode number), and removes
    /// namespaces that are not among these.
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
}
