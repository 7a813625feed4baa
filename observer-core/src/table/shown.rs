//! Which processes have series of their own.
//!
//! All of them, while there are no more than
//! [`TableConfig::max_processes`](super::TableConfig). Else those with failures and those with the
//! most sockets and descriptors; the choice is made every few seconds. Their sums are by name, so a
//! process may be shown and hidden at any time.

use std::{
    cmp::Ordering,
    time::{Duration, Instant},
};

use observer_common::Slot;

use super::{Table, facts::ProcessFacts, housekeeping::Entry};
use crate::contract::KernelSource;

/// How often the choice is made when there are too many.
const EVERY: Duration = Duration::from_secs(5);
/// A process that was chosen is shown for at least this long, unless it ends or others fail.
const STAY: Duration = Duration::from_secs(60);
/// What one failure weighs, in sockets and descriptors.
const FAILURE: f64 = 100.0;
/// After this time, a failure weighs half.
const HALF_LIFE: Duration = Duration::from_secs(60);
/// How much more another process must weigh to take the place of one that is shown.
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
    /// Takes in what a process has and did. The first reading only starts: what failed before it
    /// may be long ago.
    fn weigh(&mut self, slot: &Slot, open_fds: u64, now: Instant) {
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

    fn show(&mut self, shown: bool, now: Instant) {
        if self.shown != shown {
            self.shown = shown;
            self.since = Some(now);
        }
    }

    /// Whether it was shown so short a time ago that it stays.
    fn stays(&self, now: Instant) -> bool {
        let young = |since| now.saturating_duration_since(since) < STAY;
        self.shown && self.since.is_some_and(young)
    }

    /// The greater is shown first: those with failures in the last minutes, then those that are to
    /// stay, then those that weigh most.
    fn order(&self, other: &Self, now: Instant) -> Ordering {
        let class = |it: &Self| (it.recent >= 1.0, it.stays(now));
        let weight = |it: &Self| it.weight * if it.shown { HYSTERESIS } else { 1.0 };
        let by_class = class(self).cmp(&class(other));
        by_class.then_with(|| weight(self).total_cmp(&weight(other)))
    }
}

/// All that failed, by any cause.
fn failures(slot: &Slot) -> u64 {
    let arrays: [&[u64]; 8] = [
        &slot.connects[1..],
        &slot.errors,
        &slot.binds_failed[0],
        &slot.binds_failed[1],
        &slot.ports_exhausted,
        &slot.fd_exhausted,
        &slot.resets_sent,
        &slot.resets_received,
    ];
    let failed = arrays.into_iter().flatten().sum::<u64>();
    failed + slot.time_wait_overflows
}

impl Table {
    /// Shows a new process at once while there is room.
    pub(super) fn show_if_there_is_room(&mut self, entry: &mut Entry) {
        if self.shown < self.config.max_processes && entry.may_be_shown() {
            // Until the next choice: it was not chosen, and need not stay.
            entry.attention.shown = true;
            self.shown += 1;
        }
    }

    /// Chooses which processes to show.
    pub(super) fn choose_shown(
        &mut self,
        now: Instant,
        source: &dyn KernelSource,
        facts: &dyn ProcessFacts,
    ) {
        let mut candidates = Vec::new();
        let entries = (0..).zip(&mut self.entries);
        for (index, entry) in entries.filter_map(|(index, entry)| Some((index, entry.as_mut()?))) {
            if entry.may_be_shown() {
                candidates.push((index, entry));
            } else {
                entry.attention.shown = false;
            }
        }
        self.shown = candidates.len().min(self.config.max_processes);
        if candidates.len() <= self.config.max_processes {
            for (_, entry) in candidates {
                entry.attention.show(true, now);
            }
            self.chosen = None;
            return;
        }
        let passed = self.chosen.map(|at| now.saturating_duration_since(at));
        if passed.is_some_and(|passed| passed < EVERY) {
            self.shown = candidates.iter().filter(|it| it.1.is_shown()).count();
            return;
        }
        self.chosen = Some(now);
        for (index, entry) in &mut candidates {
            source.read_slot(*index, &mut self.scratch);
            let open_fds = facts.resources(&entry.key).open_fds.unwrap_or(0);
            entry.attention.weigh(&self.scratch, open_fds, now);
        }
        candidates.sort_by(|(a, left), (b, right)| {
            let (left, right) = (&left.attention, &right.attention);
            right.order(left, now).then(a.cmp(b))
        });
        for (place, (_, entry)) in candidates.into_iter().enumerate() {
            let shown = place < self.config.max_processes;
            entry.attention.show(shown, now);
        }
    }
}

#[cfg(test)]
#[path = "shown_tests.rs"]
mod tests;
