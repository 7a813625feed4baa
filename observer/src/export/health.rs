//! Whether the daemon works, for those who restart it (`/healthz`) and those who send it
//! traffic (`/readyz`).

use std::{
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use crate::sync::lock;

/// The daemon's pulse, and what it has yet to do before its numbers mean something.
#[derive(Debug)]
pub struct Health {
    state: Mutex<State>,
    stale_after: Duration,
}

#[derive(Debug)]
struct State {
    beat: Instant,
    missing: Vec<&'static str>,
}

impl Health {
    /// Waits for the steps in `missing`; the housekeeping loop counts as stuck when
    /// `stale_after` passes without a [`beat`](Self::beat).
    #[must_use]
    pub fn new(stale_after: Duration, missing: impl IntoIterator<Item = &'static str>) -> Self {
        Self {
            state: Mutex::new(State {
                beat: Instant::now(),
                missing: missing.into_iter().collect(),
            }),
            stale_after,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The housekeeping loop went round once more.
    pub fn beat(&self) {
        self.state().beat = Instant::now();
    }

    /// A step that was waited for is done.
    pub fn done(&self, step: &str) {
        self.state().missing.retain(|missing| *missing != step);
    }

    /// What is still waited for.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        self.state().missing.clone()
    }

    /// How long the housekeeping loop has been silent, if that is too long.
    #[must_use]
    pub fn stuck_for(&self) -> Option<Duration> {
        let silent = self.state().beat.elapsed();
        (silent > self.stale_after).then_some(silent)
    }
}
