use std::collections::BTreeSet;

use observer_common::{LAST_ACK, PORT_TIMESTAMPS, TIME_WAIT, TW_REUSE_LOOPBACK};
use proptest::prelude::*;

use super::{super::destination::address, *};

const V4: [u32; 4] = [0, 0, observer_common::V4_MAPPED, 0x7f00_0001_u32.to_be()];

fn space(netns: u32, low: u16, high: u16, reserved: &[u16]) -> Box<PortSpace> {
    let mut set = PortSet::default();
    for port in reserved {
        set.insert(*port);
    }
    Box::new(PortSpace {
        netns,
        low,
        high,
        tw_reuse: TW_REUSE_LOOPBACK,
        tw_reuse_delay_ms: 1000,
        reserved: *set.0,
        ..PortSpace::zeroed()
    })
}

fn port(local_port: u16, remote_port: u16, slot: u32, flags: u16) -> SocketSeen {
    SocketSeen {
        slot,
        generation: 1,
        netns: 7,
        flags,
        state: ESTABLISHED,
        waits_for: 0,
        waited_ms: 0,
        alive: 0,
        age: 0,
        idle_ms: 0,
        local_port,
        remote_port,
        local: V4,
        remote: V4,
    }
}

fn walk(spaces: &[Box<PortSpace>], sockets: &[SocketSeen]) -> Walk {
    walk_at(1000, spaces, sockets, &mut History::default())
}

/// A walk that takes no time.
fn walk_at(
    seconds: u64,
    spaces: &[Box<PortSpace>],
    sockets: &[SocketSeen],
    history: &mut History,
) -> Walk {
    let at = Duration::from_secs(seconds);
    walk_during(at..at, spaces, sockets, history)
}

fn walk_during(
    walked: Range<Duration>,
    spaces: &[Box<PortSpace>],
    sockets: &[SocketSeen],
    history: &mut History,
) -> Walk {
    let mut collector = Collector::default();
    for socket in sockets {
        collector.add(socket);
    }
    collector.finish(spaces, walked, history)
}

#[test]
fn addresses_are_read_in_both_families() {
    assert_eq!(address(V4).to_string(), "127.0.0.1");
    assert_eq!(address([0, 0, 0, 1_u32.to_be()]).to_string(), "::1");
    assert_eq!(address([0; 4]).to_string(), "::");
    let any = [0, 0, observer_common::V4_MAPPED, 0];
    assert_eq!(address(any).to_string(), "0.0.0.0");
}

#[test]
fn reserved_and_bound_ports_are_not_to_be_had() {
    let bound = port(105, 0, 3, PORT_BOUND | PORT_UNCONNECTED);
    // Outside of the range, and reserved as well: nothing to take off.
    let others = [port(99, 0, 3, PORT_BOUND), port(101, 0, 3, PORT_BOUND)];
    let used = [port(102, 80, 3, 0), port(105, 80, 3, 0), port(99, 80, 3, 0)];
    let all = [&[bound][..], &others, &used].concat();
    let walk = walk(&[space(7, 100, 109, &[100, 101, 200])], &all);
    assert_eq!(walk.namespaces[&7].available(), 10 - 2 - 1);
    let [share] = walk.shares[..] else {
        panic!("{walk:?}")
    };
    assert_eq!((share.used, share.used_by_all, share.available), (1, 1, 7));
    assert_eq!(share.destination.remote.to_string(), "127.0.0.1:80");
    assert_eq!(share.destination.source.to_string(), "127.0.0.1");
}

/// A port whose socket is in TIME_WAIT and one that a live socket has, too; the next walk finds two more.
#[test]
fn bound_ports_have_their_owners() {
    let in_time_wait = |local_port, slot, age| SocketSeen {
        state: TIME_WAIT,
        age,
        ..port(local_port, 80, slot, PORT_BOUND)
    };
    let first = [
        in_time_wait(100, 3, coarse_time(5_000_000_000)),
        in_time_wait(101, 3, coarse_time(5_000_000_000)),
        port(101, 0, 4, PORT_BOUND | PORT_UNCONNECTED),
        port(102, 80, 3, PORT_BOUND),
    ];
    let new = [port(103, 80, 3, PORT_BOUND), port(104, 80, 3, PORT_BOUND)];
    let spaces = [space(7, 100, 109, &[])];
    let mut history = History::default();
    let mut walk = |sockets: &[SocketSeen], second| {
        walk_at(second, &spaces, sockets, &mut history).namespaces[&7].clone()
    };
    let namespace = walk(&first, 1);
    assert_eq!((namespace.range, namespace.bound), (10, 3));
    assert_eq!((namespace.bound_time_wait, namespace.bound_opened), (1, 3));
    assert_eq!(namespace.binders, [((3, 1), 2), ((4, 1), 1)]);
    let namespace = walk(&[&first[..], &new].concat(), 2);
    assert_eq!((namespace.bound, namespace.bound_opened), (5, 5));
}

#[test]
fn a_port_that_was_taken_again_counts_once_and_for_its_new_user() {
    let in_time_wait = |port: SocketSeen, age| SocketSeen {
        state: TIME_WAIT,
        age,
        ..port
    };
    let ports = [
        in_time_wait(port(100, 80, 3, 0), 1),
        port(100, 80, 4, 0),
        in_time_wait(port(101, 80, 2, 0), 9),
        in_time_wait(port(101, 80, 3, 0), 8),
        port(100, 81, 3, 0),
    ];
    let walk = walk(&[space(7, 100, 103, &[])], &ports);
    let shares: Vec<_> = walk
        .shares
        .iter()
        .map(|it| {
            (
                it.destination.remote.port(),
                it.owner.0,
                it.used,
                it.used_by_all,
            )
        })
        .collect();
    assert_eq!(shares.len(), 3);
    for expected in [(80, 3, 1, 2), (80, 4, 1, 2), (81, 3, 1, 1)] {
        assert!(shares.contains(&expected), "{shares:?}");
    }
}

#[test]
fn the_whole_range_and_no_range_are_fine() {
    assert_eq!(
        walk(&[space(7, 0, u16::MAX, &[])], &[]).namespaces[&7].available(),
        65_536
    );
    // Values read from a freed namespace are arbitrary.
    assert_eq!(
        walk(&[space(7, 9, 1, &[])], &[]).namespaces[&7].available(),
        0
    );
    let nothing = Walk {
        walked_at: Duration::from_secs(1000),
        ..Walk::default()
    };
    let mut found = walk(&[], &[port(1, 2, 3, 0)]);
    found.waits.clear();
    assert_eq!(found.sockets, [(7, 1)].into());
    found.sockets.clear();
    assert_eq!(found, nothing);
}

#[test]
fn sockets_are_counted_by_namespace() {
    let passive = SocketSeen {
        netns: 8,
        state: CLOSE_WAIT,
        flags: SEEN_PASSIVE,
        ..SocketSeen::default()
    };
    let closed = SocketSeen {
        state: CLOSE,
        ..port(3, 2, 3, PORT_BOUND | PORT_UNCONNECTED)
    };
    let empty = SocketSeen::default();
    let waiting = in_time_wait(port(4, 2, 3, 0), 0, 0);
    let open = port(1, 2, 3, 0);
    let found = walk(&[], &[open, passive, closed, empty, waiting, open]);
    assert_eq!(found.sockets, [(7, 2), (8, 1)].into());
}

fn in_time_wait(port: SocketSeen, age: u32, idle_ms: u32) -> SocketSeen {
    SocketSeen {
        flags: port.flags | PORT_TIMESTAMPS,
        state: TIME_WAIT,
        age,
        idle_ms,
        ..port
    }
}

#[test]
fn a_port_that_may_be_taken_again_is_used_and_not_blocked() {
    let ports = [
        port(100, 80, 3, 0),
        in_time_wait(port(101, 80, 3, 0), 1, 1),
        in_time_wait(port(102, 80, 3, 0), 2000, 1001),
        in_time_wait(port(103, 80, 4, 0), 2000, 1001),
        // Reused by another process.
        in_time_wait(port(104, 80, 3, 0), 2000, 1001),
        port(104, 80, 4, 0),
        // In TIME_WAIT twice: the later socket counts.
        in_time_wait(port(105, 80, 3, 0), 3000, 3000),
        in_time_wait(port(105, 80, 4, 0), 10, 10),
    ];
    let walk = walk(&[space(7, 100, 119, &[])], &ports);
    let shares: Vec<_> = walk
        .shares
        .iter()
        .map(|it| {
            (
                it.owner.0,
                it.used,
                it.blocked,
                it.used_by_all,
                it.blocked_by_all,
            )
        })
        .collect();
    assert_eq!(shares, [(3, 3, 2, 6, 4), (4, 3, 2, 6, 4)]);
    assert_eq!(walk.namespaces[&7].available(), 20);
}

#[test]
fn a_bound_port_in_time_wait_is_taken_off_for_every_destination() {
    let ports = [
        in_time_wait(port(100, 80, 3, PORT_BOUND), 5000, 5000),
        port(101, 81, 3, 0),
        port(100, 81, 4, 0),
    ];
    let walk = walk(&[space(7, 100, 109, &[])], &ports);
    assert_eq!(walk.namespaces[&7].available(), 9);
    let [share] = walk.shares[..] else {
        panic!("{walk:?}")
    };
    assert_eq!(
        (share.destination.remote.port(), share.blocked_by_all),
        (81, 1)
    );
}

/// One socket: port, destination, owner, age (0 for the living), time waited, timestamps, bound.
fn socket() -> impl Strategy<Value = SocketSeen> {
    let time = (0_u32..4, prop_oneof![Just(0_u32), Just(1000), Just(1001)]);
    (
        98_u16..112,
        80_u16..82,
        2_u32..4,
        time,
        any::<bool>(),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(local, remote, slot, (age, idle_ms), timestamps, bound)| {
            let timestamps = if timestamps { PORT_TIMESTAMPS } else { 0 };
            let bound = if bound { PORT_BOUND } else { 0 };
            SocketSeen {
                state: if age == 0 { ESTABLISHED } else { TIME_WAIT },
                age,
                idle_ms,
                ..port(local, remote, slot, timestamps | bound)
            }
        })
}

proptest! {
    /// Held against a plain definition over sets of ports.
    #[test]
    fn shares_add_up(sockets in prop::collection::vec(socket(), 0..60)) {
        let walk = walk(&[space(7, 100, 109, &[103])], &sockets);
        let bound: BTreeSet<u16> = sockets
            .iter()
            .filter(|it| it.flags & PORT_BOUND != 0)
            .map(|it| it.local_port)
            .collect();
        let usable: BTreeSet<u16> =
            (100..110).filter(|it| *it != 103 && !bound.contains(it)).collect();
        prop_assert_eq!(walk.namespaces[&7].available() as usize, usable.len());
        for remote in 80..82 {
            let shares: Vec<_> = walk
                .shares
                .iter()
                .filter(|it| it.destination.remote.port() == remote)
                .collect();
            let of = |port: u16| {
                let here = move |it: &&SocketSeen| {
                    (it.local_port, it.remote_port) == (port, remote) && it.flags & PORT_BOUND == 0
                };
                sockets.iter().filter(here)
            };
            let used = usable.iter().filter(|port| of(**port).next().is_some()).count();
            // The youngest determines whether it is blocked; of equal ones, any.
            let free = |port: u16, all: bool| {
                let youngest = of(port).map(|it| it.age).min();
                let mut free = of(port).filter(|it| Some(it.age) == youngest).map(|it| {
                    it.age > 0 && it.flags & PORT_TIMESTAMPS != 0 && it.idle_ms > 1000
                });
                youngest.is_some() && if all { free.all(|it| it) } else { free.any(|it| it) }
            };
            let free = |all| usable.iter().filter(|port| free(**port, all)).count();
            let sum = |count: fn(&Share) -> u32| shares.iter().map(|it| count(it)).sum::<u32>();
            prop_assert_eq!(sum(|it| it.used) as usize, used);
            let blocked = used - free(false)..=used - free(true);
            prop_assert!(blocked.contains(&(sum(|it| it.blocked) as usize)));
            for share in &shares {
                prop_assert_eq!(share.used_by_all, sum(|it| it.used));
                prop_assert_eq!(share.blocked_by_all, sum(|it| it.blocked));
                prop_assert!(share.blocked <= share.used);
                prop_assert!(share.blocked_by_all <= share.available);
            }
        }
    }
}

const fn ticks(seconds: u64) -> u32 {
    coarse_time(seconds * 1_000_000_000)
}

fn in_state(state: u8, slot: u32, flags: u16, seconds: u64) -> SocketSeen {
    SocketSeen {
        state,
        age: ticks(seconds),
        ..port(0, 0, slot, flags)
    }
}

fn quiet(flags: u16, idle_ms: u32) -> SocketSeen {
    SocketSeen {
        idle_ms,
        ..in_state(ESTABLISHED, 7, flags | SEEN_PASSIVE, 600)
    }
}

#[test]
fn sockets_in_a_state_for_long_name_their_peers() {
    let connecting = |port, seconds| SocketSeen {
        // bind() before connect().
        flags: PORT_BOUND,
        remote_port: port,
        ..in_state(SYN_SENT, 3, 0, seconds)
    };
    let mut sockets = vec![connecting(80, 4); 3];
    sockets.extend([connecting(81, 4), connecting(82, 3)]);
    // Any number of other peers.
    sockets.extend((1000..9000).map(|port| connecting(port, 9)));
    sockets.extend(vec![connecting(443, 9); 1000]);
    sockets.push(in_state(SYN_SENT, 4, 0, 4));
    let closed = |seconds| SocketSeen {
        local_port: 443,
        ..in_state(CLOSE_WAIT, 5, SEEN_DESCRIPTOR | SEEN_PASSIVE, seconds)
    };
    sockets.extend([closed(11), closed(70), closed(10)]);
    let walk = walk(&[], &sockets);
    assert_eq!(walk.process((3, 1)).syn_sent_over_3s, 9004);
    let [first, ..] = walk.state_peers((3, 1), SYN_SENT) else {
        panic!("{:?}", walk.state_peers);
    };
    assert_eq!((first.peer.port, first.peer.is_client), (443, false));
    assert!((800..=1000).contains(&first.sockets), "{first:?}");
    assert_eq!(walk.state_peers((4, 1), SYN_SENT).len(), 1);
    let [kept] = walk.state_peers((5, 1), CLOSE_WAIT) else {
        panic!("{:?}", walk.state_peers);
    };
    assert_eq!(
        (kept.peer.port, kept.peer.is_client, kept.sockets),
        (443, true, 2)
    );
    assert!(walk.state_peers.len() <= 7);
}

#[test]
fn sockets_of_a_process_count_once_they_have_waited() {
    let open = SEEN_DESCRIPTOR;
    let sockets = [
        in_state(SYN_SENT, 3, 0, 3),
        in_state(SYN_SENT, 3, 0, 4),
        in_state(CLOSE_WAIT, 4, open, 10),
        in_state(CLOSE_WAIT, 4, open, 11),
        in_state(CLOSE_WAIT, 4, open | SEEN_PASSIVE, 11),
        in_state(CLOSE_WAIT, 4, open | SEEN_PASSIVE | SEEN_ASKED, 10),
        in_state(CLOSE_WAIT, 4, open | SEEN_PASSIVE | SEEN_ASKED, 11),
        in_state(CLOSE_WAIT, 4, open, 61),
        // Waits for accept().
        in_state(CLOSE_WAIT, 4, SEEN_PASSIVE, 600),
        in_state(FIN_WAIT2, 5, open, 0),
        // An orphan.
        in_state(FIN_WAIT2, 5, 0, 600),
        in_state(TIME_WAIT, 5, PORT_FIN_WAIT2, 2),
        in_state(TIME_WAIT, 5, PORT_FIN_WAIT2, 3),
        in_state(TIME_WAIT, 5, 0, 30),
        in_state(ESTABLISHED, 6, open, 600),
        quiet(SEEN_UNGUARDED, 60_000),
        quiet(SEEN_UNGUARDED, 60_001),
        quiet(0, 60_001),
        SocketSeen::default(),
    ];
    let walk = walk(&[], &sockets);
    let none = ProcessUse::default();
    let expected = [
        ProcessUse {
            owner: (3, 1),
            syn_sent_over_3s: 1,
            ..none
        },
        ProcessUse {
            owner: (4, 1),
            close_wait_over_10s: 4,
            close_wait_over_60s: 1,
            close_wait_of_servers: 2,
            close_wait_unanswered: 1,
            ..none
        },
        ProcessUse {
            owner: (5, 1),
            owned_fin_wait2: 1,
            not_closed_by_peer: 2,
            ..none
        },
        ProcessUse {
            owner: (7, 1),
            unguarded: 1,
            ..none
        },
    ];
    assert_eq!(walk.processes, expected);
    assert_eq!(walk.process((4, 1)), expected[1]);
    let another = ProcessUse {
        owner: (4, 2),
        ..none
    };
    assert_eq!(walk.process((4, 2)), another);
    assert!(walk.destinations.is_empty());
}

#[test]
fn ports_are_counted_by_state() {
    let state = |local, state, slot| SocketSeen {
        state,
        ..port(local, 80, slot, 0)
    };
    let idle = |local, idle_ms| SocketSeen {
        idle_ms,
        ..port(local, 80, 3, 0)
    };
    let sockets = [
        state(100, SYN_SENT, 3),
        idle(101, 300_000),
        idle(102, 300_001),
        state(103, CLOSE_WAIT, 4),
        state(104, FIN_WAIT1, 4),
        state(105, FIN_WAIT2, 4),
        state(106, LAST_ACK, 4),
        // The waiting time of a timewait socket does not mean that it is idle.
        in_time_wait(port(107, 80, 4, 0), ticks(2), 300_001),
        in_time_wait(port(108, 80, 4, 0), 0, 0),
    ];
    let walk = walk(&[space(7, 100, 119, &[])], &sockets);
    let [it] = &walk.destinations[..] else {
        panic!("{walk:?}")
    };
    let by_state = [it.syn_sent, it.established, it.idle, it.closing];
    assert_eq!(by_state, [1, 2, 1, 3]);
    assert_eq!((it.used, it.blocked, it.time_wait), (9, 8, 1));
    let holders = walk.holders(it).iter();
    let holders: Vec<_> = holders.map(|it| (it.owner.0, it.used)).collect();
    assert_eq!(holders, [(4, 6), (3, 3)]);
    assert_eq!(walk.fullest(), 0.4);
}

#[test]
fn time_wait_blocks_for_the_delay_where_ports_are_reused() {
    let blocked_for = |space: &PortSpace, sockets: &[SocketSeen]| {
        let walk = walk(&[Box::new(*space)], sockets);
        walk.destinations[0].blocked_for.as_millis()
    };
    let loopback = space(7, 100, 119, &[]);
    let waiting = in_time_wait(port(100, 80, 3, 0), 1, 1);
    let without_timestamps = SocketSeen {
        flags: 0,
        ..waiting
    };
    assert_eq!(blocked_for(&loopback, &[port(100, 80, 3, 0)]), 1000);
    assert_eq!(blocked_for(&loopback, &[waiting]), 1000);
    assert_eq!(blocked_for(&loopback, &[without_timestamps]), 60_000);
    let never = PortSpace {
        tw_reuse: 0,
        ..*loopback
    };
    assert_eq!(blocked_for(&never, &[waiting]), 60_000);
    let long = PortSpace {
        tw_reuse_delay_ms: 90_000,
        ..*loopback
    };
    assert_eq!(blocked_for(&long, &[waiting]), 60_000);
}

#[test]
fn connections_that_took_a_port_are_counted_over_walks() {
    let space = [space(7, 100, 119, &[])];
    let mut history = History::default();
    let mut opened = |seconds, sockets: &[SocketSeen]| {
        let walk = walk_at(seconds, &space, sockets, &mut history);
        let of = |remote| {
            let mut all = walk.destinations.iter();
            all.find(|it| it.destination.remote.port() == remote)
                .map(|it| it.opened)
        };
        (of(80), of(81), history.growth())
    };
    let live = |local| port(local, 80, 3, 0);
    let other = port(100, 81, 3, 0);
    let waiting = |local, seconds| in_time_wait(live(local), ticks(seconds), 1);
    let first = [live(100), live(101), waiting(102, 5), other];
    assert_eq!(opened(10, &first), (Some(3), Some(1), 0.0));
    // Nothing new: one has closed, and so has a process that holds the port no more.
    let second = [live(100), waiting(101, 3), waiting(102, 15), other];
    assert_eq!(opened(20, &second), (Some(3), Some(1), 0.0));
    // Two are new: one of them has ended. The third port was taken again from TIME_WAIT, and the fourth
    // was, too, and is in TIME_WAIT again.
    let third = [
        live(100),
        live(101),
        waiting(102, 1),
        live(103),
        waiting(104, 2),
        other,
    ];
    let growth = 2.0 / 20.0 / 10.0;
    assert_eq!(opened(30, &third), (Some(7), Some(1), growth));
    // A destination that was not found begins anew.
    assert_eq!(opened(40, &[live(100)]), (Some(7), None, 0.0));
    assert_eq!(opened(50, &[live(100), other]), (Some(7), Some(1), 0.005));
}

#[test]
fn a_walk_that_is_held_up_finds_no_new_connections() {
    let spaces = [space(7, 100, 109, &[])];
    let mut history = History::default();
    let ms = Duration::from_millis;
    let mut opened = |walked, local_port: u16, age: u64| {
        let socket = SocketSeen {
            state: TIME_WAIT,
            age: coarse_time(age * 1_000_000),
            ..port(local_port, 80, 3, 0)
        };
        let walk = walk_during(walked, &spaces, &[socket], &mut history);
        walk.destinations[0].opened
    };
    // Entered at 660 ms, and visited when each walk begins; the second one is held up afterwards.
    assert_eq!(opened(ms(700)..ms(750), 100, 40), 1);
    assert_eq!(opened(ms(1_000)..ms(1_250), 100, 340), 1);
    // It was taken again.
    assert_eq!(opened(ms(2_000)..ms(2_250), 100, 700), 2);
}

#[test]
fn a_range_has_both_ends() {
    for (low, high) in [
        (0, u16::MAX),
        (0, 0),
        (63, 64),
        (32_768, 60_999),
        (u16::MAX, u16::MAX),
    ] {
        let range = PortSet::range(low, high);
        let ports = (0..=u16::MAX).filter(|port| range.contains(*port));
        assert!(ports.eq(low..=high), "{low} to {high}");
    }
    assert_eq!(PortSet::range(2, 1).count(), 0);
}
