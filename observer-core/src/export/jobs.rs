//! The metrics of the daemon's recurring jobs: how they run, and what walks over open files and
//! comparisons with the kernel's own socket counts found.

use std::{collections::HashSet, time::Duration};

use prometheus::{CounterVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::metric::{Metric, Scope, Type};

const RUNS: Metric = Metric {
    name: "observer_job_runs_total",
    kind: Type::Counter,
    scope: Scope::Observer,
    unit: "runs",
    // Not `job`, which Prometheus sets to the scrape job's name.
    labels: &["task"],
    hooks: "",
    help: "Finished runs of a recurring job of the observer, failed ones included.",
    query: "rate(observer_job_runs_total[5m]) == 0",
};
const FAILURES: Metric = Metric {
    name: "observer_job_failures_total",
    help: "Runs of a job that failed. The log says why; what the job reports is absent until it \
           succeeds.",
    query: "increase(observer_job_failures_total[1h]) > 0",
    ..RUNS
};
const SECONDS: Metric = Metric {
    name: "observer_job_seconds_total",
    unit: "seconds",
    help: "Time that a job's runs took, waiting included.",
    query: "rate(observer_job_seconds_total[5m]) / rate(observer_job_runs_total[5m])",
    ..RUNS
};
const CPU_SECONDS: Metric = Metric {
    name: "observer_job_cpu_seconds_total",
    help: "CPU time of a job's runs: of the thread that ran it, what the kernel did for it included.",
    query: "sum by (task) (rate(observer_job_cpu_seconds_total[5m]))",
    ..SECONDS
};
const SEEDED: Metric = Metric {
    name: "observer_seeded_sockets_total",
    unit: "sockets",
    labels: &[],
    help: "Sockets that were opened before the observer saw them and that a walk over open files \
           assigned to a process.",
    query: "increase(observer_seeded_sockets_total[5m]) > 0",
    ..RUNS
};
const MOVED: Metric = Metric {
    name: "observer_moved_sockets_total",
    help: "Sockets that a walk over open files assigned to another process: passed with \
           SCM_RIGHTS, inherited, or accepted through io_uring.",
    query: "rate(observer_moved_sockets_total[5m])",
    ..SEEDED
};
const SOCKETS_DRIFT: Metric = Metric {
    name: "observer_sockets_drift",
    kind: Type::Gauge,
    unit: "sockets",
    labels: &[],
    help: "Live TCP sockets counted by the observer minus those counted by the kernel in the \
           network namespaces of all processes (sockstat, TCP inuse). Sockets in namespaces without a \
           process are left out, as of the last walk over connections. A constant negative value \
           comes from sockets without a visible process, such as those of the kernel; a value \
           that keeps moving away from 0 means that sockets are missed.",
    query: "abs(delta(observer_sockets_drift[1h])) > 100",
    ..RUNS
};
const NETNS_TIME_WAIT_DRIFT: Metric = Metric {
    name: "observer_netns_time_wait_drift_sockets",
    labels: &["netns"],
    help: "Sockets in TIME_WAIT counted by the observer minus those counted by the kernel, by \
           network namespace (inode number). Negative in the first minute, because some sockets \
           are older than the observer; later, if the map of sockets in TIME_WAIT was full \
           (observer_map_full_total).",
    query: "abs(observer_netns_time_wait_drift_sockets) > 100",
    ..SOCKETS_DRIFT
};

/// Everything that is registered here, for the documents.
pub const METRICS: &[&Metric] = &[
    &RUNS,
    &FAILURES,
    &SECONDS,
    &CPU_SECONDS,
    &SEEDED,
    &MOVED,
    &SOCKETS_DRIFT,
    &NETNS_TIME_WAIT_DRIFT,
];

fn opts(metric: &Metric) -> Opts {
    Opts::new(metric.name, metric.help)
}

/// How jobs run.
#[derive(Clone)]
pub struct JobMetrics {
    runs: IntCounterVec,
    failures: IntCounterVec,
    seconds: CounterVec,
    cpu_seconds: CounterVec,
}

impl JobMetrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    ///
    /// When a name is taken.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let this = Self {
            runs: IntCounterVec::new(opts(&RUNS), RUNS.labels)?,
            failures: IntCounterVec::new(opts(&FAILURES), FAILURES.labels)?,
            seconds: CounterVec::new(opts(&SECONDS), SECONDS.labels)?,
            cpu_seconds: CounterVec::new(opts(&CPU_SECONDS), CPU_SECONDS.labels)?,
        };
        registry.register(Box::new(this.runs.clone()))?;
        registry.register(Box::new(this.failures.clone()))?;
        registry.register(Box::new(this.seconds.clone()))?;
        registry.register(Box::new(this.cpu_seconds.clone()))?;
        Ok(this)
    }

    /// Shows a job's counters from the start, so that `rate()` sees their first step.
    pub fn begin(&self, job: &str) {
        self.runs.with_label_values(&[job]);
        self.failures.with_label_values(&[job]);
        self.seconds.with_label_values(&[job]);
        self.cpu_seconds.with_label_values(&[job]);
    }

    /// Counts a finished run, with its duration and its CPU time.
    pub fn finished(&self, job: &str, took: Duration, cpu: Duration, failed: bool) {
        let label = [job];
        self.runs.with_label_values(&label).inc();
        let failures = self.failures.with_label_values(&label);
        failures.inc_by(u64::from(failed));
        let seconds = self.seconds.with_label_values(&label);
        seconds.inc_by(took.as_secs_f64());
        let seconds = self.cpu_seconds.with_label_values(&label);
        seconds.inc_by(cpu.as_secs_f64());
    }
}

/// Results of walks over the open files of all processes.
pub struct WalkMetrics {
    seeded: IntCounter,
    moved: IntCounter,
}

impl WalkMetrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    ///
    /// When a name is taken.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let this = Self {
            seeded: IntCounter::with_opts(opts(&SEEDED))?,
            moved: IntCounter::with_opts(opts(&MOVED))?,
        };
        registry.register(Box::new(this.seeded.clone()))?;
        registry.register(Box::new(this.moved.clone()))?;
        Ok(this)
    }

    /// Counts the sockets that a walk took in, and those that it gave to another process.
    pub fn found(&self, seeded: u64, moved: u64) {
        self.seeded.inc_by(seeded);
        self.moved.inc_by(moved);
    }
}

/// How far our counts are from the kernel's.
pub struct DriftMetrics {
    /// Without labels. A vector, because it is absent until there was a comparison.
    sockets: IntGaugeVec,
    netns_time_wait: IntGaugeVec,
    /// The namespaces that the last comparison showed.
    netns_shown: HashSet<u32>,
}

impl DriftMetrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    ///
    /// When a name is taken.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let this = Self {
            sockets: IntGaugeVec::new(opts(&SOCKETS_DRIFT), SOCKETS_DRIFT.labels)?,
            netns_time_wait: IntGaugeVec::new(
                opts(&NETNS_TIME_WAIT_DRIFT),
                NETNS_TIME_WAIT_DRIFT.labels,
            )?,
            netns_shown: HashSet::new(),
        };
        registry.register(Box::new(this.sockets.clone()))?;
        registry.register(Box::new(this.netns_time_wait.clone()))?;
        Ok(this)
    }

    /// Shows how many live sockets too many (or too few, if negative) are counted.
    pub fn show_sockets(&self, drift: i64) {
        let none: [&str; 0] = [];
        self.sockets.with_label_values(&none).set(drift);
    }

    /// Shows the same for sockets in TIME_WAIT, by network namespace (inode number), and removes
    /// namespaces that are not among these.
    pub fn show_time_wait(&mut self, drifts: &[(u32, i64)]) {
        let shown: HashSet<_> = drifts.iter().map(|(netns, _)| *netns).collect();
        for netns in self.netns_shown.difference(&shown) {
            // The series exists from the last call.
            let _ = self
                .netns_time_wait
                .remove_label_values(&[&netns.to_string()]);
        }
        self.netns_shown = shown;
        for (netns, drift) in drifts {
            self.netns_time_wait
                .with_label_values(&[&netns.to_string()])
                .set(*drift);
        }
    }

    /// Removes the values, which would look like the result of a current comparison.
    pub fn withdraw(&mut self) {
        self.sockets.reset();
        self.show_time_wait(&[]);
    }
}
