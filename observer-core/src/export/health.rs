//! Whether the daemon works (`/healthz`) and has finished starting (`/readyz`).

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use crate::sync::lock;

/// When each job last finished a run, and the unfinished steps of the start.
#[derive(Debug)]
pub struct Health {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    jobs: BTreeMap<&'static str, Beat>,
    missing: Vec<&'static str>,
}

#[derive(Debug)]
struct Beat {
    at: Instant,
    stuck_after: Duration,
}

impl Health {
    /// Not ready before the steps in `missing` are [`done`](Self::done).
    #[must_use]
    pub fn new(missing: impl IntoIterator<Item = &'static str>) -> Self {
        Self {
            state: Mutex::new(State {
                jobs: BTreeMap::new(),
                missing: missing.into_iter().collect(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// `job` finished a run. It counts as stuck when `stuck_after` passes without another call.
    pub fn beat(&self, job: &'static str, stuck_after: Duration) {
        let at = Instant::now();
        self.state().jobs.insert(job, Beat { at, stuck_after });
    }

    /// A step is done.
    pub fn done(&self, step: &str) {
        self.state().missing.retain(|missing| *missing != step);
    }

    /// The steps that are not done.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        self.state().missing.clone()
    }

    /// A job that has not finished a run for too long, and for how long.
    #[must_use]
    pub fn stuck(&self) -> Option<(&'static str, Duration)> {
        let state = self.state();
        state.jobs.iter().find_map(|(&job, beat)| {
            let silent = beat.at.elapsed();
            (silent > beat.stuck_after).then_some((job, silent))
        })
    }
}
