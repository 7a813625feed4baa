//! The per-CPU statistics of the kernel programs, summed over all CPUs.

use std::{mem::offset_of, sync::atomic::Ordering};

use aya::Ebpf;
use observer_common::{
    CpuStats, Outcomes, PENDING_NS, Pod as _, SIGNAL_RESET_RECEIVED, SLOT_OVERFLOW,
    SLOT_UNATTRIBUTED, Slot,
};

use super::{array::MmapArray, take_array};
use crate::kernel::clock::monotonic_ns;

/// How often the statistics of a CPU are read again while it has events without an outcome,
/// because a program is running there.
const REREADS: u32 = 4;

/// Events that have an outcome.
pub fn decided(outcomes: &Outcomes) -> u64 {
    outcomes.counted + outcomes.unattributed + outcomes.lost
}

/// The statistics, one element per CPU.
pub struct Stats(MmapArray<CpuStats>);

impl Stats {
    /// Takes the map out of `ebpf`.
    ///
    /// # Errors
    ///
    /// When it is missing or cannot be mapped into memory.
    pub fn new(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        take_array(ebpf, "STATS").map(Self)
    }

    /// Sets the kinds of record that the programs write, one bit per `RECORD_` number.
    pub fn set_records(&self, mask: u32) {
        for cpu in 0..self.0.len() {
            let word = self.0.word(cpu, offset_of!(CpuStats, record_mask));
            word.store(u64::from(mask), Ordering::Relaxed);
        }
    }

    /// Counts an entry that was removed from the map of connections.
    pub fn count_removed_connection(&self) {
        let removed = offset_of!(CpuStats, connections_removed);
        self.0.word(0, removed).fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an event that the daemon detected, for a slot.
    pub fn count_outcome(&self, signal: u32, slot: u32) {
        let outcomes = offset_of!(CpuStats, outcomes) + signal as usize * size_of::<Outcomes>();
        let outcome = match slot {
            SLOT_UNATTRIBUTED => offset_of!(Outcomes, unattributed),
            SLOT_OVERFLOW => offset_of!(Outcomes, lost),
            _ => offset_of!(Outcomes, counted),
        };
        for field in [offset_of!(Outcomes, seen), outcome] {
            let word = self.0.word(0, outcomes + field);
            word.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sums the statistics of all CPUs, with received RSTs that are pending.
    pub fn totals(&self) -> CpuStats {
        let mut sum = self.sum();
        for (slot, _, _) in self.pending_resets() {
            let outcomes = &mut sum.outcomes[SIGNAL_RESET_RECEIVED as usize];
            outcomes.seen += 1;
            *match slot {
                SLOT_UNATTRIBUTED => &mut outcomes.unattributed,
                SLOT_OVERFLOW => &mut outcomes.lost,
                _ => &mut outcomes.counted,
            } += 1;
        }
        sum
    }

    /// Sums the statistics of all CPUs, without received RSTs that are pending.
    pub fn sum(&self) -> CpuStats {
        let mut sum = zeroed_stats();
        let mut one = zeroed_stats();
        for cpu in 0..self.0.len() {
            self.0.read(cpu, &mut one);
            for _ in 0..REREADS {
                if one.outcomes.iter().all(|it| it.seen == decided(it)) {
                    break;
                }
                self.0.read(cpu, &mut one);
            }
            for (total, outcomes) in sum.outcomes.iter_mut().zip(one.outcomes) {
                total.seen += outcomes.seen;
                total.counted += outcomes.counted;
                total.unattributed += outcomes.unattributed;
                total.lost += outcomes.lost;
            }
            for (total, part) in [
                (&mut sum.map_full[..], &one.map_full[..]),
                (&mut sum.records[..], &one.records[..]),
                (&mut sum.records_lost[..], &one.records_lost[..]),
            ] {
                total
                    .iter_mut()
                    .zip(part)
                    .for_each(|(total, part)| *total += part);
            }
            sum.connections_added += one.connections_added;
            sum.connections_removed += one.connections_removed;
        }
        sum
    }

    /// Adds the received RSTs of slot `index` that are pending to `slot`, which was read from it.
    pub fn add_pending_resets(&self, index: u32, slot: &mut Slot) {
        for (pending, generation, state) in self.pending_resets() {
            // With another generation, it was folded with its process.
            if (pending, generation) == (index, slot.generation)
                && let Some(counter) = slot.reset.received.get_mut(state as usize)
            {
                *counter += 1;
            }
        }
    }

    /// Pending received RSTs that are certain but not yet counted: slot, generation, state. They
    /// are older than twice the limit up to which a program cancels one: a program that was
    /// interrupted may cancel one later than that limit, and an exported count must not decrease.
    fn pending_resets(&self) -> impl Iterator<Item = (u32, u32, u32)> + '_ {
        let word = |cpu, offset| self.0.word(cpu, offset).load(Ordering::Relaxed);
        // Most CPUs have none, and this runs for every slot of a scrape.
        let some =
            (0..self.0.len()).filter(move |&cpu| word(cpu, offset_of!(CpuStats, pending_sk)) != 0);
        some.filter_map(|cpu| {
            let mut stats = zeroed_stats();
            self.0.read(cpu, &mut stats);
            let age = monotonic_ns().saturating_sub(stats.pending_ns);
            (stats.pending_sk != 0 && age > 2 * PENDING_NS).then_some((
                stats.pending_slot,
                stats.pending_generation,
                stats.pending_state,
            ))
        })
    }
}

fn zeroed_stats() -> CpuStats {
    CpuStats::read_from(&[0; size_of::<CpuStats>()]).expect("the buffer has the size")
}
