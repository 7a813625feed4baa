//! Counters, gauges and histograms in maps.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use observer_common::{BUCKETS, CpuStats, ERRNOS, Histogram, Slot, bucket_of};

use crate::core::maps::{SLOTS, STATS};

/// `index` if it is below `limit`, checked in a way that the verifier can follow. The
/// compiler knows from earlier comparisons that a check is not needed and leaves it out, or
/// does it on a copy; the verifier then says "R1 max value is outside of the allowed memory
/// range".
#[inline(always)]
pub fn bounded(index: usize, limit: usize) -> Option<usize> {
    let mut index = index;
    // SAFETY: moves a register to itself, which hides the value from the optimiser. (With no
    // instruction at all, the kernel refuses the line information: "Invalid line_info".)
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) index, options(nomem, nostack, preserves_flags))
    };
    if index < limit { Some(index) } else { None }
}

/// The index that `indices` has for an errno, or `other` for a number that it does not reach.
/// Checked against `limit`, which every index is below, in a way that the verifier can follow.
#[inline(always)]
pub fn index_in(indices: &[u8; ERRNOS], errno: u32, other: usize, limit: usize) -> Option<usize> {
    let index = match bounded(errno as usize, ERRNOS) {
        // SAFETY: the index was checked, in a way that the verifier sees.
        Some(errno) => unsafe { *indices.as_ptr().add(errno) }.into(),
        None => other,
    };
    bounded(index, limit)
}

/// Adds to a counter in a map. Atomic even for the per-CPU ones: a program in process
/// context can be interrupted by another one in softirq on the same CPU.
#[inline(always)]
pub fn add(counter: *mut u64, value: u64) {
    // SAFETY: callers pass the address of a counter inside a map value.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, value) };
}

/// Adds to a gauge.
#[inline(always)]
pub fn adjust(gauge: *mut i64, value: i64) {
    add(gauge.cast(), value as u64);
}

/// This CPU's statistics.
#[inline(always)]
pub fn stats() -> Option<*mut CpuStats> {
    // SAFETY: the helper takes no arguments.
    STATS.get_ptr_mut(unsafe { bpf_get_smp_processor_id() })
}

/// A process's counters.
#[inline(always)]
pub fn slot(index: u32) -> Option<*mut Slot> {
    SLOTS.get_ptr_mut(index)
}

/// The generation of slot `index`.
#[inline(always)]
pub fn generation(index: u32) -> u32 {
    // SAFETY: points into the map.
    slot(index).map_or(0, |slot| unsafe { (*slot).generation })
}

/// Adds an observation to a histogram in a slot.
#[inline(always)]
pub fn observe(histogram: *mut Histogram, bounds: &[u64; BUCKETS - 1], nanoseconds: u64) {
    let Some(bucket) = bounded(bucket_of(bounds, nanoseconds), BUCKETS) else {
        return;
    };
    // SAFETY: `histogram` lies inside a map value and `bucket` was bounded.
    unsafe {
        add((&raw mut (*histogram).buckets).cast::<u64>().add(bucket), 1);
        add(&raw mut (*histogram).sum_ns, nanoseconds);
    }
}
