//! Runs the detectors on the data of the last tick and the other jobs.

use std::{collections::HashMap, sync::Arc, time::Duration};

use nix::sys::utsname::uname;
use observer_common::ProcessKey;
use observer_core::{
    config::{LogFormat, Settings},
    detect::{CounterClasses, Gatherer, Host, Inputs, Process},
    hints::Kernel,
    sync::{read, write},
};

use crate::daemon::{findings, scheduler::Job, shared::Shared};

pub struct Detect {
    shared: Shared,
    classes: CounterClasses,
    gatherer: Gatherer,
    host: Host,
    /// Calls that failed for want of a descriptor, of processes that have any.
    exhausted: HashMap<ProcessKey, [u64; 2]>,
    /// Start of the tick of the last snapshot.
    last_ns: u64,
    log_format: LogFormat,
}

impl Detect {
    pub fn new(shared: Shared) -> Self {
        let facts = Arc::clone(&shared.facts);
        let kernel = uname()
            .ok()
            .map(|it| it.release().to_string_lossy().into_owned());
        Self {
            exhausted: HashMap::new(),
            host: Host {
                kernel: kernel.as_deref().and_then(Kernel::of_release),
                netns: Arc::new(move |process| facts.netns(process)),
                ..Host::default()
            },
            classes: CounterClasses::of_kernel(&*shared.live),
            shared,
            gatherer: Gatherer::default(),
            last_ns: 0,
            log_format: LogFormat::Text,
        }
    }
}

impl Detect {
    /// Has the descriptors counted of those whose calls began to fail for want of one: a finding needs to know.
    fn measure_exhausted(&mut self, processes: &[Process]) {
        let failed = processes
            .iter()
            .filter(|it| it.counts.exhausted != [0; 2])
            .map(|it| (it.key, it.counts.exhausted));
        let failed: HashMap<_, _> = failed.collect();
        let more = failed
            .iter()
            .filter(|it| self.exhausted.get(it.0) != Some(it.1));
        self.shared.facts.watch_closely(more.map(|(key, _)| key));
        self.exhausted = failed;
    }
}

impl Job for Detect {
    fn name(&self) -> &'static str {
        "detect"
    }

    /// A run without a new snapshot does nothing; a new snapshot should be handled soon.
    fn interval(&self, settings: &Settings) -> Duration {
        settings.tick_interval / 4
    }

    fn configure(&mut self, settings: &Settings) {
        self.gatherer.set_thresholds(&settings.thresholds);
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
        // Without sources, no scan is found; the other detectors work.
        let (sources, failed) = match self.shared.live.scan_sources() {
            Ok(sources) => (sources, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let namespaces = self.shared.namespaces.borrow().clone();
        let fd_kinds = self.shared.fd_kinds.borrow().clone();
        let sample = self.gatherer.gather(Inputs {
            snapshot: &snapshot,
            classes: &self.classes,
            fd_kinds: &fd_kinds,
            namespaces: &namespaces,
            recorded_peers: &read(&self.shared.recorded_peers),
            sources,
            netns: &|process| self.shared.facts.netns(process),
        });
        self.measure_exhausted(&sample.processes);
        self.host.sysctls = Arc::clone(read(&self.shared.table).sysctls());
        let (changes, suspected) = {
            let mut engine = write(&self.shared.engine);
            engine.set_host(self.host.clone());
            (engine.step(&sample), engine.suspected())
        };
        write(&self.shared.recorded_peers).want(suspected, sample.now);
        findings::log(&changes, sample.now, self.log_format);
        failed.map_or(Ok(()), Err)
    }
}
