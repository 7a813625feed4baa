//! Histograms counted in the kernel. The bounds are constants of both sides.

/// The most buckets a histogram has, the last being `+Inf`.
pub const BUCKETS: usize = 18;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

/// Upper bounds, inclusive, of `socket_connect_seconds`, in nanoseconds. A loopback
/// handshake takes tens of microseconds; a lost SYN shows at 1, 3, 7, 15 and 31 seconds
/// (`TCP_TIMEOUT_INIT` doubling), so the upper bounds sit just above those.
pub const CONNECT_BOUNDS: [u64; BUCKETS - 1] = [
    50 * US,
    100 * US,
    250 * US,
    500 * US,
    MS,
    2_500 * US,
    5 * MS,
    10 * MS,
    25 * MS,
    50 * MS,
    100 * MS,
    250 * MS,
    500 * MS,
    1_500 * MS,
    4 * S,
    16 * S,
    64 * S,
];

/// Upper bounds of `socket_conn_age_seconds`, in nanoseconds.
pub const AGE_BOUNDS: [u64; BUCKETS - 1] = [
    MS,
    5 * MS,
    10 * MS,
    50 * MS,
    100 * MS,
    500 * MS,
    S,
    5 * S,
    10 * S,
    30 * S,
    60 * S,
    300 * S,
    900 * S,
    3_600 * S,
    21_600 * S,
    86_400 * S,
    604_800 * S,
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
