//! Selects the processes with series by pid.
//!
//! Up to [`TableConfig::max_processes`](super::TableConfig), all of them. Beyond that, those with
//! failures and those with the most sockets and descriptors, selected every few seconds. Sums are by
//! name, so a process can be shown or hidden at any time.

use std::time::{Duration, Instant};

use super::{entry::Entry, facts::ProcessFacts, store::Table};
use crate::contract::KernelSource;

/// Interval of the selection when there are too many.
const EVERY: Duration = Duration::from_secs(5);
impl Table {
    /// Shows a new process at once if the limit is not reached.
    pub(super) fn show_if_there_is_room(&mut self, entry: &mut Entry) {
        if self.shown < self.config.max_processes && entry.may_be_shown() {
            // Until the next choice: it was not chosen, and need not stay.
            entry.priority.shown = true;
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
                entry.priority.shown = false;
            }
        }
        self.shown = candidates.len().min(self.config.max_processes);
        if candidates.len() <= self.config.max_processes {
            for (_, entry) in candidates {
                entry.priority.show(true, now);
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
            entry.priority.update(&self.scratch, open_fds, now);
        }
        candidates.sort_by(|(a, left), (b, right)| {
            let (left, right) = (&left.priority, &right.priority);
            right.compare(left, now).then(a.cmp(b))
        });
        for (place, (_, entry)) in candidates.into_iter().enumerate() {
            let shown = place < self.config.max_processes;
            entry.priority.show(shown, now);
        }
    }
}

#[cfg(test)]
#[path = "shown_tests.rs"]
mod tests;
