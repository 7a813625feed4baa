//! Histograms counted in the kernel. The bounds are constants of both sides.

/// Buckets of a histogram, the last being `+Inf`. Every process has a series for each bucket of
/// each histogram, so there are no more than it takes to see what is wrong.
pub const BUCKETS: usize = 11;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

/// Upper bounds, inclusive, of `socket_connect_seconds`, in nanoseconds. A loopback
/// handshake takes tens of microseconds; a lost SYN shows at 1 second and what follows from
/// `tcp_syn_linear_timeouts` and `TCP_TIMEOUT_INIT`, so there are bounds on either side of that.
pub const CONNECT_BOUNDS: [u64; BUCKETS - 1] = [
    100 * US,
    500 * US,
    2_500 * US,
    10 * MS,
    50 * MS,
    250 * MS,
    900 * MS,
    2 * S,
    5 * S,
    20 * S,
];

/// Upper bounds of `socket_conn_age_seconds`, in nanoseconds.
pub const AGE_BOUNDS: [u64; BUCKETS - 1] = [
    MS,
    10 * MS,
    100 * MS,
    S,
    10 * S,
    60 * S,
    300 * S,
    3_600 * S,
    21_600 * S,
    86_400 * S,
];

/// Upper bounds of `socket_close_wait_seconds`, in nanoseconds. A healthy program leaves
/// CLOSE_WAIT within milliseconds; minutes and hours are the leak.
pub const CLOSE_WAIT_BOUNDS: [u64; BUCKETS - 1] = AGE_BOUNDS;

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
