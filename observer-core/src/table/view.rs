//! Reading the table: one pass over all series, at the cost of one slot read per process.

use std::{collections::HashMap, sync::Arc};

use observer_common::{
    ProcessKey, SLOT_FIRST, SLOT_NO_SOCKET, SLOT_OVERFLOW, SLOT_UNATTRIBUTED, Slot,
};

use super::{
    entry::Entry,
    facts::{ProcessFacts, Resources},
    labels::Labels,
    names::{NameId, OTHER_ID, UNATTRIBUTED_ID},
    port_views::Holder,
    store::Table,
    sum::Sum,
    time_wait::{RecentEntries, apportion},
    totals::{Exact, Failures, add, subtract},
};
use crate::{contract::KernelSource, sync::lock};

/// What a series is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All processes of a name, running and ended.
    Name {
        /// Whether any of them is running.
        alive: bool,
    },
    /// One running process.
    Process {
        /// Which one.
        key: ProcessKey,
        /// Whether it has series of its own.
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

/// Sockets in TIME_WAIT, and those that left it.
struct TimeWaits {
    by_name: Vec<(NameId, Exact)>,
    /// By slot.
    by_process: HashMap<u32, Exact>,
    /// Whether the end of TIME_WAIT is observed.
    exact: bool,
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
        let time_waits = self.time_waits(source);
        let ended = |it: Exact| time_waits.exact.then_some(it.ended);
        let mut scratch = Slot::zeroed();
        let mut sums = self.begin_sums();
        for (id, exact) in &time_waits.by_name {
            sums[*id].time_wait += exact.live;
            sums[*id].ended = sums[*id].ended.wrapping_add(exact.ended);
        }
        for (index, id) in [
            (SLOT_UNATTRIBUTED, UNATTRIBUTED_ID),
            (SLOT_OVERFLOW, OTHER_ID),
        ] {
            source.read_slot(index, &mut scratch);
            add(&mut sums[id].counts, &scratch);
            sums[id].fail(&self.names.get(id).kinds, None, &self.fixed_failures[id]);
        }
        let entries = (0..).zip(&self.entries);
        for (index, entry) in entries.filter_map(|(index, entry)| Some((index, entry.as_ref()?))) {
            source.read_slot(index, &mut scratch);
            let exact = time_waits.by_process.get(&index).copied();
            let exact = exact.unwrap_or_default();
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
                    time_wait: exact.live,
                    time_wait_ended: ended(exact),
                });
            }
            let sum = &mut sums[entry.name];
            sum.alive |= entry.alive;
            sum.time_wait += exact.live;
            sum.ended = sum.ended.wrapping_add(exact.ended);
            add(&mut sum.counts, &scratch);
            let before = entry.before.as_deref();
            if let Some(before) = before {
                subtract(&mut sum.counts, &before.counts);
                sum.ended = sum.ended.wrapping_sub(before.ended);
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
                time_wait: sum.time_wait,
                time_wait_ended: time_waits.exact.then_some(sum.ended),
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
    fn begin_sums(&self) -> Vec<Sum> {
        let mut sums = std::mem::take(&mut *lock(&self.sums));
        sums.resize_with(self.names.ids(), Sum::zero);
        for (id, name) in self.names.iter() {
            let sum = &mut sums[id];
            sum.counts = name.totals.counts;
            sum.failures.clone_from(&name.totals.failures);
            sum.time_wait = 0;
            sum.ended = 0;
            sum.alive = false;
        }
        sums
    }

    fn time_waits(&self, source: &dyn KernelSource) -> TimeWaits {
        let entries = (0..).zip(&self.entries);
        let entries = entries.filter_map(|(index, entry)| Some((index, entry.as_ref()?)));
        let Some(unattributed) = source.account(SLOT_UNATTRIBUTED) else {
            return self.inferred_time_waits(source, entries);
        };
        // Processes without an account of their own share the last one.
        let fixed = [
            (UNATTRIBUTED_ID, Some(unattributed)),
            (OTHER_ID, source.account(SLOT_OVERFLOW)),
        ];
        let fixed = fixed.map(|(id, account)| (id, Exact::default().plus(account)));
        let names = self.names.iter();
        let names = names.map(|(id, name)| (id, name.totals.accounts(source)));
        let own = entries.filter(|(_, entry)| entry.account >= SLOT_FIRST);
        TimeWaits {
            by_name: fixed.into_iter().chain(names).collect(),
            by_process: own
                .map(|(index, entry)| (index, Exact::default().plus(source.account(entry.account))))
                .collect(),
            exact: true,
        }
    }

    /// The same if the end of TIME_WAIT is not observed.
    fn inferred_time_waits<'a>(
        &'a self,
        source: &dyn KernelSource,
        entries: impl Iterator<Item = (u32, &'a Entry)>,
    ) -> TimeWaits {
        let mut pending = self.time_wait_since;
        let mut live = |index: u32, recent: &RecentEntries| {
            let new = recent.pending(source.time_wait_entered(index));
            pending += new;
            recent.live() + new
        };
        let mut ids = vec![UNATTRIBUTED_ID, OTHER_ID];
        let mut shares = vec![
            live(SLOT_UNATTRIBUTED, &self.unattributed_time_wait),
            live(SLOT_OVERFLOW, &self.overflow_time_wait),
        ];
        for (id, name) in self.names.iter() {
            ids.push(id);
            shares.push(name.totals.time_wait.live());
        }
        let mut slots = Vec::new();
        for (index, entry) in entries {
            slots.push(index);
            shares.push(live(index, &entry.time_wait));
        }
        if let Some(kernel) = self.kernel_time_wait
            && self.time_wait_is_whole
        {
            // What entered since the kernel's number was read is not in it.
            apportion(&mut shares, kernel.saturating_add(pending));
        }
        let mut shares = shares.into_iter().map(|live| Exact { live, ended: 0 });
        TimeWaits {
            by_name: ids.into_iter().zip(&mut shares).collect(),
            by_process: slots.into_iter().zip(shares).collect(),
            exact: false,
        }
    }
}
