//! The statistics that the kernel programs keep on each CPU, taken together.

use std::{mem::offset_of, sync::atomic::Ordering};

use observer_common::{CpuStats, Outcomes, PENDING_NS, Pod as _};

use super::array::MappedArray;
use crate::kernel::clock::monotonic_ns;

/// How often the statistics of a CPU are read again while it has events that are not settled,
/// because a program runs there.
const REREADS: u32 = 4;

fn settled(outcomes: &Outcomes) -> u64 {
    outcomes.counted + outcomes.unattributed + outcomes.lost
}

impl MappedArray<CpuStats> {
    /// Sums the statistics of all CPUs, without what is pending.
    pub fn sum(&self) -> CpuStats {
        let mut sum = zeroed_stats();
        let mut one = zeroed_stats();
        for cpu in 0..self.len() {
            self.read(cpu, &mut one);
            for _ in 0..REREADS {
                if one.outcomes.iter().all(|it| it.seen == settled(it)) {
                    break;
                }
                self.read(cpu, &mut one);
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
            sum.time_wait_elsewhere += one.time_wait_elsewhere;
        }
        sum
    }

    /// Received RSTs that are certain by now but not yet counted: slot, generation, state. The
    /// kernel side may have found one young enough to be taken back and been stopped before it
    /// did, hence twice its limit: what was shown must not be gone again.
    pub fn pending(&self) -> impl Iterator<Item = (u32, u32, u32)> + '_ {
        let word = |cpu, offset| self.word(cpu, offset).load(Ordering::Relaxed);
        // Most CPUs have none, and this is asked for every slot of a scrape.
        let some =
            (0..self.len()).filter(move |&cpu| word(cpu, offset_of!(CpuStats, pending_sk)) != 0);
        some.filter_map(|cpu| {
            let mut stats = zeroed_stats();
            self.read(cpu, &mut stats);
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
