//! The per-CPU statistics of the kernel programs, summed over all CPUs.

use std::{mem::offset_of, sync::atomic::Ordering};

use aya::Ebpf;
use observer_common::{
    CpuStats, Outcomes, PENDING_COMMITS, PENDING_NS, Pod as _, SIGNAL_RESET_RECEIVED,
    SLOT_OVERFLOW, SLOT_UNATTRIBUTED, Slot,
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
        let (mut sum, pending) = self.with_pending(|| self.sum());
        for it in pending.iter().filter(|it| it.is_certain()) {
            let outcomes = &mut sum.outcomes[SIGNAL_RESET_RECEIVED as usize];
            outcomes.seen += 1;
            *match it.slot {
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

    /// Reads slot `index` by `read`, with its received RSTs that are pending.
    pub fn read_slot(&self, index: u32, slot: &mut Slot, read: impl Fn(&mut Slot)) {
        let ((), pending) = self.with_pending(|| read(slot));
        for it in pending.iter().filter(|it| it.is_certain()) {
            // With another generation, it was folded with its process.
            if (it.slot, it.generation) == (index, slot.generation)
                && let Some(counter) = slot.reset.received.get_mut(it.state as usize)
            {
                *counter += 1;
            }
        }
    }

    /// What `read` gives, and the received RSTs that were pending meanwhile.
    fn with_pending<T>(&self, read: impl FnMut() -> T) -> (T, Vec<Pending>) {
        steady(|| self.pending(), read)
    }

    fn pending(&self) -> Vec<Pending> {
        let word = |cpu| self.0.word(cpu, offset_of!(CpuStats, pending_sk));
        // Most CPUs have none, and this runs for every slot of a scrape.
        let some = (0..self.0.len()).filter(|&cpu| word(cpu).load(Ordering::Acquire) != 0);
        let read = |cpu| {
            let mut stats = zeroed_stats();
            self.0.read(cpu, &mut stats);
            (stats.pending_sk != 0).then_some(Pending {
                socket: stats.pending_sk,
                at_ns: stats.pending_ns,
                slot: stats.pending_slot,
                generation: stats.pending_generation,
                state: stats.pending_state,
            })
        };
        some.filter_map(read).collect()
    }
}

/// A received RST that is not yet counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pending {
    socket: u64,
    at_ns: u64,
    slot: u32,
    generation: u32,
    state: u32,
}

impl Pending {
    /// Whether no program cancels it any more. It is older than twice the limit up to which one does: a program that was
    /// interrupted may do so later than that limit, and an exported count must not decrease.
    fn is_certain(&self) -> bool {
        monotonic_ns().saturating_sub(self.at_ns) > 2 * PENDING_NS
    }
}

/// Calls `read` until the same RSTs are `pending` before and after: one that is counted meanwhile would be in both, or in
/// neither, and the sum would decrease.
fn steady<T>(pending: impl Fn() -> Vec<Pending>, mut read: impl FnMut() -> T) -> (T, Vec<Pending>) {
    let mut before = pending();
    for _ in 0..REREADS {
        let value = read();
        let after = pending();
        if after == before && after.iter().all(|it| it.socket != PENDING_COMMITS) {
            return (value, before);
        }
        before = after;
    }
    (read(), before)
}

fn zeroed_stats() -> CpuStats {
    CpuStats::read_from(&[0; size_of::<CpuStats>()]).expect("the buffer has the size")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// The program sets the mark, counts, and clears the mark, at any step of the daemon.
    #[test]
    fn a_pending_reset_is_counted_once_while_it_is_counted() {
        let of = |socket| Pending {
            socket,
            at_ns: 0,
            slot: 1,
            generation: 1,
            state: 5,
        };
        for start in 0..8 {
            for pace in 1..4 {
                let now = Cell::new(0);
                let step = || {
                    now.set(now.get() + 1);
                    (now.get() + pace - 1_u32).saturating_sub(start) / pace
                };
                let pending = || match step() {
                    0 => vec![of(0xffff)],
                    1 | 2 => vec![of(PENDING_COMMITS)],
                    _ => Vec::new(),
                };
                let (counted, pending) = steady(pending, || u32::from(step() >= 2));
                let total = counted + pending.len() as u32;
                assert_eq!(total, 1, "start {start}, pace {pace}");
            }
        }
    }
}
