use observer_common::{AF_INET, Pod as _};

use super::*;
use crate::detect::finding::PeerShare;

const OWNER: Owner = (SLOT_FIRST, 1);
const ALL: Suspected = Suspected {
    connects: true,
    resets: true,
    silence: false,
    handshakes: false,
};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn wanted() -> RecordedPeers {
    let mut peers = RecordedPeers::default();
    peers.want(ALL, seconds(100));
    peers
}

/// With 10.0.0.`last`:`remote_port`.
fn record(kind: u8, last: u8, local_port: u16, remote_port: u16) -> Record {
    let mut record = Record::read_from(&[0; size_of::<Record>()]).unwrap();
    record.kind = kind;
    (record.slot, record.generation) = OWNER;
    record.family = AF_INET;
    (record.local_port, record.remote_port) = (local_port, remote_port);
    record.remote[..4].copy_from_slice(&[10, 0, 0, last]);
    record
}

fn failed(last: u8, errno: i32) -> Record {
    let mut record = record(RECORD_CONNECT_FAILED, last, 0, 80);
    record.errno = errno as u16;
    record
}

fn shares(peers: &RecordedPeers, event: Event) -> Vec<PeerShare> {
    peers
        .of(OWNER, event)
        .map(PeerShare::first)
        .unwrap_or_default()
}

#[test]
fn failed_connects_count_by_destination_and_result() {
    let mut peers = wanted();
    let mut given_up = failed(8, libc::ECANCELED);
    given_up.retransmits = 1;
    let mut without_owner = failed(7, libc::ECONNREFUSED);
    without_owner.slot = 0;
    peers.add(&[
        failed(7, libc::ECONNREFUSED),
        failed(7, libc::ECONNREFUSED),
        given_up,
        // A destination that is not known.
        record(RECORD_CONNECT_FAILED, 0, 0, 0),
        without_owner,
        record(RECORD_CLOSE, 7, 0, 80),
    ]);
    let of = |last, reason, share| PeerShare {
        netns: 0,
        address: [10, 0, 0, last].into(),
        port: 80,
        is_client: false,
        reason: Some(reason),
        share,
        elsewhere: None,
    };
    assert_eq!(
        shares(&peers, Event::ConnectFailed),
        [of(7, "refused", 0.5), of(8, "gave_up", 0.25)]
    );
}

#[test]
fn resets_name_the_port_of_the_listening_side() {
    let port_of = |flags, local_port, remote_port| {
        let mut peers = wanted();
        let mut record = record(RECORD_RESET_RECEIVED, 7, local_port, remote_port);
        record.flags = flags;
        peers.add(&[record]);
        assert!(shares(&peers, Event::ResetSent).is_empty());
        let [peer] = &shares(&peers, Event::ResetReceived)[..] else {
            panic!("{peers:?}");
        };
        (peer.is_client, peer.port)
    };
    assert_eq!(port_of(CONN_ACTIVE, 50, 8000), (false, 8000));
    assert_eq!(port_of(CONN_PASSIVE, 8000, 50), (true, 8000));
    assert_eq!(port_of(0, 40_000, 80), (false, 80));
    assert_eq!(port_of(0, 80, 40_000), (true, 80));
}

#[test]
fn unanswered_connections_name_their_peers() {
    let mut peers = RecordedPeers::default();
    let suspected = Suspected {
        silence: true,
        ..Suspected::default()
    };
    peers.want(suspected, seconds(100));
    assert_eq!(peers.kinds(), 1 << RECORD_CLOSE);
    let ended = |last, errno: i32, flags| {
        let mut record = record(RECORD_CLOSE, last, 40_000, 80);
        (record.errno, record.flags) = (errno as u16, flags | CONN_ACTIVE);
        record
    };
    peers.add(&[
        ended(7, libc::ETIMEDOUT, 0),
        ended(7, libc::EHOSTUNREACH, 0),
        ended(8, 0, 0),
        ended(8, libc::EPIPE, 0),
        // By keepalive.
        ended(8, libc::ETIMEDOUT, CONN_RESET_SENT),
        record(RECORD_RESET_SENT, 8, 40_000, 80),
    ]);
    let [peer] = &shares(&peers, Event::Unanswered)[..] else {
        panic!("{peers:?}");
    };
    assert_eq!(
        (peer.address.to_string(), peer.port),
        ("10.0.0.7".to_owned(), 80)
    );
    assert_eq!(peers.owners().count(), 1);
}

#[test]
fn short_connections_name_their_peers_while_handshakes_fail() {
    let ended = |last, flags, seconds: u64| {
        let mut record = record(RECORD_CLOSE, last, 40_000, 443);
        record.flags = flags;
        record.age_ns = seconds * 1_000_000_000;
        record
    };
    let records = [
        ended(7, CONN_ACTIVE, 0),
        ended(7, CONN_ACTIVE | CONN_RESET_SENT, 9),
        ended(8, CONN_ACTIVE, 10),
        ended(9, CONN_PASSIVE, 0),
    ];
    let shares = |suspected| {
        let mut peers = RecordedPeers::default();
        peers.want(suspected, seconds(100));
        assert_eq!(peers.kinds(), 1 << RECORD_CLOSE);
        peers.add(&records);
        let all = shares(&peers, Event::Short).into_iter();
        let all = all.map(|it| (it.address.to_string(), it.port, it.share));
        all.collect::<Vec<_>>()
    };
    let handshakes = Suspected {
        handshakes: true,
        ..Suspected::default()
    };
    let silence = Suspected {
        silence: true,
        ..Suspected::default()
    };
    assert_eq!(shares(handshakes), [("10.0.0.7".to_owned(), 443, 1.0)]);
    assert_eq!(shares(silence), []);
}

#[test]
fn records_are_read_until_a_minute_after_the_last_suspicion() {
    let mut peers = RecordedPeers::default();
    let connects = 1 << RECORD_CONNECT_FAILED;
    let resets = 1 << RECORD_RESET_SENT | 1 << RECORD_RESET_RECEIVED;
    let only = Suspected {
        connects: true,
        ..Suspected::default()
    };
    for (second, suspected, kinds) in [
        (100, Suspected::default(), 0),
        (101, ALL, connects | resets),
        (150, only, connects | resets),
        (160, Suspected::default(), connects | resets),
        (161, Suspected::default(), connects),
        (209, Suspected::default(), connects),
        (210, Suspected::default(), 0),
    ] {
        peers.want(suspected, seconds(second));
        assert_eq!(peers.kinds(), kinds, "after {second} s");
    }
    peers.add(&[failed(7, libc::ECONNREFUSED)]);
    assert_eq!(peers.owners().count(), 0, "nobody wants it any more");
}

#[test]
fn records_are_a_sample_and_fade() {
    let mut peers = wanted();
    let many = vec![failed(7, libc::ECONNREFUSED); 2 * MOST as usize];
    peers.add(&many);
    let resets = 1 << RECORD_RESET_SENT | 1 << RECORD_RESET_RECEIVED;
    assert_eq!(peers.kinds(), resets, "others have their own");
    let all = peers.of(OWNER, Event::ConnectFailed).unwrap();
    assert_eq!(all.total(), f64::from(MOST));
    peers.want(ALL, seconds(101));
    assert_ne!(peers.kinds(), resets);
    // The destination changes.
    for second in 102..140 {
        peers.want(ALL, seconds(second));
        peers.add(&[failed(8, libc::ECONNREFUSED)]);
    }
    for second in 140..170 {
        peers.want(ALL, seconds(second));
        peers.add(&vec![failed(8, libc::ECONNREFUSED); 100]);
    }
    let first = &shares(&peers, Event::ConnectFailed)[0];
    assert_eq!(first.address.to_string(), "10.0.0.8");
    assert!(first.share > 0.9, "{first:?}");
    // Those of a slow retry loop are kept for a while.
    let mut slow = wanted();
    slow.add(&[failed(7, libc::ECONNREFUSED)]);
    slow.want(ALL, seconds(150));
    assert_eq!(slow.owners().count(), 1);
    for period in 0..20 {
        slow.want(ALL, seconds(160 + 10 * period));
    }
    assert_eq!(slow.owners().count(), 0);
}

/// A process whose connects fail, among any number of others that do not live long.
#[test]
fn many_processes_do_not_displace_one() {
    let mut peers = wanted();
    for slot in 0..20_000 {
        if slot % 1_000 == 0 {
            peers.want(ALL, seconds(100 + u64::from(slot) / 1_000));
        }
        let mut record = failed(7, libc::ECONNREFUSED);
        record.slot = SLOT_FIRST + 1 + slot;
        peers.add(&[record]);
        if slot % 100 == 0 {
            peers.add(&[failed(8, libc::ECONNREFUSED)]);
        }
        assert!(peers.owners().count() <= 2 * OWNERS);
    }
    assert_eq!(shares(&peers, Event::ConnectFailed)[0].share, 1.0);
}
