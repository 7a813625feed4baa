//! Runs the detectors over what the last tick and the other jobs found.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use observer_common::ProcessKey;
use observer_core::{
    config::{LogFormat, Settings},
    contract::KernelSource as _,
    detect::{CounterClasses, Gatherer, Inputs},
    process::fd_kinds::FdKinds,
    sync::{read, write},
    table::{ProcessVitals, Snapshot},
};

use crate::daemon::{findings, scheduler::Job, shared::Shared};

/// Interval between two looks at the kinds of a process's descriptors.
const LOOK: Duration = Duration::from_secs(30);
/// Maximum number of processes whose descriptors are looked at in one run.
const LOOKS: usize = 4;

pub struct Detect {
    shared: Shared,
    classes: CounterClasses,
    gatherer: Gatherer,
    /// Of the last snapshot: when its tick began.
    last_ns: u64,
    fd_kinds: HashMap<ProcessKey, Arc<FdKinds>>,
    looked_at: HashMap<ProcessKey, Instant>,
    log_format: LogFormat,
}

impl Detect {
    pub fn new(shared: Shared) -> Self {
        Self {
            classes: CounterClasses::new(|index| shared.live.reset_reason(index)),
            shared,
            gatherer: Gatherer::default(),
            last_ns: 0,
            fd_kinds: HashMap::new(),
            looked_at: HashMap::new(),
            log_format: LogFormat::Text,
        }
    }

    /// Looks at the descriptors of processes that have used a third of their limit, below which `fd_leak` is not
    /// raised by default: a finding of these names the kinds.
    fn look_at_descriptors(&mut self, snapshot: &Snapshot) {
        let is_filling = |it: &&ProcessVitals| {
            let resources = &it.resources;
            let both = resources.open_fds.zip(resources.max_fds);
            both.is_some_and(|(open, limit)| open >= limit / 3)
        };
        let processes = snapshot.processes.iter().filter(is_filling);
        let suspects: HashSet<_> = processes.map(|it| it.key).collect();
        self.fd_kinds.retain(|key, _| suspects.contains(key));
        self.looked_at.retain(|key, _| suspects.contains(key));
        let now = Instant::now();
        let due = |key: &&ProcessKey| {
            let last = self.looked_at.get(*key);
            last.is_none_or(|last| now.duration_since(*last) >= LOOK)
        };
        let due: Vec<_> = suspects.iter().filter(due).take(LOOKS).copied().collect();
        for key in due {
            self.looked_at.insert(key, now);
            if let Some(kinds) = self.shared.facts.fd_kinds(&key) {
                self.fd_kinds.insert(key, Arc::new(kinds));
            }
        }
    }
}

impl Job for Detect {
    fn name(&self) -> &'static str {
        "detect"
    }

    /// A run without a new snapshot does nothing; with one, it should not be late.
    fn interval(&self, settings: &Settings) -> Duration {
        settings.tick_interval / 4
    }

    fn configure(&mut self, settings: &Settings) {
        let mut engine = write(&self.shared.engine);
        engine.set_thresholds(settings.thresholds.clone());
        engine.set_pace(settings.tick_interval);
        self.log_format = settings.log_format;
    }

    fn run(&mut self) -> anyhow::Result<()> {
        let snapshot = self.shared.snapshot.borrow().clone();
        if snapshot.monotonic_ns == self.last_ns {
            return Ok(());
        }
        self.last_ns = snapshot.monotonic_ns;
        self.look_at_descriptors(&snapshot);
        // Without sources, no scan is found; the other detectors go on.
        let (sources, failed) = match self.shared.live.scan_sources() {
            Ok(sources) => (sources, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let namespaces = self.shared.namespaces.borrow().clone();
        let sample = self.gatherer.gather(Inputs {
            snapshot: &snapshot,
            classes: &self.classes,
            fd_kinds: &self.fd_kinds,
            namespaces: &namespaces,
            reset_peers: &read(&self.shared.reset_peers),
            sources,
            netns: &|process| self.shared.facts.netns(process),
        });
        let (changes, suspects_resets) = {
            let mut engine = write(&self.shared.engine);
            (engine.step(&sample), engine.suspects_resets())
        };
        write(&self.shared.reset_peers).want(suspects_resets, sample.now);
        findings::log(&changes, sample.now, self.log_format);
        failed.map_or(Ok(()), Err)
    }
}
