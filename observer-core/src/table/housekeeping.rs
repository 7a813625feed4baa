//! Finds new processes and processes that have ended, and adds the counts of ended ones to their name.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use observer_common::{ProcessKey, SLOT_FIRST, SLOT_OVERFLOW, SLOT_UNATTRIBUTED};
use tracing::{debug, warn};

use super::{
    entry::{Entry, WithoutSockets},
    facts::{Liveness, ProcessFacts},
    labels::{Labels, name_of},
    names::{Kinds, OTHER_ID, UNATTRIBUTED_ID},
    priority::Priority,
    store::Table,
    tally::Tally,
    totals::{Failure, Failures},
};
use crate::{
    contract::{KernelControl, KernelSource},
    process::Unit,
};

/// An ended process without sockets is folded at the second tick that finds it so at the earliest: a
/// kernel program that looked up its slot just before has finished by then.
const TICKS_WITHOUT_SOCKETS: u32 = 2;
/// A running process has been without sockets and transitions for this long before it is retired.
const IDLE: Duration = Duration::from_secs(10);

impl Table {
    /// Housekeeping, to be called once a second: adds new processes, reads failed setsockopt calls, finds
    /// processes that have ended or changed their name, folds ended processes that have been without
    /// sockets for the grace period, and selects the processes to show.
    pub fn tick(&mut self, now: Instant, source: &dyn KernelControl, facts: &dyn ProcessFacts) {
        self.now = now;
        // Before names are evicted.
        self.freed_slots.expire(now);
        self.discover(source, facts);
        self.read_failures(source);
        for name in self.names.iter_mut() {
            name.totals.close_time_wait_counts(source);
        }
        // Short processes that make connections would use up all slots within the grace period.
        let used = self.entries.iter().flatten().count();
        let run_low = 4 * used >= 3 * self.config.slots;
        let grace = if run_low {
            Duration::ZERO
        } else {
            self.config.grace
        };
        if run_low {
            self.retire_idle(now, source);
        }
        for index in SLOT_FIRST..self.entries.len() as u32 {
            let Some(entry) = &mut self.entries[index as usize] else {
                continue;
            };
            // An ended process cannot return: its key is pid and start time.
            if entry.alive {
                let liveness = facts.liveness(&entry.key);
                if !run_low || liveness == Liveness::Gone {
                    entry.without_sockets = None;
                }
                match liveness {
                    Liveness::Alive(None) => continue,
                    Liveness::Alive(Some(comm)) => {
                        self.notice_comm(index, &comm, source);
                        continue;
                    }
                    Liveness::Gone => entry.alive = false,
                }
            }
            source.read_slot_identity(index, &mut self.scratch);
            if self.scratch.sockets > 0 {
                entry.without_sockets = None;
                continue;
            }
            let without_sockets = entry.without_sockets.get_or_insert(WithoutSockets {
                since: now,
                ticks: 0,
                transitions: 0,
            });
            without_sockets.ticks += 1;
            if without_sockets.ticks >= TICKS_WITHOUT_SOCKETS
                && now.saturating_duration_since(without_sockets.since) >= grace
            {
                self.fold(index, source);
            }
        }
        self.settle_names(source);
        self.choose_shown(now, source, facts);
    }

    /// Retires running processes that have been idle for longest, until a quarter of the slots is free: their counts go
    /// to their name as if they had ended, and they get another slot at their next event. Those of the unit with the most
    /// processes come first, whatever their names, so that one user cannot keep others from being tracked.
    fn retire_idle(&mut self, now: Instant, source: &dyn KernelControl) {
        let mut of_units: HashMap<Arc<Unit>, usize> = HashMap::new();
        let mut idle = Vec::new();
        let mut kept = 0_usize;
        for index in SLOT_FIRST..self.entries.len() as u32 {
            let Some(entry) = &mut self.entries[index as usize] else {
                continue;
            };
            source.read_slot(index, &mut self.scratch);
            let has_sockets = self.scratch.sockets > 0;
            // The others are folded soon.
            kept += usize::from(has_sockets || entry.alive);
            if !entry.alive {
                continue;
            }
            *of_units.entry(Arc::clone(&entry.unit)).or_default() += 1;
            if has_sockets || self.scratch.tls_handshakes > 0 {
                entry.without_sockets = None;
                continue;
            }
            let transitions = self.scratch.state.transitions.as_flattened().iter().sum();
            let known = entry.without_sockets.take();
            let without_sockets = known.filter(|it| it.transitions == transitions);
            let without_sockets =
                entry
                    .without_sockets
                    .insert(without_sockets.unwrap_or(WithoutSockets {
                        since: now,
                        ticks: 0,
                        transitions,
                    }));
            if now.saturating_duration_since(without_sockets.since) >= IDLE {
                idle.push((without_sockets.since, index));
            }
        }
        let excess = kept.saturating_sub(3 * self.config.slots / 4);
        let entries = &mut self.entries;
        idle.sort_by_cached_key(|&(since, index)| {
            let unit = entries[index as usize].as_ref().map(|it| &it.unit);
            (Reverse(unit.and_then(|it| of_units.get(it))), since, index)
        });
        for (_, index) in idle.into_iter().take(excess) {
            if let Some(entry) = &mut entries[index as usize] {
                debug!(pid = entry.key.tgid, "slots run low: retired while idle");
                source.retire_slot(index);
                entry.alive = false;
                entry.without_sockets = None;
            }
        }
    }

    /// Adds the processes that got a slot since the last call. To be called before samples that were
    /// read since are passed in.
    pub fn discover(&mut self, source: &dyn KernelSource, facts: &dyn ProcessFacts) {
        let limit = source.slot_limit();
        if self.entries.len() < limit as usize {
            self.entries.resize_with(limit as usize, || None);
        }
        for index in SLOT_FIRST..limit {
            source.read_slot_identity(index, &mut self.scratch);
            let (key, generation) = (self.scratch.key, self.scratch.generation);
            match &mut self.entries[index as usize] {
                Some(entry) if entry.generation == generation => continue,
                Some(_) => {
                    warn!(slot = index, "slot was already freed, its counts are lost");
                    self.remove(index);
                }
                None => {}
            }
            if key.tgid != 0 {
                let mut entry = self.admit(facts);
                entry.alive &= self.is_newest(index, &key);
                self.entries[index as usize] = Some(entry);
            }
        }
    }

    /// Reads the failed setsockopt calls, which are shown as of the last tick: the map has to be walked
    /// for it, and what belongs to no slot any more is taken out.
    fn read_failures(&mut self, source: &dyn KernelControl) {
        let mut strays = Vec::new();
        for (key, count) in source.sockopt_failures() {
            let kind = Failure::from(&key);
            let fixed = match key.slot {
                SLOT_UNATTRIBUTED => Some(UNATTRIBUTED_ID),
                SLOT_OVERFLOW => Some(OTHER_ID),
                _ => None,
            };
            if let Some(id) = fixed {
                self.fixed_failures[id].insert(kind, count);
                self.names.get_mut(id).kinds.admit(kind);
                continue;
            }
            match self.entries.get_mut(key.slot as usize) {
                Some(Some(entry)) if entry.generation == key.generation => {
                    entry.failures.insert(kind, count);
                    entry.kinds.admit(kind);
                    let before = entry.before.as_ref();
                    if count > before.map_or(0, |before| before.failed(kind)) {
                        self.names.get_mut(entry.name).kinds.admit(kind);
                    }
                }
                _ => {
                    // One that got its slot just now is added by the next tick.
                    source.read_slot_identity(key.slot, &mut self.scratch);
                    if self.scratch.generation != key.generation {
                        strays.push(key);
                    }
                }
            }
        }
        if strays.is_empty() {
            return;
        }
        // Of processes that were folded before they were counted: a program was still running then,
        // or the map could not be emptied.
        for (key, count) in source.take_sockopt_failures(&strays) {
            let id = self.name_of_slot(key.slot, key.generation);
            self.names.get_mut(id).fail(Failure::from(&key), count);
        }
    }

    /// Whether a process is the last one with its pid. Marks an earlier one as ended, which a tick may
    /// not have found yet: two processes with one pid would be two series with the same labels.
    fn is_newest(&mut self, index: u32, key: &ProcessKey) -> bool {
        if let Some(&other) = self.by_pid.get(&key.tgid)
            && let Some(entry) = &mut self.entries[other as usize]
        {
            if entry.key.start_boottime_ns > key.start_boottime_ns {
                return false;
            }
            entry.alive = false;
        }
        self.by_pid.insert(key.tgid, index);
        true
    }

    /// An entry for the process in the scratch slot.
    fn admit(&mut self, facts: &dyn ProcessFacts) -> Entry {
        let description = facts.describe(&self.scratch);
        let comm = name_of(description.comm.as_deref().unwrap_or(&self.scratch.comm));
        let unit = Arc::new(description.unit);
        let (selected, name) = self.choose_name(&comm, &unit);
        self.names.enter(name);
        let mut entry = Entry {
            key: self.scratch.key,
            generation: self.scratch.generation,
            name,
            labels: Arc::new(Labels::process(self.scratch.key.tgid, &comm, &unit.name)),
            unit,
            selected,
            alive: !description.gone,
            priority: Priority::default(),
            without_sockets: None,
            time_wait_count: self.scratch.time_wait_count,
            before: None,
            failures: Failures::new(),
            kinds: Kinds::default(),
            renames: 0,
        };
        self.show_if_there_is_room(&mut entry);
        entry
    }

    /// Adds the counts of slot `index` to its name and frees the slot. No scrape can see the state in
    /// between, because both hold the table's lock.
    fn fold(&mut self, index: u32, source: &dyn KernelControl) {
        let Some(entry) = self.entries[index as usize].as_mut() else {
            return;
        };
        // Read again before the slot is freed, to count the last events.
        source.read_slot(index, &mut self.scratch);
        if self.scratch.generation != entry.generation || self.scratch.sockets > 0 {
            entry.without_sockets = None;
            return;
        }
        let kinds = entry.failures.keys();
        let keys: Vec<_> = kinds
            .map(|kind| kind.key(index, entry.generation))
            .collect();
        let failures = source.take_sockopt_failures(&keys);
        let failures: Failures = failures
            .iter()
            .map(|(key, count)| (Failure::from(key), *count))
            .collect();
        source.free_slot(index);
        // The name has the process's counts of TIME_WAIT from now on, ends included.
        let tally = Tally::new(&self.scratch, failures, 0);
        let Some(entry) = self.remove(index) else {
            return;
        };
        let name = self.names.get_mut(entry.name);
        tally.credit(entry.before.as_deref(), name);
        name.totals.take_time_wait_count(entry.time_wait_count);
    }

    /// Drops the entry of a slot.
    fn remove(&mut self, index: u32) -> Option<Entry> {
        let entry = self.entries[index as usize].take()?;
        if self.by_pid.get(&entry.key.tgid) == Some(&index) {
            self.by_pid.remove(&entry.key.tgid);
        }
        self.names.leave(entry.name, self.now);
        self.freed_slots
            .add(index, entry.generation, entry.name, self.now);
        self.listeners.forget_process(index);
        self.ports.forget_process(index);
        Some(entry)
    }
}
