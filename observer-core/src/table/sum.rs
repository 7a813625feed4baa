//! The counts of a name, while a scrape adds them up.

use observer_common::Slot;

use super::{
    names::Kinds,
    tally::Tally,
    totals::{Failures, TimeWaits},
};

/// The counts of a name, while they are summed.
#[derive(Debug)]
pub(super) struct Sum {
    pub counts: Slot,
    pub failures: Failures,
    pub time_waits: TimeWaits,
    pub alive: bool,
}

impl Sum {
    pub fn zero() -> Self {
        Self {
            counts: Slot::zeroed(),
            failures: Failures::new(),
            time_waits: TimeWaits::default(),
            alive: false,
        }
    }

    /// Adds the failures of a slot, except those that it counted `before` for another name.
    pub fn fail(&mut self, kinds: &Kinds, before: Option<&Tally>, failures: &Failures) {
        for (&kind, &count) in failures {
            let counted = before.map_or(0, |before| before.failed(kind));
            if count > counted {
                *self.failures.entry(kinds.shown(kind)).or_default() += count - counted;
            }
        }
    }
}
