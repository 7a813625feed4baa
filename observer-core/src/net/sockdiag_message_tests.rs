use observer_common::{ESTABLISHED, FIN_WAIT2, LISTEN, TIME_WAIT};
use proptest::prelude::*;

use super::*;

/// A netlink message of the given type, padded.
fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = 16 + payload.len();
    let mut bytes = Vec::new();
    bytes.extend(u32::try_from(length).unwrap().to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// A `struct inet_diag_msg`: 127.0.0.1:80 to 10.0.0.2:9.
fn socket(state: u8, timer: u8) -> Vec<u8> {
    let mut bytes = vec![2, state, timer, 0, 0, 80, 0, 9];
    bytes.extend([127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend([10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for word in [0_u32, 0x1122_3344, 0x55, 1, 2, 3, 1000, 77] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes
}

fn parse(bytes: &[u8]) -> Result<(Progress, Vec<SocketEntry>), SockDiagError> {
    let mut entries = Vec::new();
    let progress = parse_datagram(bytes, 5, |entry| entries.push(*entry))?;
    Ok((progress, entries))
}

#[test]
fn sockets_are_read() {
    let datagram = [
        message(SOCK_DIAG_BY_FAMILY, 2, 5, &socket(ESTABLISHED, 1)),
        message(SOCK_DIAG_BY_FAMILY, 2, 5, &socket(FIN_WAIT2, 3)),
        message(SOCK_DIAG_BY_FAMILY, 2, 4, &socket(LISTEN, 0)),
        message(NLMSG_DONE, 2, 5, &0_i32.to_ne_bytes()),
    ]
    .concat();
    let (progress, entries) = parse(&datagram).unwrap();
    assert_eq!(
        progress,
        Progress {
            done: true,
            interrupted: false
        }
    );
    let expected = SocketEntry {
        family: AF_INET,
        state: ESTABLISHED,
        timewait: false,
        local: "127.0.0.1:80".parse().unwrap(),
        remote: "10.0.0.2:9".parse().unwrap(),
        inode: 77,
        cookie: 0x55_1122_3344,
        uid: 1000,
        receive_queue: 2,
        send_queue: 3,
    };
    let timewait = SocketEntry {
        state: FIN_WAIT2,
        timewait: true,
        ..expected
    };
    assert_eq!(entries, [expected, timewait]);
}

#[test]
fn a_datagram_may_be_followed_by_more() {
    let bytes = message(SOCK_DIAG_BY_FAMILY, 2, 5, &socket(TIME_WAIT, 3));
    assert_eq!(parse(&bytes).unwrap().0, Progress::default());
    assert_eq!(parse(&[]).unwrap().0, Progress::default());
}

#[test]
fn errors_are_told_apart() {
    let refused = |kind| parse(&message(kind, 0, 5, &(-libc::ENOENT).to_ne_bytes())).unwrap_err();
    for kind in [NLMSG_ERROR, NLMSG_DONE] {
        let SockDiagError::Refused(error) = refused(kind) else {
            panic!("{kind}")
        };
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
    let overrun = parse(&message(NLMSG_OVERRUN, 0, 5, &[])).unwrap_err();
    assert!(overrun.is_transient());
    let interrupted = parse(&message(NLMSG_DONE, DUMP_INTERRUPTED, 5, &[0; 4])).unwrap();
    assert_eq!(
        interrupted.0,
        Progress {
            done: true,
            interrupted: true
        }
    );

    let whole = message(SOCK_DIAG_BY_FAMILY, 2, 5, &socket(LISTEN, 0));
    for length in 1..whole.len() {
        assert!(
            matches!(parse(&whole[..length]), Err(SockDiagError::Malformed(_))),
            "{length}"
        );
    }
    let unknown = parse(&message(99, 0, 5, &[])).unwrap_err();
    assert!(matches!(unknown, SockDiagError::Malformed(_)));
}

#[test]
fn masks() {
    assert_eq!(StateMask::ALL.0, 0xffe);
    let mask = StateMask::of(&[LISTEN, TIME_WAIT, 32, 255]);
    assert!(mask.contains(LISTEN) && mask.contains(TIME_WAIT));
    assert!(!mask.contains(ESTABLISHED) && !mask.contains(32) && !mask.contains(255));
}

#[test]
fn the_request_has_the_kernels_layout() {
    let bytes = request(AF_INET6, StateMask::of(&[LISTEN]), 9);
    assert_eq!(bytes.len(), 16 + 56, "struct inet_diag_req_v2");
    assert_eq!(bytes[16..20], [10, 6, 0, 0]);
    assert_eq!(bytes[20..24], (1_u32 << LISTEN).to_ne_bytes());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = parse(&bytes);
    }

    #[test]
    fn arbitrary_messages_never_panic(
        messages in prop::collection::vec(
            (0_u16..24, any::<u16>(), 4_u32..6, prop::collection::vec(any::<u8>(), 0..100)),
            0..6,
        ),
        cut in 0_usize..600,
    ) {
        let bytes: Vec<u8> = messages
            .into_iter()
            .flat_map(|(kind, flags, sequence, payload)| message(kind, flags, sequence, &payload))
            .collect();
        let _ = parse(&bytes[..cut.min(bytes.len())]);
    }
}
