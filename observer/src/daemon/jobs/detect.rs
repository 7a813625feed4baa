//! Runs the detectors over what the last tick and the other jobs found.

use std::time::Duration;

use observer_core::{
    config::Settings,
    contract::KernelSource as _,
    detect::{CounterClasses, Inputs, Sample},
    sync::write,
};
use tracing::info;

use crate::daemon::{scheduler::Job, shared::Shared};

pub struct Detect {
    shared: Shared,
    classes: CounterClasses,
    /// Of the last snapshot: when its tick began.
    last_ns: u64,
}

impl Detect {
    pub fn new(shared: Shared) -> Self {
        Self {
            classes: CounterClasses::new(|index| shared.live.reset_reason(index)),
            shared,
            last_ns: 0,
        }
    }
}

impl Job for Detect {
    fn name(&self) -> &'static str {
        "detect"
    }

    fn interval(&self, settings: &Settings) -> Duration {
        settings.tick_interval
    }

    fn configure(&mut self, settings: &Settings) {
        write(&self.shared.engine).set_thresholds(settings.thresholds.clone());
    }

    fn run(&mut self) -> anyhow::Result<()> {
        let snapshot = self.shared.snapshot.borrow().clone();
        if snapshot.monotonic_ns == self.last_ns {
            return Ok(());
        }
        self.last_ns = snapshot.monotonic_ns;
        let sample = Sample::gather(&Inputs {
            snapshot: &snapshot,
            classes: &self.classes,
        });
        let changes = write(&self.shared.engine).step(&sample);
        for change in changes {
            info!(?change, "finding");
        }
        Ok(())
    }
}
