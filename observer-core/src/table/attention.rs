//! How much attention a process deserves: what it has and what failed of late.

use std::{
    cmp::Ordering,
    time::{Duration, Instant},
};

use observer_common::Slot;

/// A selected process is shown for at least this time, unless it ends or others have failures.
const STAY: Duration = Duration::from_secs(60);
/// Weight of one failure, in sockets and descriptors.
const FAILURE: f64 = 100.0;
/// Half-life of the weight of a failure.
const HALF_LIFE: Duration = Duration::from_secs(60);
/// Factor by which the weight of another process must exceed that of one that is shown, to replace it.
const HYSTERESIS: f64 = 1.25;

/// Why a process is shown or not.
#[derive(Debug, Default)]
pub(super) struct Attention {
    pub shown: bool,
    since: Option<Instant>,
    /// Failures of all kinds, and when they were read.
    failures: Option<(u64, Instant)>,
    /// Those of the last minutes, older ones in part.
    recent: f64,
    weight: f64,
}

impl Attention {
    /// Updates from a reading of the process. The first one sets the start only, because earlier
    /// failures may be old.
    pub fn weigh(&mut self, slot: &Slot, open_fds: u64, now: Instant) {
        let failures = failures(slot);
        if let Some((before, at)) = self.failures.replace((failures, now)) {
            let passed = now.saturating_duration_since(at);
            let half_lives = passed.as_secs_f64() / HALF_LIFE.as_secs_f64();
            let new = failures.saturating_sub(before) as f64;
            self.recent = self.recent * (-half_lives).exp2() + new;
        }
        let sockets = slot.sockets.max(0) as f64;
        self.weight = FAILURE * self.recent + sockets + open_fds as f64;
    }

    pub fn show(&mut self, shown: bool, now: Instant) {
        if self.shown != shown {
            self.shown = shown;
            self.since = Some(now);
        }
    }

    /// Whether it has been shown for less than the minimum time.
    fn stays(&self, now: Instant) -> bool {
        let young = |since| now.saturating_duration_since(since) < STAY;
        self.shown && self.since.is_some_and(young)
    }

    /// Processes with a greater value are shown first: those with recent failures, then those within
    /// the minimum time, then those with the greatest weight.
    pub fn order(&self, other: &Self, now: Instant) -> Ordering {
        let class = |it: &Self| (it.recent >= 1.0, it.stays(now));
        let weight = |it: &Self| it.weight * if it.shown { HYSTERESIS } else { 1.0 };
        let by_class = class(self).cmp(&class(other));
        by_class.then_with(|| weight(self).total_cmp(&weight(other)))
    }
}

/// Failures of all kinds.
fn failures(slot: &Slot) -> u64 {
    let arrays: [&[u64]; 8] = [
        &slot.connect.results[1..],
        &slot.state.errors,
        &slot.bind.failed[0],
        &slot.bind.failed[1],
        &slot.ports.exhausted,
        &slot.fd.exhausted,
        &slot.reset.sent,
        &slot.reset.received,
    ];
    let failed = arrays.into_iter().flatten().sum::<u64>();
    failed + slot.time_wait.overflows
}
