//! Counters, gauges and histograms in maps.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use observer_common::{BUCKETS, CpuStats, ERRNOS, Histogram, Slot, bucket_of};

use crate::core::maps::{SLOTS, STATS};

/// Returns `index` if it is below `limit`, checked so that the verifier sees it. The compiler
/// removes a check that earlier comparisons make redundant, or checks a copy of the register. The
/// verifier then refuses the access: "R1 max value is outside of the allowed memory range".
#[inline(always)]
pub fn bounded(index: usize, limit: usize) -> Option<usize> {
    let mut index = index;
    // SAFETY: moves a register to itself, which hides the value from the optimiser. An empty
    // template does not work: the kernel then refuses the line information ("Invalid line_info").
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) index, options(nomem, nostack, preserves_flags))
    };
    if index < limit { Some(index) } else { None }
}

/// The index of an errno in `indices`, or `other` if the errno is out of range. The result is
/// checked against `limit`, which every index is below, so that the verifier sees it.
#[inline(always)]
pub fn index_in(indices: &[u8; ERRNOS], errno: u32, other: usize, limit: usize) -> Option<usize> {
    let index = match bounded(errno as usize, ERRNOS) {
        // SAFETY: the index was checked, in a way that the verifier sees.
        Some(errno) => unsafe { *indices.as_ptr().add(errno) }.into(),
        None => other,
    };
    bounded(index, limit)
}

/// Adds to a counter in a map. Atomic also for counters of one CPU: a program in process context
/// can be interrupted by another one in softirq on the same CPU.
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

/// The counters of slot `index`.
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
