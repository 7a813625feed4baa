//! The clock of all records, CLOCK_MONOTONIC.

use aya_ebpf::helpers::bpf_ktime_get_ns;

/// Now, `bpf_ktime_get_ns`.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper takes no arguments.
    unsafe { bpf_ktime_get_ns() }
}
