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
}

#[derive(Debug)]
struct State {
    beat: Instant,
    stale_after: Duration,
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
                stale_after,
                missing: missing.into_iter().collect(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The housekeeping loop went round once more, and will again before `stale_after`.
    pub fn beat(&self, stale_after: Duration) {
        let mut state = self.state();
        state.beat = Instant::now();
        state.stale_after = stale_after;
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
        let state = self.state();
        let silent = state.beat.elapsed();
        (silent > state.stale_after).then_some(silent)
    }
}
