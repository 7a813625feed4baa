//! The counts of a process at some time.

use std::collections::HashMap;

use observer_common::{Slot, SockoptKey};

use super::{
    names::Name,
    totals::{Failure, Failures, by_kind, settled, subtract},
};
use crate::contract::KernelSource;

/// Failed setsockopt calls by slot and generation: read once for all that a tick folds, because
/// the map has to be walked for it.
pub(super) type Failing = HashMap<(u32, u32), Vec<(SockoptKey, u64)>>;

/// Reads all of them.
pub(super) fn read_failing(source: &dyn KernelSource) -> Failing {
    let mut failing = Failing::new();
    for (key, count) in source.sockopt_failures() {
        let failures = failing.entry((key.slot, key.generation)).or_default();
        failures.push((key, count));
    }
    failing
}

/// The counts of a process without its live sockets, which move with it when it changes its name.
#[derive(Debug)]
pub(super) struct Tally {
    pub counts: Slot,
    /// Failed setsockopt calls.
    pub failures: Failures,
    /// Ends of TIME_WAIT in its account.
    pub ended: u64,
}

impl Tally {
    /// From a slot and the map of failures.
    pub fn new<'a>(
        slot: &Slot,
        failing: impl IntoIterator<Item = &'a (SockoptKey, u64)>,
        ended: u64,
    ) -> Self {
        Self {
            counts: settled(slot),
            failures: by_kind(failing),
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
