//! Durations packed into 32 bits, for the time that a connection spent in each state.

const SCALE: u32 = 1 << 31;

/// Packs nanoseconds into 32 bits: units of 1,024 ns up to 36 minutes, then, with the top
/// bit set, units of 2^30 ns (about a second) up to 73 years. The error is below one
/// microsecond in the first range and below 1.1 seconds in the second.
#[must_use]
#[inline(always)]
pub const fn pack_duration(nanoseconds: u64) -> u32 {
    let fine = nanoseconds >> 10;
    if fine < SCALE as u64 {
        fine as u32
    } else {
        let coarse = nanoseconds >> 30;
        if coarse < SCALE as u64 {
            SCALE | coarse as u32
        } else {
            u32::MAX
        }
    }
}

/// The inverse of [`pack_duration`], in nanoseconds.
#[must_use]
pub const fn unpack_duration(packed: u32) -> u64 {
    if packed & SCALE == 0 {
        (packed as u64) << 10
    } else {
        ((packed & !SCALE) as u64) << 30
    }
}

/// The sum of two packed durations, for a state that was entered more than once.
#[must_use]
#[inline(always)]
pub const fn add_packed(a: u32, b: u32) -> u32 {
    pack_duration(unpack_duration(a) + unpack_duration(b))
}

#[cfg(test)]
#[path = "duration_tests.rs"]
mod tests;
