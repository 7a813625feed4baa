//! The summary that `observer tail` prints.

use std::fmt;

#[cfg(test)]
mod tests;

/// Numbers of records shown and lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Printed.
    pub shown: u64,
    /// Lost in the kernel because the ring was full.
    pub missed: u64,
    reported: u64,
}

impl Tally {
    /// Updates the total of lost records. Returns whether records were lost since the last call, so
    /// that the summary should be printed.
    pub fn update_missed(&mut self, total: u64) -> bool {
        self.missed = self.missed.max(total);
        std::mem::replace(&mut self.reported, self.missed) < self.missed
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            shown,
            missed,
            reported: _,
        } = self;
        let records = if *shown == 1 { "record" } else { "records" };
        write!(f, "{shown} {records} shown, {missed} missed (ring full)")
    }
}
