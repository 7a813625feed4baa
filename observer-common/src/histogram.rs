//! Histograms that the programs count.

/// Buckets of a histogram, including `+Inf`. Each process has a time series per bucket and histogram,
/// so there are few.
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
    // Without an early exit: each bound costs one comparison, and the number of additions bounds the
    // result for the verifier.
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
