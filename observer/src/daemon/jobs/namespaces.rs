//! Reads the kernel's counters of each network namespace.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use observer_core::{
    config::Settings,
    net::{counters::NamespaceCounters, netns::Representatives},
    process::ProcRoot,
    sync::read,
};
use tracing::debug;

use crate::daemon::{
    scheduler::Job,
    shared::{Paced, Shared, timed},
};

/// Each reading sums some 130 counters over all CPUs (`netstat_seq_show`).
const INTERVAL: Duration = Duration::from_secs(2);
/// A run is followed by a pause of this many times its CPU time: at most 1/200 of a CPU, as for 100 namespaces each
/// 2 s.
const PAUSE: u32 = 200;
/// The longest pause, so that the detectors see each ten seconds more than one reading: from 200 namespaces on, it may
/// take more of a CPU.
const LONGEST: Duration = Duration::from_secs(4);

pub struct Namespaces {
    shared: Shared,
    processes: Representatives,
    pace: Paced,
}

impl Namespaces {
    pub fn new(shared: Shared) -> Self {
        Self {
            shared,
            processes: Representatives::new(ProcRoot::default()),
            pace: Paced::new(),
        }
    }

    /// The counters of all namespaces with sockets, as of the last walk over them.
    fn read(&mut self) -> Vec<NamespaceCounters> {
        let now = Instant::now();
        let namespaces: Vec<u32> = {
            let table = read(&self.shared.table);
            table.ports_available().keys().copied().collect()
        };
        let mut counters = Vec::new();
        for netns in namespaces {
            match NamespaceCounters::read(netns, &mut self.processes, now) {
                Ok(read) => counters.extend(read),
                // The other namespaces are not affected.
                Err(error) => debug!(netns, %error, "cannot read the counters of a namespace"),
            }
        }
        counters
    }
}

impl Job for Namespaces {
    fn name(&self) -> &'static str {
        "namespaces"
    }

    fn interval(&self, settings: &Settings) -> Duration {
        settings.tick_interval.max(INTERVAL)
    }

    fn run(&mut self) -> anyhow::Result<()> {
        if !self.pace.is_due() {
            return Ok(());
        }
        let (counters, took) = timed(|| self.read());
        self.pace.pause((PAUSE * took).min(LONGEST));
        self.shared.namespaces.send_replace(Arc::new(counters));
        Ok(())
    }
}
