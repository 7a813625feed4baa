use std::net::Ipv4Addr;

use observer_common::{
    FIN_WAIT2, PORT_BOUND, SEEN_ASKED, SEEN_MUCH_UNREAD, SEEN_PARTLY_READ, SEEN_PASSIVE,
    WAIT_NOBODY, WAIT_NOTHING, WAIT_PEER_FIRST_BYTE, WAIT_PROGRAM, WAIT_PROGRAM_READ, WAIT_UNUSED,
    coarse_time,
};

use super::{super::waits::wait_name, *};

const STALL_AFTER_MS: u32 = 10_000;

fn socket(slot: u32, waits_for: u8, waited_ms: u32) -> SocketSeen {
    SocketSeen {
        slot,
        state: ESTABLISHED,
        waits_for,
        waited_ms,
        alive: coarse_time(u64::from(waited_ms + 500) * 1_000_000),
        ..SocketSeen::default()
    }
}

fn words(address: Ipv4Addr) -> [u32; 4] {
    let octets = address.to_ipv6_mapped().octets();
    let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|byte| octets[at * 4 + byte]));
    std::array::from_fn(word)
}

/// Opened here, to 10.0.0.`last`:80; or accepted on port 443 from there.
fn peer(socket: SocketSeen, last: u8, is_client: bool) -> SocketSeen {
    SocketSeen {
        netns: 7,
        remote: words(Ipv4Addr::new(10, 0, 0, last)),
        remote_port: if is_client { 55_000 } else { 80 },
        local_port: if is_client { 443 } else { 44_000 },
        flags: if is_client { SEEN_PASSIVE } else { 0 },
        ..socket
    }
}

fn collect(sockets: &[SocketSeen]) -> (Vec<ProcessWaits>, Vec<PeerWait>) {
    let mut collector = WaitCollector::default();
    for socket in sockets {
        collector.add(socket, STALL_AFTER_MS);
    }
    let (waits, peers, _) = collector.finish();
    (waits, peers)
}

#[test]
fn a_wait_counts_as_stalled_once_it_is_long_enough() {
    let (all, peers) = collect(&[
        socket(1, WAIT_PROGRAM_READ, 9_999),
        peer(socket(1, WAIT_PROGRAM_READ, 10_000), 1, true),
        peer(socket(1, WAIT_PROGRAM_READ, 25_000), 1, true),
        peer(socket(1, WAIT_PEER_FIRST_BYTE, 11_000), 2, false),
        SocketSeen {
            state: FIN_WAIT2,
            ..socket(1, WAIT_PROGRAM_READ, 99_000)
        },
    ]);
    let [((1, 0), waits)] = &*all else {
        panic!("{all:?}")
    };
    assert_eq!(waits.connections, 4);
    let stalls: Vec<_> = waits.stalls().collect();
    let expected = [("program_read", 2, 25_000), ("peer_first_byte", 1, 11_000)];
    assert_eq!(stalls, expected);
    assert_eq!(waits.quiets().count(), 0);
    let shown: Vec<_> = peers
        .iter()
        .map(|it| {
            let peer = &it.peer;
            (
                wait_name(it.waits_for),
                format!("{}:{}", peer.address, peer.port),
                peer.is_client,
                it.connections,
                it.longest_ms,
            )
        })
        .collect();
    let expected = [
        ("program_read", "10.0.0.1:443".to_owned(), true, 2, 25_000),
        (
            "peer_first_byte",
            "10.0.0.2:80".to_owned(),
            false,
            1,
            11_000,
        ),
    ];
    assert_eq!(shown, expected);
}

#[test]
fn what_looks_like_a_wait_and_is_none_is_not_judged() {
    let (asked, much) = (SEEN_ASKED, SEEN_MUCH_UNREAD);
    let with = |socket: SocketSeen, flags| SocketSeen { flags, ..socket };
    let half_closed = SocketSeen {
        state: CLOSE_WAIT,
        ..socket(1, WAIT_PROGRAM_READ, 20_000)
    };
    let (all, peers) = collect(&[
        // An idle HTTP/2 client, and requests.
        socket(1, WAIT_PEER, 99_000),
        with(socket(1, WAIT_PEER, 59_999), asked),
        with(socket(1, WAIT_PEER, 60_000), asked),
        // A session ticket, an answer, a request, and a close_notify.
        socket(1, WAIT_PROGRAM_READ, 20_000),
        with(socket(1, WAIT_PROGRAM_READ, 20_000), much),
        with(socket(1, WAIT_PROGRAM_READ, 20_000), SEEN_PASSIVE),
        with(half_closed, SEEN_PASSIVE),
        // One older than the observer, by its port.
        with(socket(1, WAIT_NOBODY, 20_000), PORT_BOUND),
        socket(1, WAIT_NOBODY, 20_000),
        socket(1, WAIT_NOBODY, 1_000),
    ]);
    let waits = &all[0].1;
    assert_eq!(waits.unanswered, 1);
    assert_eq!((waits.unread, waits.unread_of_servers), (2, 1));
    assert_eq!(
        (waits.quiet[2][0], waits.idle_of_servers),
        (2, [1, 0, 0, 0])
    );
    assert_eq!((waits.connections, waits.in_use()), (10, 8));
    assert_eq!((waits.in_use_of_clients, waits.close_wait), (6, 1));
    // Those that detectors count come first, even if they are few.
    let judged: Vec<_> = peers.iter().map(|it| it.is_judged).collect();
    assert_eq!(judged, [true, true, true, false, false]);
}

/// php-fpm does not read the end of a request before it has answered.
#[test]
fn a_server_at_work_on_a_request_may_have_read_it_in_part() {
    let owed = |flags| {
        let socket = SocketSeen {
            flags: flags | SEEN_PASSIVE,
            idle_ms: 20_000,
            ..socket(1, WAIT_PROGRAM_READ, 20_000)
        };
        let (all, _) = collect(&[socket]);
        (all[0].1.owed_by_program, all[0].1.owed_ms)
    };
    assert_eq!(owed(SEEN_ASKED | SEEN_PARTLY_READ), (1, 20_000));
    // It has read nothing, much is left, or it has answered before.
    assert_eq!(owed(SEEN_ASKED), (0, 0));
    assert_eq!(
        owed(SEEN_ASKED | SEEN_PARTLY_READ | SEEN_MUCH_UNREAD),
        (0, 0)
    );
    assert_eq!(owed(SEEN_PARTLY_READ), (0, 0));
}

/// `tls_stall` names them before they count as stalled, whatever else the process waits for.
#[test]
fn peers_that_have_sent_nothing_for_a_short_time_are_kept_beside_others() {
    let at = |waits_for, waited, last| SocketSeen {
        remote: [0, 0, u32::MAX.to_be() >> 16, last],
        ..socket(1, waits_for, waited)
    };
    let stalled = (0..20).map(|last| at(WAIT_PROGRAM_READ, 90_000, last));
    let early = at(WAIT_PEER_FIRST_BYTE, 3_000, 99);
    let too_early = at(WAIT_PEER_FIRST_BYTE, 1_000, 98);
    let sockets: Vec<_> = stalled.chain([early, too_early]).collect();
    let (_, peers) = collect(&sockets);
    let kinds: Vec<_> = peers.iter().map(|it| it.waits_for).collect();
    let mut expected = vec![WAIT_PROGRAM_READ; PEERS];
    expected.push(WAIT_PEER_FIRST_BYTE);
    assert_eq!(kinds, expected);
}

/// Nor do they hide whom the process waits for.
#[test]
fn clients_that_have_sent_nothing_are_kept_beside_others() {
    let at = |waited, last| peer(socket(1, WAIT_UNUSED, waited), last, true);
    let mut sockets = vec![at(1_999, 1), at(2_000, 2), at(30_000, 3), at(30_000, 3)];
    // Of one that this process opened, the other end owes nothing.
    sockets.push(peer(socket(1, WAIT_UNUSED, 30_000), 4, false));
    sockets.extend((0..20).map(|last| peer(socket(1, WAIT_PEER_FIRST_BYTE, 3_000), last, false)));
    let (all, peers) = collect(&sockets);
    let waits = &all[0].1;
    assert_eq!(waits.quiets().collect::<Vec<_>>(), [("nobody", 10, 3)]);
    assert_eq!((waits.idle(), waits.idle_of_servers), (3, [2, 0, 0, 0]));
    let (clients, servers): (Vec<&PeerWait>, Vec<_>) =
        peers.iter().partition(|it| it.peer.is_client);
    assert_eq!(servers.len(), PEERS);
    assert!(peers.iter().all(PeerWait::is_for_tls));
    let clients: Vec<_> = clients
        .iter()
        .map(|it| (it.peer.address.to_string(), it.peer.port, it.connections))
        .collect();
    let expected = [("10.0.0.3", 443, 2), ("10.0.0.2", 443, 1)];
    assert_eq!(
        clients,
        expected.map(|(it, port, of)| (it.to_owned(), port, of))
    );
    assert_eq!(wait_name(WAIT_UNUSED), "unused");
}

#[test]
fn a_process_with_many_peers_is_bounded() {
    let silent = (0..3_000).map(|address| SocketSeen {
        remote: [0, 0, u32::MAX.to_be() >> 16, address],
        flags: SEEN_PASSIVE,
        ..socket(1, WAIT_UNUSED, 20_000)
    });
    let mut collector = WaitCollector::default();
    for socket in silent {
        collector.add(&socket, STALL_AFTER_MS);
    }
    assert_eq!(collector.peers.len(), MOST_PEERS as usize);
    let sockets = (0..3_000_u32).map(|address| SocketSeen {
        remote: [0, 0, u32::MAX.to_be() >> 16, address],
        ..socket(1, WAIT_PEER_FIRST_BYTE, 20_000)
    });
    let mut collector = WaitCollector::default();
    for socket in sockets {
        collector.add(&socket, STALL_AFTER_MS);
    }
    assert_eq!(collector.peers.len(), MOST_PEERS as usize);
    let (all, peers, _) = collector.finish();
    assert_eq!(all[0].1.stalled[5], 3_000);
    assert_eq!((peers.len(), peers.capacity()), (PEERS, PEERS));
}

/// Connections of a client with three servers, of which two are programs of this host: in another namespace, and at loopback.
#[test]
fn servers_of_this_host_are_known_by_connections_that_wait() {
    let at = |last, owner, netns| SocketSeen {
        slot: owner,
        netns,
        ..peer(socket(1, WAIT_PEER_FIRST_BYTE, 12_000), last, false)
    };
    let served = |socket: SocketSeen, owner, netns| SocketSeen {
        slot: owner,
        netns,
        local: socket.remote,
        local_port: socket.remote_port,
        remote: socket.local,
        remote_port: socket.local_port,
        flags: SEEN_PASSIVE,
        waits_for: WAIT_PROGRAM,
        waited_ms: 2_000,
        ..socket
    };
    let loopback = |netns| SocketSeen {
        remote: words(Ipv4Addr::LOCALHOST),
        ..at(1, 1, netns)
    };
    let sockets = [
        at(1, 1, 7),
        at(2, 1, 7),
        loopback(7),
        served(at(1, 1, 7), 5, 8),
        served(loopback(8), 6, 8),
        // At the same address, in a namespace of somebody else.
        SocketSeen {
            remote_port: 44_001,
            ..served(at(2, 1, 7), 9, 9)
        },
    ];
    let servers = |sockets: &[SocketSeen]| {
        let mut collector = WaitCollector::default();
        for socket in sockets {
            collector.add(socket, STALL_AFTER_MS);
        }
        let (_, peers, served) = collector.finish();
        let peers = peers.iter().filter(|it| !it.peer.is_client);
        let servers = peers.map(|it| (it.peer.address.to_string(), it.server));
        (servers.collect::<BTreeMap<_, _>>(), served.len())
    };
    let mut expected = BTreeMap::from([
        ("10.0.0.1".to_owned(), Some((5, 0))),
        ("10.0.0.2".to_owned(), None),
        ("127.0.0.1".to_owned(), None),
    ]);
    assert_eq!(servers(&sockets), (expected.clone(), 3));
    let here = served(loopback(7), 4, 7);
    expected.insert("127.0.0.1".to_owned(), Some((4, 0)));
    assert_eq!(servers(&[&sockets[..], &[here]].concat()), (expected, 4));
    // An address for each client is easily had on loopback.
    let many = (0..3_000).map(|address| SocketSeen {
        local: words(Ipv4Addr::from_bits(0x7f00_0000 + address)),
        ..served(at(1, 1, 7), 5, 8)
    });
    assert_eq!(servers(&many.collect::<Vec<_>>()).1, MOST_SERVED as usize);
}

/// A loop's pair of sockets, by which other threads wake it up, beside a connection to a server.
#[test]
fn what_a_program_sends_to_itself_waits_for_nobody() {
    let own = |port| SocketSeen {
        remote: words(Ipv4Addr::LOCALHOST),
        local: words(Ipv4Addr::LOCALHOST),
        remote_port: port,
        ..peer(socket(1, WAIT_PEER_FIRST_BYTE, 12_000), 1, false)
    };
    let served = |port| SocketSeen {
        local_port: port,
        remote_port: 44_000,
        flags: SEEN_PASSIVE,
        waits_for: WAIT_NOBODY,
        ..own(port)
    };
    // Its threads ask a server in the same program, beside pairs that were used a moment ago.
    let listener = SocketSeen {
        state: LISTEN,
        local_port: 2003,
        ..socket(1, WAIT_NOTHING, 0)
    };
    let recent = SocketSeen {
        waited_ms: 3_000,
        ..own(2004)
    };
    let other = peer(socket(1, WAIT_PEER_FIRST_BYTE, 12_000), 1, false);
    let (all, peers) = collect(&[
        own(2001),
        served(2001),
        own(2002),
        served(2002),
        recent,
        served(2004),
        listener,
        own(2003),
        served(2003),
        other,
    ]);
    let waits = &all[0].1;
    let stalls: Vec<_> = waits.stalls().map(|it| (it.0, it.1)).collect();
    assert_eq!(stalls, [("peer_first_byte", 2)]);
    assert_eq!((waits.connections, waits.in_use_of_clients), (6, 2));
    let peers: Vec<_> = peers.iter().map(|it| it.peer.port).collect();
    assert_eq!(peers, [80, 2003]);
}

#[test]
fn quiet_connections_count_for_each_length_that_they_reach() {
    let (all, peers) = collect(&[
        socket(1, WAIT_NOBODY, 9_999),
        socket(1, WAIT_NOBODY, 60_000),
        socket(1, WAIT_NOBODY, 3_600_000),
        socket(1, WAIT_PROGRAM, 10_000),
        socket(2, WAIT_NOTHING, 99_000),
    ]);
    let quiets: Vec<_> = all[0].1.quiets().collect();
    let expected = [
        ("program", 10, 1),
        ("nobody", 10, 2),
        ("nobody", 60, 2),
        ("nobody", 600, 1),
        ("nobody", 3600, 1),
    ];
    assert_eq!(quiets, expected);
    assert_eq!(all[1].1.quiets().count(), 0);
    assert_eq!(peers, [], "nobody's turn");
}

#[test]
fn ages_of_several_processes_add_up() {
    let (all, _) = collect(&[
        socket(1, WAIT_NOBODY, 0),
        socket(1, WAIT_NOBODY, 20_000),
        socket(2, WAIT_NOBODY, 20_000),
    ]);
    let mut sum = Waits::default();
    for (_, waits) in &all {
        sum.merge(waits);
    }
    let ages = sum.age_histogram();
    // Up to a second, and up to a minute.
    assert_eq!(ages.buckets, [0, 0, 0, 1, 0, 2, 0, 0, 0, 0, 0]);
    assert!((41.4..41.6).contains(&(ages.sum_ns as f64 / 1e9)));
    assert_eq!(sum.quiet[2], [2, 0, 0, 0]);
}

#[test]
fn the_peers_with_the_most_waiting_connections_are_kept() {
    let mut sockets = Vec::new();
    for last in 0..20 {
        for _ in 0..=last {
            sockets.push(peer(socket(1, WAIT_PEER, 10_000), last, false));
        }
    }
    sockets.push(peer(socket(2, WAIT_PEER, 10_000), 99, false));
    let (_, peers) = collect(&sockets);
    let counts: Vec<_> = peers
        .iter()
        .map(|it| (it.owner.0, it.connections))
        .collect();
    assert_eq!(
        counts,
        [(1, 20), (1, 19), (1, 18), (1, 17), (1, 16), (2, 1)]
    );
}
