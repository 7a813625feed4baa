use proptest::prelude::*;

use super::*;

/// Below it, units of 1,024 ns.
const FINE_LIMIT: u64 = (SCALE as u64) << 10;
/// The longest duration that can be packed.
const LIMIT: u64 = (SCALE as u64) << 30;

/// Durations of every magnitude, because uniform numbers are rarely small.
fn durations() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..64_u32).prop_map(|(number, shift)| number >> shift)
}

#[test]
fn the_edges_of_the_ranges() {
    for (nanoseconds, packed) in [
        (0, 0),
        (1_023, 0),
        (1_024, 1),
        (FINE_LIMIT - 1, SCALE - 1),
        // 2^41 ns are 2048 units of 2^30 ns.
        (FINE_LIMIT, SCALE | 2_048),
        (LIMIT - 1, u32::MAX),
        (LIMIT, u32::MAX),
        (u64::MAX, u32::MAX),
    ] {
        assert_eq!(pack_duration(nanoseconds), packed, "{nanoseconds}");
    }
    assert_eq!(FINE_LIMIT / 60_000_000_000, 36, "minutes");
    assert_eq!(LIMIT / (365 * 86_400_000_000_000), 73, "years");
}

proptest! {
    #[test]
    fn the_error_is_below_one_unit(nanoseconds in durations()) {
        let back = unpack_duration(pack_duration(nanoseconds));
        let unit = match nanoseconds {
            0..FINE_LIMIT => 1 << 10,
            FINE_LIMIT..LIMIT => 1 << 30,
            _ => return Ok(()),
        };
        prop_assert!(back <= nanoseconds && nanoseconds - back < unit, "{nanoseconds} {back}");
    }

    #[test]
    fn longer_is_never_packed_smaller(a in durations(), b in durations()) {
        let (short, long) = (a.min(b), a.max(b));
        prop_assert!(pack_duration(short) <= pack_duration(long));
        prop_assert!(
            unpack_duration(pack_duration(short)) <= unpack_duration(pack_duration(long))
        );
    }

    #[test]
    fn what_was_unpacked_packs_the_same(nanoseconds in durations()) {
        let packed = pack_duration(nanoseconds);
        prop_assert_eq!(pack_duration(unpack_duration(packed)), packed);
    }

    #[test]
    fn sums_lose_less_than_a_unit(a: u32, b: u32) {
        // Any two numbers, such as a damaged record may hold.
        let sum = unpack_duration(a) + unpack_duration(b);
        let back = unpack_duration(add_packed(a, b));
        prop_assert_eq!(add_packed(a, b), add_packed(b, a));
        prop_assert!(back <= sum);
        if sum < LIMIT {
            prop_assert!(sum - back < 1 << 30);
        }
    }
}
