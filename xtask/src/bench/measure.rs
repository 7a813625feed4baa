//! One run: a fresh network namespace, one subject, one load.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use observer_test_support::{Metrics, Netns, wait_for_tick};
use serde::{Deserialize, Serialize};

use super::{
    load::{COMM, Load, Made},
    proc::{self, Memory, Runs},
    scrape::{self, Wrong},
    subject::{Attached, Binaries, Hook, Subject},
};

/// Suffix of the names of iterators, which run at intervals and not at events.
const ITERATOR: &str = "_iter";

/// Run in the namespace of the load, which has more IPv6 addresses than one, as many as
/// observer/examples/bench_load/family.rs uses. The sockets of a minute of full load must fit into
/// TIME_WAIT, or the kernel skips it.
const SET_UP: &str = "
    for address in $(seq 1 64); do
        printf 'addr add fd00::%x/128 dev lo nodad\\n' $address
    done | ip -batch -
    echo 4000000 >/proc/sys/net/ipv4/tcp_max_tw_buckets";

/// The results of one run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Run {
    pub made: Made,
    /// By the observer's hook if there is one, else by the tool's program. Empty without statistics.
    pub programs: BTreeMap<String, Runs>,
    /// CPU time of the tool itself while the load ran, in seconds.
    pub cpu_seconds: f64,
    pub memory: Memory,
    /// Records lost because the ring was full.
    pub records_lost: u64,
    /// Events lost because a map was full, failed insertions into full maps, and runs that the kernel skipped.
    pub events_lost: u64,
    /// Counts that differ from the load.
    pub wrong: Vec<String>,
}

impl Run {
    /// All programs that run at events.
    pub fn all(&self) -> Runs {
        let mut all = Runs::default();
        for runs in self.programs.values() {
            all.add(*runs);
        }
        all
    }

    /// Kernel time in the tool's programs per connection, in nanoseconds.
    pub fn per_connection(&self) -> f64 {
        self.all().nanoseconds as f64 / self.made.connections() as f64
    }
}

/// Settings of all runs.
pub struct Bench {
    pub binaries: Binaries,
    pub hooks: Vec<Hook>,
}

impl Bench {
    /// Attaches `subject` for a moment.
    pub fn try_out(&self, subject: Subject) -> Result<()> {
        Attached::start(subject, &self.binaries, &self.hooks, &[]).map(drop)
    }

    /// Runs `load` beside `subject`; `statistics` says whether the kernel is to measure its
    /// programs, and `extra` are arguments for the observer.
    pub fn run(
        &self,
        subject: Subject,
        load: &Load,
        statistics: bool,
        extra: &[String],
    ) -> Result<Run> {
        self.run_and(subject, load, statistics, extra, |_| Ok(()))
    }

    /// The same, and asks `attached` afterwards, while the load's connections still stand.
    pub fn run_and(
        &self,
        subject: Subject,
        load: &Load,
        statistics: bool,
        extra: &[String],
        ask: impl FnOnce(&Attached) -> Result<()>,
    ) -> Result<Run> {
        let Self { binaries, hooks } = self;
        let _statistics = statistics
            .then(|| Attached::statistics(binaries))
            .transpose()?;
        let netns = Netns::set_up(SET_UP)?;
        let attached = Attached::start(subject, binaries, hooks, extra)
            .with_context(|| subject.name().to_owned())?;
        let mut running = load.prepare(&binaries.load, &netns)?;
        let (before, cpu_before) = (attached.programs()?, cpu(&attached)?);
        let made = running.go()?;
        let (cpu_after, after) = (cpu(&attached)?, attached.programs()?);
        let counted = scrape::wrong_load(&netns.snmp(), &made)?;
        ensure!(counted.is_empty(), "the load miscounts itself: {counted:?}");

        let mut run = Run {
            made,
            cpu_seconds: cpu_after - cpu_before,
            ..Run::default()
        };
        if statistics {
            run.programs = self.difference(&before, &after);
        }
        if let Some(pid) = attached.pid() {
            run.memory = proc::memory(pid, &binaries.maps)?;
        }
        if let Some(address) = attached.address {
            // Wait for pending events and new processes.
            wait_for_tick(address)?;
            let metrics = scrape::scrape(address)?.metrics;
            let sum = |name: &str, labels: &[(&str, &str)]| metrics.sum(name, labels) as u64;
            run.records_lost = sum("observer_records_lost_total", &[]);
            run.events_lost = sum("observer_events_total", &[("outcome", "lost")])
                + sum("observer_map_full_total", &[])
                + lost_runs(&metrics);
            let wrong = scrape::wrong_counts(&metrics, COMM, &made);
            run.wrong = wrong.iter().map(Wrong::to_string).collect();
        }
        ask(&attached)?;
        Ok(run)
    }

    /// Statistics of the programs between two readings, by hook for the observer and the no-op programs.
    pub fn difference(
        &self,
        before: &BTreeMap<String, Runs>,
        after: &BTreeMap<String, Runs>,
    ) -> BTreeMap<String, Runs> {
        let hook = |program: &str| {
            let hook = self.hooks.iter().find(|hook| hook.program == program);
            hook.map(|hook| hook.name.clone())
        };
        let mut hooks = BTreeMap::<String, Runs>::new();
        for (program, after) in after.iter().filter(|(name, _)| !name.ends_with(ITERATOR)) {
            let mut runs = after.since(before.get(program).copied().unwrap_or_default());
            if runs.runs == 0 {
                continue;
            }
            // A backup program's time is part of the cost of its event.
            let twin_of = program
                .contains("_again_")
                .then(|| hook(&program.replace("_again_", "_")))
                .flatten();
            if twin_of.is_some() {
                runs.runs = 0;
            }
            let name = twin_of.or_else(|| hook(program));
            let name = name.unwrap_or_else(|| program.clone());
            hooks.entry(name).or_default().add(runs);
        }
        hooks
    }

    /// CPU time per second of the observer during a load of `rate` connections per second.
    pub fn paced(&self, rate: u64, seconds: u64) -> Result<Run> {
        let load = Load {
            connections: rate * seconds,
            live: 0,
            rate: Some(rate),
            seconds: seconds * 2,
            processes: None,
            names: 1,
        };
        self.run(Subject::Observer, &load, false, &[])
    }
}

/// Runs that the kernel skipped and that no backup program handled.
fn lost_runs(metrics: &Metrics) -> u64 {
    let missed = |program: &str| metrics.skipped_runs(program);
    let all = metrics.sum("observer_bpf_missed_runs_total", &[]);
    let twins = [
        "state_tp_btf",
        "state_tracepoint",
        "destroy_tp_btf",
        "destroy_tracepoint",
        "accept_fexit",
    ];
    (all - twins.into_iter().map(missed).sum::<f64>()) as u64
}

fn cpu(attached: &Attached) -> Result<f64> {
    attached.pid().map_or(Ok(0.0), proc::cpu_seconds)
}
