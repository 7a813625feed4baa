//! Properties of observer's families: which exist by process and which only by name, and invariants of all of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Metrics, Sample, left_out, program::comm_of};

/// Families that exist by name and by process, without the prefix of either.
const BY_BOTH: [&str; 15] = [
    "connections",
    "connects_total",
    "accepts_total",
    "resets_total",
    "connection_errors_total",
    "time_wait",
    "ephemeral_ports_exhausted_total",
    "setsockopt_failures_total",
    "fd_exhausted_total",
    "retransmits_total",
    "udp_receive_drops_total",
    "listen_backlog",
    "listen_backlog_max",
    "listen_overflows_total",
    "ephemeral_ports_used",
];

/// Families that exist only by name, with the suffixes of histograms.
const BY_NAME: [&str; 16] = [
    "state_transitions_total",
    "binds_failed_total",
    "time_wait_entered_total",
    "time_wait_ended_total",
    "time_wait_overflows_total",
    "listen_drops_total",
    "listen_backlog_fullest_ratio",
    "ephemeral_ports_blocked",
    "ephemeral_ports_ratio",
    "connect_seconds_count",
    "connect_seconds_sum",
    "conn_age_seconds_count",
    "conn_age_seconds_sum",
    "close_wait_seconds_count",
    "close_wait_seconds_sum",
    "close_wait_seconds_bucket",
];

const PROCESS: &str = "socket_process_";

/// The name by process of a family that has one, whichever of both it is given.
fn by_process(name: &str) -> Option<String> {
    if name.starts_with(PROCESS) {
        return Some(name.to_owned());
    }
    let what = name.strip_prefix("socket_")?;
    BY_BOTH.contains(&what).then(|| format!("{PROCESS}{what}"))
}

impl Metrics {
    /// The same for one process, by the family's name: its own series if they exist. For a family
    /// that exists only by name, the series of the process's name, which no other process may have
    /// then.
    pub fn of(&self, pid: u32, name: &str, labels: &[(&str, &str)]) -> f64 {
        if let Some(name) = by_process(name) {
            let pid = pid.to_string();
            return self.sum(&name, &[&[("pid", pid.as_str())], labels].concat());
        }
        let what = name.strip_prefix("socket_");
        assert!(
            what.is_some_and(|what| BY_NAME.contains(&what)),
            "{name} is no family of processes"
        );
        let comm = comm_of(pid).unwrap_or_else(|| {
            panic!("{name} is there by name, and {pid} is no program with a name of its own")
        });
        self.assert_alone(pid, &comm);
        self.by(&comm, name, labels)
    }

    /// Asserts that [`of`](Self::of) is `expected`, and shows all samples if it is not.
    #[track_caller]
    pub fn assert_of(&self, pid: u32, name: &str, labels: &[(&str, &str)], expected: f64) {
        let counted = self.of(pid, name, labels);
        assert_eq!(counted, expected, "{name}{labels:?}\n{}", self.shown());
    }

    /// The count of all processes of a name, running and ended.
    pub fn by(&self, comm: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
        assert!(!name.starts_with(PROCESS), "{name} is not by name");
        self.sum(name, &[&[("comm", comm)], labels].concat())
    }

    /// The counts of a process, by the result of `key` for the labels. Asserts that its name has
    /// the same counts, unless another process has the same name; a family that exists only by name
    /// is read by its name.
    pub fn counted(
        &self,
        pid: u32,
        name: &str,
        key: impl Fn(&BTreeMap<String, String>) -> String,
    ) -> BTreeMap<String, u64> {
        let select = |name: &str, label: (&str, &str)| -> BTreeMap<String, u64> {
            self.select(name, &[label])
                .map(|sample| (key(&sample.labels), sample.value as u64))
                .collect()
        };
        let by_name = comm_of(pid).map(|comm| {
            self.assert_alone(pid, &comm);
            select(name, ("comm", &comm))
        });
        let Some(process) = by_process(name) else {
            return by_name.expect("a program with a name of its own");
        };
        let counted = select(&process, ("pid", &pid.to_string()));
        if let Some(by_name) = by_name {
            assert_eq!(by_name, counted, "{}", self.shown());
        }
        counted
    }

    /// Whether a process has this family by process, given by either name.
    pub fn has_of(&self, pid: u32, name: &str, labels: &[(&str, &str)]) -> bool {
        let name = by_process(name).expect("a family by process");
        let pid = pid.to_string();
        self.has(&name, &[&[("pid", pid.as_str())], labels].concat())
    }

    /// Whether a process has series of its own.
    pub fn shows(&self, pid: u32) -> bool {
        let pid = pid.to_string();
        let of = |sample: &Sample| {
            sample.name.starts_with(PROCESS) && sample.labels.get("pid") == Some(&pid)
        };
        self.samples.iter().any(of)
    }

    /// Whether a process of this name has series of its own.
    pub fn shows_name(&self, comm: &str) -> bool {
        let of = |sample: &Sample| {
            let labels = &sample.labels;
            sample.name.starts_with(PROCESS) && labels.get("comm").is_some_and(|it| it == comm)
        };
        self.samples.iter().any(of)
    }

    /// Asserts that only this process has the name that the test gave it.
    fn assert_alone(&self, pid: u32, comm: &str) {
        let pid = pid.to_string();
        for Sample { name, labels, .. } in &self.samples {
            // Findings outlive their processes.
            if !name.starts_with(PROCESS) {
                continue;
            }
            let (Some(its), Some(shown)) = (labels.get("pid"), labels.get("comm")) else {
                continue;
            };
            assert_eq!(
                *its == pid,
                shown == comm,
                "process {its} is called {shown}: what is there by name is not {pid}'s alone"
            );
        }
    }

    /// Whether a signal is observed on this kernel.
    pub fn has_signal(&self, signal: &str) -> bool {
        self.has("observer_signal_info", &[("signal", signal)])
    }

    /// The same, for parts of tests that are skipped if it is not.
    pub fn observes(&self, signal: &str) -> bool {
        let observed = self.has_signal(signal);
        if !observed {
            left_out!("{signal} is not observed on this kernel");
        }
        observed
    }

    /// Runs of a program that the kernel skipped.
    pub fn skipped_runs(&self, program: &str) -> f64 {
        self.sum("observer_bpf_missed_runs_total", &[("program", program)])
    }

    /// The types of the hooks that are attached for a signal.
    pub fn hook_types(&self, signal: &str) -> BTreeSet<String> {
        let labels = [("signal", signal)];
        self.select("observer_hook_attached", &labels)
            .filter(|sample| sample.value == 1.0)
            .map(|sample| sample.labels["attach_type"].clone())
            .collect()
    }

    /// Whether hooks on functions are attached for a signal.
    pub fn by_function(&self, signal: &str) -> bool {
        let functions = ["fentry", "fexit", "kprobe", "kretprobe"];
        let types = self.hook_types(signal);
        functions.into_iter().any(|it| types.contains(it))
    }

    /// Asserts `seen == counted + unattributed + lost` for every signal, and the invariants of the
    /// families by name and by process.
    pub fn assert_complete(&self) {
        for seen in self.select("observer_events_seen_total", &[]) {
            let signal = seen.labels["signal"].as_str();
            let settled = self.sum("observer_events_total", &[("signal", signal)]);
            assert_eq!(
                seen.value,
                settled,
                "events of {signal} are missing:\n{}",
                self.shown()
            );
        }
        self.assert_named();
    }

    /// Asserts that only families by process have a pid, which is a number; that there is one
    /// series of each kind; and that a name has counted all that its processes have.
    fn assert_named(&self) {
        let mut seen = BTreeSet::new();
        let mut parts: BTreeMap<(String, BTreeMap<String, String>), f64> = BTreeMap::new();
        for sample in &self.samples {
            let Sample {
                name,
                labels,
                value,
            } = sample;
            assert!(seen.insert((name, labels)), "twice: {name}{labels:?}");
            if name.starts_with("socket_anomaly") {
                // Of a process, or of what has none.
                continue;
            }
            let pid = labels.get("pid");
            assert_eq!(
                pid.is_some(),
                name.starts_with(PROCESS),
                "a pid where none belongs, or none: {name}{labels:?}"
            );
            let Some(pid) = pid else { continue };
            assert!(pid.parse::<u32>().is_ok(), "{name}{labels:?}");
            let what = name.trim_start_matches(PROCESS);
            if what.ends_with("_total") {
                let mut labels = labels.clone();
                labels.remove("pid");
                let part = parts.entry((format!("socket_{what}"), labels));
                *part.or_default() += value;
            }
        }
        for ((name, labels), part) in parts {
            let labels: Vec<_> = labels.iter().map(|(k, v)| (&**k, &**v)).collect();
            let whole = self.sum(&name, &labels);
            assert!(whole >= part, "{name}{labels:?}: {part} of {whole}");
        }
    }
}
