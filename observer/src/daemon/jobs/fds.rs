//! Counts the descriptors of processes with sockets.

use std::time::Duration;

use observer_core::{config::Settings, sync::read};

use crate::{
    daemon::{
        scheduler::Job,
        shared::{Shared, scan_limits},
    },
    kernel::monotonic_ns,
};

pub struct Fds(pub Shared);

impl Job for Fds {
    fn name(&self) -> &'static str {
        "fds"
    }

    /// Each run counts a batch of those whose count is older than `fd_interval`.
    fn interval(&self, settings: &Settings) -> Duration {
        settings.tick_interval
    }

    fn configure(&mut self, settings: &Settings) {
        self.0.facts.set_limits(scan_limits(settings));
    }

    fn run(&mut self) -> anyhow::Result<()> {
        let processes: Vec<_> = read(&self.0.table).keys().copied().collect();
        let now = Duration::from_nanos(monotonic_ns());
        self.0.facts.scan(processes, now);
        Ok(())
    }
}
