//! Walks over connections and sockets in TIME_WAIT: local ports in use by destination, and sockets that
//! have been in a state for long.

use std::{path::Path, sync::Arc, time::Duration};

use observer_core::{
    config::Settings,
    net::sysctls::{self, Sysctls},
    sync::{read, write},
    walk::{Collector, History, Pause, Walk},
};
use tracing::debug;

use crate::{
    daemon::{
        scheduler::Job,
        shared::{Paced, Shared, timed},
    },
    kernel::monotonic_ns,
};

pub struct Ports {
    shared: Shared,
    /// Destinations shown of each process.
    top: usize,
    /// Minimum wait of a stalled connection.
    stall_after: Duration,
    /// The longest pause, unless walks take longer than a small fraction of it.
    longest: Duration,
    /// Share of one CPU that walks may take.
    share: f64,
    pace: Paced,
    /// Next to `pace`, for when a finding may come.
    urgent: Paced,
    last_took: Duration,
    history: History,
}

impl Ports {
    pub fn new(shared: Shared) -> Self {
        Self {
            shared,
            top: 0,
            stall_after: Duration::ZERO,
            longest: Duration::ZERO,
            share: 1.0,
            pace: Paced::new(),
            urgent: Paced::new(),
            last_took: Duration::ZERO,
            history: History::default(),
        }
    }

    /// Walks once; `None` if this kernel does not support it.
    fn walk(&mut self) -> anyhow::Result<Option<(Walk, Sysctls)>> {
        let mut collector = Collector::new(self.stall_after);
        let began = monotonic_ns();
        let spaces = self.shared.live.walk(|socket| collector.add(&socket))?;
        let walked = Duration::from_nanos(began)..Duration::from_nanos(monotonic_ns());
        let Some(spaces) = spaces else {
            return Ok(None);
        };
        let sysctls = Sysctls {
            host: sysctls::read_host(Path::new("/proc/sys")),
            namespaces: self.shared.live.sysctls(&spaces),
        };
        let walk = collector.finish(&spaces, walked, &mut self.history);
        Ok(Some((walk, sysctls)))
    }
}

impl Job for Ports {
    fn name(&self) -> &'static str {
        "ports"
    }

    fn interval(&self, settings: &Settings) -> Duration {
        settings.tick_interval
    }

    fn configure(&mut self, settings: &Settings) {
        self.top = settings.top_destinations as usize;
        // The kernel programs look up peers from then on.
        self.stall_after = settings.stall_after.max(Duration::from_secs(1));
        self.longest = settings.resync_interval;
        self.share = settings.walk_cpu;
    }

    fn run(&mut self) -> anyhow::Result<()> {
        let is_urgent = || self.urgent.is_due() && read(&self.shared.engine).wants_walks();
        if !self.pace.is_due() && !is_urgent() {
            return Ok(());
        }
        let (walk, took) = timed(|| self.walk());
        let walk = walk.inspect_err(|_| {
            // Otherwise the last reading would stay, although it is outdated.
            let mut table = write(&self.shared.table);
            table.forget_ports();
            table.update_sysctls(Sysctls::default());
            self.shared.walk.send_replace(Arc::default());
        })?;
        let Some((walk, sysctls)) = walk else {
            return Ok(());
        };
        debug!(
            shares = walk.shares.len(),
            ?took,
            "walk over connections finished"
        );
        // The minimum of two, because accounting of CPU time is imprecise on a busy machine.
        let cost = took.min(self.last_took);
        self.last_took = took;
        let (fullest, growth) = (walk.fullest(), self.history.growth());
        let pause = Pause::after(cost, fullest, growth, self.longest, self.share);
        self.pace.pause(pause.usual);
        self.urgent.pause(pause.urgent);
        {
            let mut table = self.shared.discover();
            table.update_ports(&walk, self.top);
            table.update_sysctls(sysctls);
        }
        self.shared.walk.send_replace(Arc::new(walk));
        Ok(())
    }
}
