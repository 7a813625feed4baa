//! The process that a record's slot belongs to.

use std::collections::HashMap;

use observer_common::{Record, SLOT_FIRST, Slot};

use super::Identity;
use crate::{
    contract::KernelSource,
    table::{ProcessFacts, printable},
};

struct Known {
    generation: u32,
    pid: u32,
    comm: String,
    unit: String,
}

/// Caches the identity of each slot, so that a process is looked up once.
#[derive(Default)]
pub struct Identities {
    known: HashMap<u32, Known>,
}

impl Identities {
    /// The process that `record` is about.
    pub fn of(
        &mut self,
        record: &Record,
        source: &dyn KernelSource,
        facts: &dyn ProcessFacts,
    ) -> Identity<'_> {
        if record.slot < SLOT_FIRST {
            return Identity::default();
        }
        let stale = self
            .known
            .get(&record.slot)
            .is_none_or(|known| known.generation != record.generation || known.pid != record.tgid);
        if stale {
            let mut slot = Slot::zeroed();
            source.read_slot_identity(record.slot, &mut slot);
            // A slot that was freed since may belong to another process.
            let (comm, unit) =
                if slot.generation == record.generation && slot.key.tgid == record.tgid {
                    let description = facts.describe(&slot);
                    (
                        printable(description.comm.as_deref().unwrap_or(&slot.comm)),
                        description.unit.name,
                    )
                } else {
                    (String::new(), String::new())
                };
            self.known.insert(
                record.slot,
                Known {
                    generation: record.generation,
                    pid: record.tgid,
                    comm,
                    unit,
                },
            );
        }
        let known = &self.known[&record.slot];
        Identity {
            pid: known.pid,
            comm: &known.comm,
            unit: &known.unit,
        }
    }
}
