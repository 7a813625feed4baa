use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[test]
fn names_are_there_and_unique() {
    let states: Vec<_> = (0..=u8::MAX).filter_map(state_name).collect();
    // 1 to 11; index 0 of each array by state is unused.
    assert_eq!(states.len(), STATES - 1);
    let received: Vec<_> = (0..=u8::MAX).filter_map(reset_received_name).collect();
    assert_eq!(received.len(), STATES - 1);
    let sent: Vec<_> = (0..RESETS_SENT as u32)
        .filter_map(reset_class_name)
        .collect();
    assert_eq!(
        sent.len() as u32,
        RESET_UNREAD_AFTER_SHUTDOWN - RESET_CLASSES_FROM + 1
    );
    for names in [
        states,
        received,
        sent,
        RECORD_NAMES.to_vec(),
        SIGNAL_NAMES.to_vec(),
        FULL_MAP_NAMES.to_vec(),
    ] {
        let unique: BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len(), "{names:?}");
        assert!(names.iter().all(|name| !name.is_empty()));
    }
}

#[test]
fn classes_of_sent_resets_fit_their_array() {
    assert_eq!(reset_class_name(RESET_CLASSES_FROM - 1), None);
    assert_eq!(reset_class_name(RESET_UNREAD_AFTER_SHUTDOWN + 1), None);
    assert!((RESET_UNREAD_AFTER_SHUTDOWN as usize) < RESETS_SENT);
}

/// Sizes are asserted at compile time. The alignment has to fit as well: the kernel places map values
/// at multiples of eight bytes.
#[test]
fn map_values_are_aligned_for_the_kernel() {
    fn check<T: Pod>() {
        assert!(align_of::<T>() <= 8);
        assert_eq!(size_of::<T>() % align_of::<T>(), 0);
    }
    check::<Conn>();
    check::<ResyncControl>();
    check::<Histogram>();
    check::<Record>();
    check::<Outcomes>();
    check::<CpuStats>();
    check::<ProcessKey>();
    check::<Slot>();
    check::<SockoptKey>();
    // Elements of an array map start at multiples of eight.
    assert_eq!(size_of::<Slot>() % 8, 0);
    // CPUs share no cache line.
    assert_eq!(size_of::<CpuStats>() % 64, 0);
    assert_eq!(size_of::<Record>() % 8, 0);
}

#[test]
fn too_short_an_input_is_no_record() {
    let bytes = [0xff_u8; size_of::<Record>()];
    for length in 0..bytes.len() {
        assert!(Record::read_from(&bytes[..length]).is_none(), "{length}");
    }
    assert!(Record::read_from(&bytes).is_some());
}

#[test]
fn fields_are_read_from_where_c_puts_them() {
    let bytes: Vec<u8> = (0..size_of::<Record>() as u8).collect();
    let record = Record::read_from(&bytes).unwrap();
    assert_eq!(record.time_ns.to_ne_bytes(), bytes[..8]);
    assert_eq!(
        (record.kind, record.from, record.to, record.mptcp),
        (32, 33, 34, 35)
    );
    assert_eq!(record.flags.to_ne_bytes(), bytes[36..38]);
    assert_eq!(record.local[..], bytes[72..88]);
    assert_eq!(record.spent[STATES - 1].to_ne_bytes(), bytes[148..152]);
}

proptest! {
    #[test]
    fn what_follows_a_record_does_not_matter(
        bytes in prop::collection::vec(any::<u8>(), size_of::<Record>()),
        more in prop::collection::vec(any::<u8>(), 0..64),
        at in 0..8_usize,
    ) {
        let record = Record::read_from(&bytes).unwrap();
        // At any alignment: the ring aligns records, a file or a fuzzer does not.
        let mut moved = vec![0; at];
        moved.extend(&bytes);
        moved.extend(&more);
        let longer = Record::read_from(&moved[at..]).unwrap();
        prop_assert_eq!(format!("{record:?}"), format!("{longer:?}"));
    }
}

#[test]
fn each_timed_state_has_a_place_and_the_others_none() {
    for (index, state) in TIMED_STATES.into_iter().enumerate() {
        assert_eq!(timed_index(state), index);
    }
    for state in [0, TIME_WAIT, CLOSE, LISTEN, NEW_SYN_RECV, 13, 14, 15] {
        assert_eq!(timed_index(state), TIMED_STATES.len(), "{state}");
    }
}

#[test]
fn each_errno_of_an_attempt_has_a_counter_of_its_own() {
    assert_eq!(connect_index(0), 0);
    let known: Vec<_> = CONNECT_ERRNOS
        .iter()
        .map(|&e| connect_index(e.into()))
        .collect();
    assert_eq!(known, (1..CONNECT_GAVE_UP).collect::<Vec<_>>());
    for errno in [3, 133, 134, 135, 136, 512, u32::MAX] {
        assert_eq!(connect_index(errno), CONNECT_OTHER, "{errno}");
    }
    // No errno has the index of attempts that the program ended.
    let reached = (0..=ERRNOS as u32).map(connect_index);
    assert!(!reached.into_iter().any(|index| index == CONNECT_GAVE_UP));
}

#[test]
fn each_errno_of_a_connection_and_of_a_bind_has_a_counter_of_its_own() {
    fn check(errnos: &[u8], index: impl Fn(u32) -> usize, other: usize) {
        let known: Vec<_> = errnos.iter().map(|&errno| index(errno.into())).collect();
        assert_eq!(known, (0..other).collect::<Vec<_>>());
        assert!(errnos.is_sorted());
        for errno in [0, 3, 133, 135, 136, 512, u32::MAX] {
            assert_eq!(index(errno), other, "{errno}");
        }
    }
    check(
        &CONNECTION_ERRNOS,
        connection_error_index,
        CONNECTION_ERROR_OTHER,
    );
    check(&BIND_ERRNOS, bind_index, BIND_OTHER);
}
