//! Walks over the open files of all processes: finds sockets older than the observer, and changes of owners that no hook
//! saw.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use observer_core::{
    config::Settings,
    export::{Health, jobs::WalkMetrics},
};
use tracing::debug;

use crate::{
    daemon::scheduler::Job,
    heap,
    kernel::{Attached, Resynced},
};

/// What `/readyz` waits for.
pub const STEP: &str = "attributing the sockets opened before the start";

pub struct Resync {
    live: Arc<Attached>,
    health: Arc<Health>,
    metrics: WalkMetrics,
    /// Whether a walk has succeeded.
    walked: bool,
}

impl Resync {
    pub fn new(live: Arc<Attached>, health: Arc<Health>, metrics: WalkMetrics) -> Self {
        Self {
            live,
            health,
            metrics,
            walked: false,
        }
    }

    /// Walks once, and counts the sockets found.
    ///
    /// # Errors
    ///
    /// When the iterator is not attached or cannot be read.
    pub fn walk(&mut self) -> anyhow::Result<Resynced> {
        let resynced = self.live.resync();
        heap::give_back();
        let resynced = resynced?;
        self.walked = true;
        self.metrics.found(resynced.seeded, resynced.moved);
        self.health.done(STEP);
        Ok(resynced)
    }
}

impl Job for Resync {
    fn name(&self) -> &'static str {
        "resync"
    }

    fn interval(&self, settings: &Settings) -> Duration {
        settings.resync_interval
    }

    /// The first walk is before the jobs start. If it failed, it is repeated at once.
    fn runs_at_start(&self) -> bool {
        !self.walked
    }

    fn run(&mut self) -> anyhow::Result<()> {
        let resynced = self.walk().context("cannot resynchronise owners")?;
        debug!(?resynced, "resynchronised");
        Ok(())
    }
}
