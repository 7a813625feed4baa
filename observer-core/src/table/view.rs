//! Reading the table: one pass over all series, at the cost of one slot read per process.

use std::sync::Arc;

use observer_common::{
    ProcessKey, SIGNAL_TIME_WAIT_END, SLOT_NO_SOCKET, SLOT_OVERFLOW, SLOT_UNATTRIBUTED, Slot,
};

use super::{
    facts::{ProcessFacts, Resources},
    labels::Labels,
    names::{OTHER_ID, UNATTRIBUTED_ID},
    port_views::Holder,
    store::Table,
    sum::Sum,
    totals::{Failures, add, subtract},
};
use crate::{contract::KernelSource, sync::lock};

/// The subject of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All processes of a name, running and ended.
    Name {
        /// Whether any of them is running.
        alive: bool,
    },
    /// One running process.
    Process {
        /// Its labels.
        key: ProcessKey,
        /// Whether it has series by pid.
        shown: bool,
        /// Its descriptors.
        resources: Resources,
    },
}

/// A name or a running process.
#[derive(Debug)]
pub struct SeriesView<'a> {
    /// `comm` and `unit`, and `pid` of a process.
    pub labels: &'a Arc<Labels>,
    /// Name or process.
    pub kind: Kind,
    pub(super) holder: Holder,
    /// The counters. The identity fields are not set.
    pub counts: &'a Slot,
    /// Failed setsockopt calls.
    pub failures: &'a Failures,
    /// Sockets in TIME_WAIT.
    pub time_wait: u64,
    /// Sockets that left TIME_WAIT; `None` if that is not observed.
    pub time_wait_ended: Option<u64>,
}

impl Table {
    /// Calls `visit` once for each running process, and then once for each name. Reads only: a
    /// process that got a slot after the last tick is left out until the next one, and failed setsockopt
    /// calls are those of the last tick.
    pub fn visit(
        &self,
        source: &dyn KernelSource,
        facts: &dyn ProcessFacts,
        visit: &mut dyn FnMut(&SeriesView<'_>),
    ) {
        let ends_are_seen = source.observes(SIGNAL_TIME_WAIT_END);
        let mut scratch = Slot::zeroed();
        let mut sums = self.begin_sums(source);
        for (index, id) in [
            (SLOT_UNATTRIBUTED, UNATTRIBUTED_ID),
            (SLOT_OVERFLOW, OTHER_ID),
        ] {
            source.read_slot(index, &mut scratch);
            add(&mut sums[id].counts, &scratch);
            // Processes without their own number share the number of this slot.
            sums[id].time_waits = sums[id].time_waits.plus(source.time_wait_count(index));
            sums[id].fail(&self.names.get(id).kinds, None, &self.fixed_failures[id]);
        }
        let entries = (0..).zip(&self.entries);
        for (index, entry) in entries.filter_map(|(index, entry)| Some((index, entry.as_ref()?))) {
            source.read_slot(index, &mut scratch);
            let time_waits = entry.time_waits(source);
            if entry.alive {
                let mut own = Failures::new();
                for (kind, count) in &entry.failures {
                    *own.entry(entry.kinds.shown(*kind)).or_default() += count;
                }
                visit(&SeriesView {
                    labels: &entry.labels,
                    kind: Kind::Process {
                        key: entry.key,
                        shown: entry.is_shown(),
                        resources: facts.resources(&entry.key),
                    },
                    holder: Holder::Process(index),
                    counts: &scratch,
                    failures: &own,
                    time_wait: time_waits.live(),
                    time_wait_ended: ends_are_seen.then_some(time_waits.ended),
                });
            }
            let sum = &mut sums[entry.name];
            sum.alive |= entry.alive;
            sum.time_waits = sum.time_waits.plus(time_waits);
            add(&mut sum.counts, &scratch);
            let before = entry.before.as_deref();
            if let Some(before) = before {
                subtract(&mut sum.counts, &before.counts);
                sum.time_waits.ended = sum.time_waits.ended.wrapping_sub(before.ended);
            }
            let kinds = &self.names.get(entry.name).kinds;
            sum.fail(kinds, before, &entry.failures);
        }
        for (id, name) in self.names.iter() {
            let sum = &sums[id];
            visit(&SeriesView {
                labels: &name.labels,
                kind: Kind::Name { alive: sum.alive },
                holder: Holder::Name(id),
                counts: &sum.counts,
                failures: &sum.failures,
                time_wait: sum.time_waits.live,
                time_wait_ended: ends_are_seen.then_some(sum.time_waits.ended),
            });
        }
        *lock(&self.sums) = sums;
    }

    /// RSTs sent in reply to segments that match no socket.
    pub fn stray_resets(&self, source: &dyn KernelSource, visit: impl FnOnce(&Slot)) {
        let mut slot = Slot::zeroed();
        source.read_slot(SLOT_NO_SOCKET, &mut slot);
        visit(&slot);
    }

    /// One sum for each name, which starts with the counts of ended processes.
    fn begin_sums(&self, source: &dyn KernelSource) -> Vec<Sum> {
        let mut sums = std::mem::take(&mut *lock(&self.sums));
        sums.resize_with(self.names.ids(), Sum::zero);
        for (id, name) in self.names.iter() {
            let sum = &mut sums[id];
            sum.counts = name.totals.counts;
            sum.failures.clone_from(&name.totals.failures);
            sum.time_waits = name.totals.time_waits(source);
            sum.alive = false;
        }
        sums
    }
}
