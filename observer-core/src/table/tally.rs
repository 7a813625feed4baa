//! The counts of a process at some time.

use observer_common::Slot;

use super::{
    names::Name,
    totals::{Failure, Failures, settled, subtract},
};

/// The counts of a process without its live sockets, which move with it when it changes its name.
#[derive(Debug)]
pub(super) struct Tally {
    pub counts: Slot,
    /// Failed setsockopt calls.
    pub failures: Failures,
    /// Sockets that left TIME_WAIT.
    pub ended: u64,
}

impl Tally {
    /// From a slot and its failures.
    pub fn new(slot: &Slot, failures: Failures, ended: u64) -> Self {
        Self {
            counts: settled(slot),
            failures,
            ended,
        }
    }

    /// Adds the counts since `before` to a name.
    pub fn credit(&self, before: Option<&Self>, name: &mut Name) {
        let mut counts = self.counts;
        let mut ended = self.ended;
        if let Some(before) = before {
            subtract(&mut counts, &before.counts);
            ended = ended.wrapping_sub(before.ended);
        }
        name.totals.add(&counts);
        name.totals.add_ended(ended);
        for (&kind, &count) in &self.failures {
            let counted = before.map_or(0, |before| before.failed(kind));
            name.fail(kind, count.saturating_sub(counted));
        }
    }

    /// Number of failed calls of this kind.
    pub fn failed(&self, kind: Failure) -> u64 {
        self.failures.get(&kind).copied().unwrap_or(0)
    }
}
