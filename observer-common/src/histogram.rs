//! Histograms counted in the kernel. The bounds are constants of both sides.

/// Buckets of a histogram, the last being `+Inf`. Every process has a series for each bucket of
/// each histogram, so there are no more than it takes to see what is wrong.
pub const BUCKETS: usize = 11;

pub(crate) const US: u64 = 1_000;
pub(crate) const MS: u64 = 1_000_000;
pub(crate) const S: u64 = 1_000_000_000;

/// One histogram: per-bucket counts (not cumulative) and the sum of the observations.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Histogram {
    /// Sum of all observations, in nanoseconds.
    pub sum_ns: u64,
    /// Observations per bucket; the last is above every bound.
    pub buckets: [u64; BUCKETS],
}

crate::assert_layout!(Histogram, 8 + 8 * BUCKETS, [sum_ns: u64, buckets: [u64; BUCKETS]]);

/// The bucket that `value` falls into.
#[must_use]
#[inline(always)]
pub fn bucket_of(bounds: &[u64; BUCKETS - 1], value: u64) -> usize {
    // Written without an early exit: each bound adds one comparison and the verifier
    // sees the result bounded by the number of additions.
    let mut bucket = 0;
    let mut i = 0;
    while i < BUCKETS - 1 {
        bucket += (value > bounds[i]) as usize;
        i += 1;
    }
    bucket
}

#[cfg(test)]
#[path = "histogram_tests.rs"]
mod tests;
