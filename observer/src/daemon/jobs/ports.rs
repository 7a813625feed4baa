//! Counts local ports in use by destination.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use observer_core::{config::Settings, ports::Collector, sync::write};
use tracing::debug;

use crate::daemon::{scheduler::Job, shared::Shared};

/// A walk over the sockets is followed by a pause of this many times its CPU time, so that walks take
/// at most 1/800 of a CPU.
const PAUSE: u32 = 800;

pub struct Ports {
    shared: Shared,
    /// Destinations shown of each process.
    top: usize,
    /// The longest pause, however many sockets there are.
    longest: Duration,
    next_walk: Instant,
    last_took: Duration,
}

impl Ports {
    pub fn new(shared: Shared) -> Self {
        Self {
            shared,
            top: 0,
            longest: Duration::ZERO,
            next_walk: Instant::now(),
            last_took: Duration::ZERO,
        }
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
        self.longest = settings.resync_interval;
    }

    fn run(&mut self) -> anyhow::Result<()> {
        if Instant::now() < self.next_walk {
            return Ok(());
        }
        let started = cpu_time();
        let mut collector = Collector::default();
        let spaces = self
            .shared
            .live
            .walk_ports(|port| collector.add(&port))
            // Otherwise the last reading would stay, although it is outdated.
            .inspect_err(|_| write(&self.shared.table).forget_ports())?;
        let Some(spaces) = spaces else {
            return Ok(());
        };
        let usage = collector.finish(&spaces);
        let took = cpu_time().saturating_sub(started);
        debug!(shares = usage.shares.len(), ?took, "counted ports");
        // The minimum of two, because accounting of CPU time is imprecise on a busy machine.
        let cost = took.min(self.last_took);
        self.last_took = took;
        self.next_walk = Instant::now() + (cost * PAUSE).min(self.longest);
        self.shared.discover().update_ports(&usage, self.top);
        Ok(())
    }
}

/// CPU time of this thread, which does not include waiting.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
