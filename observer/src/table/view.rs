//! Reading the table: one pass over all series, at the cost of one slot read per process.

use std::{collections::HashMap, sync::Arc};

use observer_common::{
    ProcessKey, SLOT_FIRST, SLOT_NO_SOCKET, SLOT_OVERFLOW, SLOT_UNATTRIBUTED, Slot, SockoptKey,
};

use super::{
    facts::{ProcessFacts, Resources},
    housekeeping::{Entry, Table},
    labels::Labels,
    time_wait::{Ledger, apportion},
    totals::{Exact, Failures, add, add_failures},
};
use crate::kernel::source::KernelSource;

/// What a series stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Events whose owner is not known.
    Unattributed,
    /// RSTs that no socket had a part in.
    NoSocket,
    /// All processes without series of their own, past and present.
    Other,
    /// One process.
    Process {
        /// Whether it still runs.
        alive: bool,
        /// Its descriptors.
        resources: Resources,
    },
    /// Exited processes of one comm and unit.
    Exited,
}

/// One series of every per-process metric.
#[derive(Debug)]
pub struct SeriesView<'a> {
    /// `pid`, `comm`, `unit`.
    pub labels: &'a Labels,
    /// What it stands for.
    pub kind: Kind,
    /// The counters. Identity fields mean nothing.
    pub counts: &'a Slot,
    /// Failed setsockopt calls.
    pub failures: &'a Failures,
    /// Sockets in TIME_WAIT.
    pub time_wait: u64,
    /// Sockets that left it; `None` where that is not seen.
    pub time_wait_ended: Option<u64>,
}

type BySlot = HashMap<u32, Vec<(SockoptKey, u64)>>;

impl Table {
    /// Shows every series once, in a stable order, to `visit`.
    pub fn visit(
        &mut self,
        source: &dyn KernelSource,
        facts: &dyn ProcessFacts,
        visit: &mut dyn FnMut(&SeriesView<'_>),
    ) {
        self.discover(source, facts);
        let mut failures = self.failures_by_slot(source);
        let mut time_wait = self.time_wait_by_series(source).into_iter();
        let mut next_time_wait = move || time_wait.next().unwrap_or((0, None));
        let mut scratch = std::mem::replace(&mut self.scratch, Box::new(Slot::zeroed()));

        for (index, name, kind) in [
            (SLOT_UNATTRIBUTED, "unattributed", Kind::Unattributed),
            (SLOT_NO_SOCKET, "no_socket", Kind::NoSocket),
        ] {
            source.read_slot(index, &mut scratch);
            let (time_wait, time_wait_ended) = next_time_wait();
            visit(&SeriesView {
                labels: &Labels::new(name, "", ""),
                kind,
                counts: &scratch,
                failures: &collect(&mut failures, &[index]),
                time_wait,
                time_wait_ended,
            });
        }

        let mut sum = Box::new(self.other.counts);
        let mut other_failures = self.other.failures.clone();
        let others = (SLOT_FIRST..)
            .zip(self.entries.iter().skip(SLOT_FIRST as usize))
            .filter(|(_, entry)| entry.as_ref().is_some_and(|entry| entry.shown.is_none()))
            .map(|(index, _)| index);
        for index in std::iter::once(SLOT_OVERFLOW).chain(others) {
            source.read_slot(index, &mut scratch);
            add(&mut sum, &scratch);
            add_failures(
                &mut other_failures,
                failures.remove(&index).unwrap_or_default(),
            );
        }
        let (time_wait, time_wait_ended) = next_time_wait();
        visit(&SeriesView {
            labels: &Labels::new("other", "", ""),
            kind: Kind::Other,
            counts: &sum,
            failures: &other_failures,
            time_wait,
            time_wait_ended,
        });

        for (labels, own) in &self.own {
            let kind = self.kind_of(&own.slots, facts);
            let mut own_failures = collect(&mut failures, &own.slots);
            let counts = match (own.slots.as_slice(), &own.carried) {
                (&[index], None) => {
                    source.read_slot(index, &mut scratch);
                    &scratch
                }
                (slots, carried) => {
                    *sum = Slot::zeroed();
                    if let Some(carried) = carried {
                        add(&mut sum, &carried.counts);
                        for (kind, count) in &carried.failures {
                            *own_failures.entry(*kind).or_default() += count;
                        }
                    }
                    for &index in slots {
                        source.read_slot(index, &mut scratch);
                        add(&mut sum, &scratch);
                    }
                    &sum
                }
            };
            let (time_wait, time_wait_ended) = next_time_wait();
            visit(&SeriesView {
                labels,
                kind,
                counts,
                failures: &own_failures,
                time_wait,
                time_wait_ended,
            });
        }

        for (labels, totals) in self.exited.iter() {
            let (time_wait, time_wait_ended) = next_time_wait();
            visit(&SeriesView {
                labels,
                kind: Kind::Exited,
                counts: &totals.counts,
                failures: &totals.failures,
                time_wait,
                time_wait_ended,
            });
        }
        self.scratch = scratch;
    }

    /// The process that has a slot, and its labels when it has series of its own.
    #[must_use]
    pub fn process(&self, slot: u32) -> Option<(&ProcessKey, Option<&Arc<Labels>>)> {
        let entry = self.entries.get(slot as usize)?.as_ref()?;
        Some((&entry.key, entry.shown.as_ref()))
    }

    /// When two processes share a series, the living one has the descriptors.
    fn kind_of(&self, slots: &[u32], facts: &dyn ProcessFacts) -> Kind {
        let living = slots
            .iter()
            .filter_map(|&index| self.entries[index as usize].as_ref())
            .find(|entry| entry.alive);
        Kind::Process {
            alive: living.is_some(),
            resources: living.map_or_else(Resources::default, |entry| facts.resources(&entry.key)),
        }
    }

    /// Failed setsockopt calls of the slots in the table. Those of a process that got its
    /// slot this very moment are left for the next scrape.
    fn failures_by_slot(&mut self, source: &dyn KernelSource) -> BySlot {
        let mut by_slot = BySlot::new();
        let mut strays = Vec::new();
        for (key, count) in source.sockopt_failures() {
            let known = key.slot < SLOT_FIRST || self.generation(key.slot) == Some(key.generation);
            if known {
                by_slot.entry(key.slot).or_default().push((key, count));
            } else {
                source.read_slot_identity(key.slot, &mut self.scratch);
                if self.scratch.generation != key.generation {
                    strays.push(key);
                }
            }
        }
        if !strays.is_empty() {
            // Of processes that were folded before they were counted: a program was still
            // running then, or the map could not be emptied.
            let strays = source.take_sockopt_failures(&strays);
            add_failures(&mut self.exited.unnamed().failures, strays);
        }
        by_slot
    }

    /// Sockets in TIME_WAIT, and those that left it, in the order in which [`Table::visit`]
    /// shows the series.
    fn time_wait_by_series(&self, source: &dyn KernelSource) -> Vec<(u64, Option<u64>)> {
        let Some(unattributed) = source.account(SLOT_UNATTRIBUTED) else {
            let inferred = self.inferred_time_wait_by_series(source);
            return inferred.into_iter().map(|live| (live, None)).collect();
        };
        // A process that found no account shares the last of these with others.
        let of_entry = |entry: &Entry| {
            let own = entry.account >= SLOT_FIRST;
            own.then(|| source.account(entry.account)).flatten()
        };
        let of_slot = |index: u32| self.entries[index as usize].as_ref().and_then(of_entry);
        let mut series = Vec::with_capacity(3 + self.own.len() + self.exited.len());
        series.push(Exact::default().plus(Some(unattributed)));
        series.push(Exact::default());
        let others = self
            .entries
            .iter()
            .flatten()
            .filter(|entry| entry.shown.is_none());
        series.push(
            others
                .map(of_entry)
                .chain([source.account(SLOT_OVERFLOW)])
                .fold(self.other.accounts(source), Exact::plus),
        );
        series.extend(self.own.values().map(|own| {
            let carried = own.carried.as_ref();
            let carried = carried.map_or_else(Exact::default, |carried| carried.accounts(source));
            own.slots
                .iter()
                .map(|&index| of_slot(index))
                .fold(carried, Exact::plus)
        }));
        series.extend(
            self.exited
                .iter()
                .map(|(_, totals)| totals.accounts(source)),
        );
        series
            .into_iter()
            .map(|Exact { live, ended }| (live, Some(ended)))
            .collect()
    }

    /// The same where the end of TIME_WAIT is not seen.
    fn inferred_time_wait_by_series(&self, source: &dyn KernelSource) -> Vec<u64> {
        let mut pending = self.time_wait_since;
        let mut live = |index: u32, ledger: &Ledger| {
            let new = ledger.pending(source.time_wait_entered(index));
            pending += new;
            ledger.live() + new
        };
        let of_slot = |index: u32| self.entries[index as usize].as_ref().map(|e| &e.time_wait);

        let mut shares = Vec::with_capacity(3 + self.own.len() + self.exited.len());
        shares.push(live(SLOT_UNATTRIBUTED, &self.unattributed_time_wait));
        shares.push(0);
        let mut other = self.other.time_wait.live() + live(SLOT_OVERFLOW, &self.overflow_time_wait);
        for (index, entry) in (0..).zip(&self.entries) {
            if let Some(entry) = entry
                && entry.shown.is_none()
            {
                other += live(index, &entry.time_wait);
            }
        }
        shares.push(other);
        for own in self.own.values() {
            let carried = own.carried.as_ref().map_or(0, |c| c.time_wait.live());
            let slots = own.slots.iter().filter_map(|&i| Some((i, of_slot(i)?)));
            shares.push(carried + slots.map(|(i, ledger)| live(i, ledger)).sum::<u64>());
        }
        shares.extend(
            self.exited
                .iter()
                .map(|(_, totals)| totals.time_wait.live()),
        );
        if let Some(kernel) = self.kernel_time_wait
            && self.time_wait_is_whole
        {
            // What entered since the kernel's number was read is not in it.
            apportion(&mut shares, kernel.saturating_add(pending));
        }
        shares
    }
}

fn collect(failures: &mut BySlot, slots: &[u32]) -> Failures {
    let mut total = Failures::new();
    for index in slots {
        add_failures(&mut total, failures.remove(index).unwrap_or_default());
    }
    total
}
