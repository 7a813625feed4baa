use proptest::prelude::*;

use super::*;
use crate::{AGE_BOUNDS, CLOSE_WAIT_BOUNDS, CONNECT_BOUNDS};

fn reference(bounds: &[u64; BUCKETS - 1], value: u64) -> usize {
    bounds
        .iter()
        .position(|bound| value <= *bound)
        .unwrap_or(BUCKETS - 1)
}

#[test]
fn bounds_rise() {
    for bounds in [&CONNECT_BOUNDS, &AGE_BOUNDS, &CLOSE_WAIT_BOUNDS] {
        assert!(bounds.is_sorted_by(|a, b| a < b), "{bounds:?}");
    }
}

#[test]
fn bounds_are_inclusive() {
    for bounds in [&CONNECT_BOUNDS, &AGE_BOUNDS, &CLOSE_WAIT_BOUNDS] {
        for (bucket, &bound) in bounds.iter().enumerate() {
            assert_eq!(bucket_of(bounds, bound), bucket);
            assert_eq!(bucket_of(bounds, bound + 1), bucket + 1);
        }
        assert_eq!(bucket_of(bounds, 0), 0);
        assert_eq!(bucket_of(bounds, u64::MAX), BUCKETS - 1);
    }
}

proptest! {
    #[test]
    fn agrees_with_a_search(number: u64, shift in 0..64_u32) {
        let value = number >> shift;
        for bounds in [&CONNECT_BOUNDS, &AGE_BOUNDS] {
            prop_assert_eq!(bucket_of(bounds, value), reference(bounds, value));
        }
    }
}
