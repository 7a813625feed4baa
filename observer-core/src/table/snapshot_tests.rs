use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use observer_common::{
    CLOSE, ESTABLISHED, LISTEN, Listener, ListenerKey, ListenerSample, SYN_SENT, V4_MAPPED,
    connect_index,
};

use super::*;
use crate::{
    table::{
        TableConfig,
        fake::{FakeFacts, FakeKernel, key},
    },
    walk::{Destination, NamespaceUse, Share, Walk},
};

fn fill(slot: &mut Slot) {
    let state = |state: u8| usize::from(state);
    slot.sockets = 3;
    slot.state.transitions[state(CLOSE)][state(SYN_SENT)] = 4;
    slot.state.transitions[state(SYN_SENT)][state(ESTABLISHED)] = 3;
    slot.state.transitions[state(SYN_SENT)][state(CLOSE)] = 1;
    slot.state.adjust[state(LISTEN)] = 1;
    slot.state.adjust[state(CLOSE)] = 1;
    slot.connect.results[0] = 3;
    slot.connect.results[connect_index(111)] = 1;
    slot.connect.seconds.buckets[2] = 3;
    slot.accept.accepted = 5;
    slot.reset.sent[48] = 7;
    slot.time_wait.entered[0] = 2;
}

fn table(kernel: &FakeKernel, facts: &FakeFacts, max_processes: usize) -> Table {
    let mut table = Table::new(TableConfig {
        max_processes,
        ..TableConfig::default()
    });
    table.tick(Instant::now(), kernel, facts);
    table
}

#[test]
fn a_snapshot_has_each_process_and_name() {
    let (kernel, facts) = (FakeKernel::new(16), FakeFacts::default());
    for pid in [7, 8] {
        let slot = kernel.spawn(pid, 1, b"a").unwrap();
        kernel.change(slot, fill);
        let number = 100 + slot;
        kernel.change(slot, |it| it.time_wait_count = number);
        let mut time_waits = kernel.time_waits.lock().unwrap();
        time_waits.entry(number).or_default().entered = 2;
    }
    // One is not shown by pid.
    let table = table(&kernel, &facts, 1);
    let snapshot = table.snapshot(5, &kernel, &facts);
    assert_eq!(snapshot.monotonic_ns, 5);
    let keys: Vec<_> = snapshot.processes.iter().map(|it| it.key).collect();
    assert_eq!(keys, [key(7, 1), key(8, 1)]);
    for process in &snapshot.processes {
        let vitals = &process.vitals;
        assert_eq!(process.resources, facts.resources);
        let connections: Vec<_> = vitals.connections().collect();
        assert_eq!(connections, [("ESTABLISHED", 3), ("LISTEN", 1)]);
        assert_eq!((vitals.sockets(), vitals.time_wait), (4, 2));
        let slot = vitals.counts.slot();
        assert_eq!(slot.connect.results[connect_index(111)], 1);
        assert_eq!((slot.accept.accepted, slot.reset.sent[48]), (5, 7));
        let transitions = slot.state.transitions[usize::from(SYN_SENT)];
        assert_eq!(transitions[usize::from(ESTABLISHED)], 3);
        // No metric, or a histogram.
        assert_eq!(slot.state.adjust, [0; STATES]);
        assert_eq!(slot.connect.seconds.buckets, [0; observer_common::BUCKETS]);
    }
    assert_eq!(snapshot.busiest(1)[0].key, key(7, 1));
    let names: Vec<_> = snapshot
        .names
        .iter()
        .map(|it| it.vitals.labels.comm())
        .collect();
    assert_eq!(names, ["<unattributed>", "<other>", "a"]);
    let name = &snapshot.names[2];
    assert!(name.alive);
    assert_eq!(name.vitals.counts.slot().accept.accepted, 10);
    assert_eq!(name.vitals.sockets(), 8);
}

#[test]
fn an_ended_process_stays_in_its_name() {
    let (kernel, facts) = (FakeKernel::new(16), FakeFacts::default());
    let slot = kernel.spawn(7, 1, b"a").unwrap();
    kernel.change(slot, fill);
    let mut table = table(&kernel, &facts, 10);
    facts.kill(key(7, 1));
    table.tick(Instant::now() + Duration::from_secs(1), &kernel, &facts);
    let snapshot = table.snapshot(0, &kernel, &facts);
    assert!(snapshot.processes.is_empty());
    let name = &snapshot.names[2];
    assert!(!name.alive);
    assert_eq!(name.vitals.counts.slot().accept.accepted, 5);
}

#[test]
fn listeners_and_ports_are_with_their_process_and_name() {
    let (kernel, facts) = (FakeKernel::new(16), FakeFacts::default());
    let slots = [7, 8].map(|pid| kernel.spawn(pid, 1, b"a").unwrap());
    let mut table = table(&kernel, &facts, 10);
    let sample = ListenerSample {
        key: ListenerKey {
            socket: 1,
            born_ns: 1,
        },
        listener: Listener {
            slot: slots[0],
            port: 80,
            address: [0, 0, V4_MAPPED, 0],
            ..Listener::default()
        },
        backlog: 3,
        max_backlog: 5,
        ..ListenerSample::default()
    };
    table.update_listeners(&[sample], None);
    let destination = Destination {
        netns: 1,
        source: Ipv4Addr::LOCALHOST.into(),
        remote: (Ipv4Addr::LOCALHOST, 90).into(),
    };
    let share = |slot, used| Share {
        destination,
        owner: (slot, 0),
        used,
        blocked: used - 1,
        used_by_all: 9,
        blocked_by_all: 7,
        available: 100,
    };
    let walk = Walk {
        shares: vec![share(slots[0], 4), share(slots[1], 5)],
        namespaces: [(
            1,
            NamespaceUse {
                range: 100,
                bound: 0,
                ..NamespaceUse::default()
            },
        )]
        .into(),
        ..Walk::default()
    };
    table.update_ports(&walk, 5);
    let snapshot = table.snapshot(0, &kernel, &facts);
    let [first, second] = &snapshot.processes[..] else {
        panic!("two processes");
    };
    let name = &snapshot.names[2].vitals;
    for vitals in [&first.vitals, name] {
        let [(Some(address), stats)] = vitals.listeners[..] else {
            panic!("{:?}", vitals.listeners);
        };
        assert_eq!((address.address.port(), stats.backlog), (80, 3));
    }
    assert!(second.vitals.listeners.is_empty());
    for (vitals, used) in [(&first.vitals, 4), (&second.vitals, 5), (name, 9)] {
        let [ports] = &vitals.ports[..] else {
            panic!("{:?}", vitals.ports);
        };
        assert_eq!(ports.destination, Some(destination));
        assert_eq!((ports.used, ports.blocked_by_all), (used, 7));
        assert_eq!(ports.ratio(), 0.07);
    }
}

#[test]
fn counters_that_only_detectors_read_are_kept() {
    let mut slot = Slot::zeroed();
    (slot.waiting.gave_up, slot.waiting.nothing_read) = ([2, 4, 5, 6], 3);
    slot.waiting.ended[0].sum_ns = 1;
    let kept = Counts::new(&slot).slot().waiting;
    assert_eq!((kept.gave_up, kept.nothing_read), ([2, 4, 5, 6], 3));
    assert_eq!(kept.ended[0].sum_ns, 0);
}
