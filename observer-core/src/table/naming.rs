//! Determines the name of a process: by its comm and unit, the filter, and the limit on names.

use std::sync::Arc;

use observer_common::SLOT_FIRST;

use super::{
    entry::Entry,
    labels::{Labels, name_of},
    names::{NameId, OTHER_ID},
    store::Table,
    tally::Tally,
};
use crate::{contract::KernelSource, process::Unit};

/// A process that changes its comm more often than this keeps the last one: it would fill the
/// table of names.
const RENAMES: u8 = 4;

impl Table {
    /// Whether the filter selects a process, and the name that it counts for: `<other>` if it is not
    /// selected, or the limit on names is reached.
    pub(super) fn choose_name(&mut self, comm: &str, unit: &Arc<Unit>) -> (bool, NameId) {
        let filter = self.config.filter.as_ref();
        if !filter.is_none_or(|filter| filter(comm, &unit.name)) {
            return (false, OTHER_ID);
        }
        let mut evicted = Vec::new();
        let found = self.names.find(comm, unit, self.now, &mut evicted);
        for id in evicted {
            self.listeners.forget_name(id);
            self.failed_binds.remove(&id);
            self.ports.forget_name(id);
            self.handshakes.forget_name(id);
        }
        (true, found.unwrap_or(OTHER_ID))
    }

    /// Updates the comm of a process, which execve() and prctl() change.
    pub(super) fn notice_comm(&mut self, index: u32, comm: &[u8], source: &dyn KernelSource) {
        let comm = name_of(comm);
        let Some(entry) = self.entries[index as usize].as_mut() else {
            return;
        };
        if entry.labels.comm() == comm || entry.renames >= RENAMES {
            return;
        }
        entry.renames += 1;
        entry.labels = Arc::new(Labels::process(entry.key.tgid, &comm, &entry.unit.name));
        // The next walk adds them again under the new name.
        self.ports.forget_process(index);
        self.rename(index, source);
    }

    /// Updates the name of processes whose selection changed, or that count for `<other>` although their name can now be
    /// added.
    pub(super) fn settle_names(&mut self, source: &dyn KernelSource) {
        let reselect = std::mem::take(&mut self.reselect);
        let crowded = |entry: &Entry| entry.name == OTHER_ID && entry.selected;
        if !reselect && !self.names.has_room(self.now) {
            return;
        }
        for index in SLOT_FIRST..self.entries.len() as u32 {
            let Some(entry) = &self.entries[index as usize] else {
                continue;
            };
            if !reselect && !crowded(entry) {
                continue;
            }
            self.rename(index, source);
            // Checked once, not for each process.
            let left_out = self.entries[index as usize].as_ref().is_some_and(crowded);
            if left_out && !reselect {
                return;
            }
        }
    }

    /// Makes a process count for the name given by its labels and the filter. Its counts so far stay with its old name.
    fn rename(&mut self, index: u32, source: &dyn KernelSource) {
        let Some(entry) = &self.entries[index as usize] else {
            return;
        };
        let (labels, unit, old) = (
            Arc::clone(&entry.labels),
            Arc::clone(&entry.unit),
            entry.name,
        );
        let (selected, new) = self.choose_name(labels.comm(), &unit);
        let Some(entry) = self.entries[index as usize].as_mut() else {
            return;
        };
        entry.selected = selected;
        if new == old {
            return;
        }
        source.read_slot(index, &mut self.scratch);
        let ended = entry.time_waits(source).ended;
        let tally = Tally::new(&self.scratch, entry.failures.clone(), ended);
        tally.credit(entry.before.as_deref(), self.names.get_mut(old));
        entry.before = Some(Box::new(tally));
        entry.name = new;
        self.names.leave(old, self.now);
        self.names.enter(new);
    }
}
