use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use observer_common::{
    CLOSE, ESTABLISHED, Listener as KernelListener, ListenerKey, ListenerSample, Pod as _,
    RECORD_CONNECT_FAILED, RESET_LINGER_ZERO, Record, SYN_SENT, V4_MAPPED,
};

use super::{ports::FailedSearches, *};
use crate::{
    detect::{
        Suspected,
        finding::{PeerShare, Subject},
        sample::{Ports, SentReset},
    },
    names::ResetReasons,
    table::{
        Labels, Resources, Table, TableConfig,
        fake::{FakeFacts, FakeKernel, key},
    },
    walk::{Destination, DestinationUse, NamespaceUse, Peer, ProcessUse, Share, StatePeer, Walk},
};

fn process_without_sockets() -> Process {
    Process::new(key(1, 1), Arc::new(Labels::process(1, "", "")))
}

fn gather(snapshot: &Snapshot) -> Sample {
    let reasons = ResetReasons::default();
    Gatherer::default().gather(Inputs {
        snapshot,
        classes: &CounterClasses::new(|index| reasons.name(index).into_owned()),
        fd_kinds: &HashMap::new(),
        recorded_peers: &RecordedPeers::default(),
        namespaces: &[],
        sources: Vec::new(),
        netns: &|_| None,
    })
}

#[test]
fn a_sample_has_what_processes_and_names_have() {
    let (kernel, mut facts) = (FakeKernel::new(16), FakeFacts::default());
    facts.resources = Resources {
        open_fds: Some(70),
        max_fds: Some(100),
        ..Resources::default()
    };
    for pid in [7, 8] {
        let slot = kernel.spawn(pid, 1, b"a").unwrap();
        kernel.change(slot, |it| {
            it.reset.sent[RESET_LINGER_ZERO as usize] = 5;
            it.state.transitions[usize::from(ESTABLISHED)][usize::from(CLOSE)] = 6;
            it.connect.results[0] = u64::from(pid);
        });
    }
    let mut table = Table::new(TableConfig::default());
    let now = Instant::now();
    table.tick(now, &kernel, &facts);
    facts.kill(key(8, 1));
    table.tick(now + Duration::from_secs(1), &kernel, &facts);
    let sample = gather(&table.snapshot(3_000_000_000, &kernel, &facts));
    assert_eq!(sample.now, Duration::from_secs(3));
    let [process] = &sample.processes[..] else {
        panic!("{:?}", sample.processes);
    };
    assert_eq!(process.key, key(7, 1));
    let descriptors = process.descriptors.unwrap();
    assert_eq!((descriptors.open, descriptors.limit), (70, 100));
    let linger = SentReset::LingerZero as usize;
    assert_eq!(process.counts.resets_sent[linger], 5);
    let name = sample
        .names
        .iter()
        .find(|it| it.labels.comm() == "a")
        .unwrap();
    assert_eq!(name.running, 1);
    assert_eq!(name.counts.resets_sent[linger], 10, "the ended one's, too");
    assert_eq!((name.counts.ended, name.counts.connects[0]), (12, 15));
}

/// Two processes listen at one address, and another address has had no socket since one ended.
#[test]
fn listeners_are_summed_by_address() {
    let (kernel, facts) = (FakeKernel::new(16), FakeFacts::default());
    let slots = [7, 8].map(|pid| kernel.spawn(pid, 1, b"a").unwrap());
    for slot in slots {
        kernel.change(slot, |it| {
            it.accept.accepted = 4;
            it.fd.exhausted = [1, 2, 0, 0];
        });
    }
    let mut table = Table::new(TableConfig::default());
    table.tick(Instant::now(), &kernel, &facts);
    let listener = |socket, slot, port, backlog, overflows| ListenerSample {
        key: ListenerKey { socket, born_ns: 1 },
        listener: KernelListener {
            slot,
            port,
            overflows,
            address: [0, 0, V4_MAPPED, 0],
            ..KernelListener::default()
        },
        backlog,
        max_backlog: 10,
        ..ListenerSample::default()
    };
    let mut gone = listener(3, slots[0], 81, 0, 3);
    gone.listener.closed = 1;
    let samples = [
        listener(1, slots[0], 80, 1, 5),
        listener(2, slots[1], 80, 9, 6),
        gone,
    ];
    table.update_listeners(&samples, None);
    let sample = gather(&table.snapshot(0, &kernel, &facts));
    let [listener] = &sample.listeners[..] else {
        panic!("{:?}", sample.listeners);
    };
    assert_eq!(listener.place.address.port(), 80);
    assert_eq!((listener.sockets, listener.overflows), (2, 11));
    assert_eq!((listener.backlog, listener.max_backlog), (10, 20));
    assert_eq!(listener.fullest, 0.9);
    assert_eq!((listener.accepts, listener.exhausted), (8, 6));
    let pids = listener.holders.iter().map(|it| it.process.unwrap().tgid);
    assert_eq!(pids.collect::<Vec<_>>(), [7, 8]);
}

#[test]
fn holders_with_the_most_are_first() {
    let holder = |tgid, count| Holder {
        process: Some(key(tgid, 1)),
        labels: Arc::new(Labels::name("a", "")),
        count,
    };
    let mut holders: Vec<_> = (0..20).map(|pid| holder(pid, u64::from(pid / 2))).collect();
    most_first(&mut holders);
    assert_eq!(holders.len(), 20, "who has the most is not decided yet");
    let first = holders.iter().map(|it| it.process.unwrap().tgid).take(3);
    assert_eq!(first.collect::<Vec<_>>(), [18, 19, 16]);
}

fn destination(port: u16) -> Destination {
    Destination {
        netns: 1,
        source: Ipv4Addr::LOCALHOST.into(),
        remote: (Ipv4Addr::LOCALHOST, port).into(),
    }
}

fn ports_of(port: u16, blocked: u32, holders: Vec<Holder>) -> Ports {
    Ports {
        subject: Subject::Destination(destination(port)),
        walked_at: Duration::ZERO,
        available: 100,
        blocked,
        syn_sent: 0,
        established: 0,
        idle: 0,
        closing: 0,
        time_wait: 0,
        fin_wait2: 0,
        opened: 0,
        blocked_for: Duration::from_secs(60),
        searches_failed: 0,
        holders,
    }
}

/// One process runs, one has ended, and a further destination has nearly all ports free.
#[test]
fn ports_have_their_holders() {
    let (kernel, facts) = (FakeKernel::new(16), FakeFacts::default());
    let slots = [(7, "a"), (8, "b")].map(|(pid, comm)| {
        let slot = kernel.spawn(pid, 1, comm.as_bytes()).unwrap();
        kernel.change(slot, |it| it.ports.exhausted[0] = 5);
        slot
    });
    let mut table = Table::new(TableConfig::default());
    let now = Instant::now();
    table.tick(now, &kernel, &facts);
    facts.kill(key(8, 1));
    table.tick(now + Duration::from_secs(1), &kernel, &facts);
    let share = |port, slot: u32, blocked| Share {
        destination: destination(port),
        owner: (slot, 0),
        used: blocked,
        blocked,
        used_by_all: 0,
        blocked_by_all: 0,
        available: 100,
    };
    let using = |port, blocked, holders| DestinationUse {
        destination: destination(port),
        available: 100,
        used: blocked,
        blocked,
        syn_sent: 1,
        established: 2,
        idle: 3,
        closing: 4,
        time_wait: 50,
        fin_wait2: 0,
        blocked_for: Duration::from_secs(60),
        opened: 77,
        holders,
    };
    let walk = Walk {
        walked_at: Duration::from_secs(9),
        destinations: vec![using(80, 90, 0..2), using(81, 5, 2..3)],
        shares: vec![
            share(80, slots[1], 60),
            share(80, slots[0], 30),
            share(81, slots[0], 5),
        ],
        processes: vec![ProcessUse {
            owner: (slots[0], 0),
            close_wait_over_10s: 6,
            ..ProcessUse::default()
        }],
        namespaces: [(
            1,
            NamespaceUse {
                range: 110,
                bound: 20,
                bound_time_wait: 15,
                bound_opened: 33,
                binders: vec![((slots[1], 0), 19), ((slots[0], 0), 1)],
            },
        )]
        .into(),
        ..Walk::default()
    };
    let mut snapshot = table.snapshot(1, &kernel, &facts);
    snapshot.ended = Arc::new(table.ended_owners(&walk, []));
    snapshot.walk = Arc::new(walk);
    let counters = [NamespaceCounters {
        netns: 1,
        time_wait_overflows: 3,
        syncookies_sent: 4,
    }];
    let reasons = ResetReasons::default();
    let sample = Gatherer::default().gather(Inputs {
        snapshot: &snapshot,
        classes: &CounterClasses::new(|index| reasons.name(index).into_owned()),
        fd_kinds: &HashMap::new(),
        recorded_peers: &RecordedPeers::default(),
        namespaces: &counters,
        sources: Vec::new(),
        netns: &|_| None,
    });
    let [ports, bound] = &sample.ports[..] else {
        panic!("{:?}", sample.ports);
    };
    assert_eq!(ports.subject, Subject::Destination(destination(80)));
    assert_eq!((ports.blocked, ports.live(), ports.opened), (90, 40, 77));
    let [ended, running] = &ports.holders[..] else {
        panic!("{:?}", ports.holders);
    };
    assert_eq!(
        (ended.process, ended.labels.comm(), ended.count),
        (None, "b", 60)
    );
    assert_eq!((running.process, running.count), (Some(key(7, 1)), 30));
    assert_eq!(sample.processes[0].close_wait_over_10s, 6);
    assert_eq!(bound.subject, Subject::Namespace(1));
    assert_eq!((bound.available, bound.blocked, bound.live()), (110, 20, 5));
    assert_eq!(bound.opened, 33);
    assert_eq!(bound.holders[0].labels.comm(), "b");
    assert_eq!(sample.namespaces[0].time_wait_overflows, 3);
}

/// Of a running process, of one that has ended, and of their name.
#[test]
fn peers_of_names_include_those_of_ended_processes() {
    let (kernel, facts) = (FakeKernel::new(16), FakeFacts::default());
    let slots = [7, 8].map(|pid| kernel.spawn(pid, 1, b"a").unwrap());
    let mut table = Table::new(TableConfig::default());
    let now = Instant::now();
    table.tick(now, &kernel, &facts);
    facts.kill(key(8, 1));
    for second in 1..20 {
        table.tick(now + Duration::from_secs(second), &kernel, &facts);
    }
    let mut recorded = RecordedPeers::default();
    let suspected = Suspected {
        connects: true,
        ..Suspected::default()
    };
    recorded.want(suspected, Duration::from_secs(1));
    for (slot, port) in [
        (slots[0], 80),
        (slots[1], 81),
        (slots[1], 81),
        (slots[1], 81),
    ] {
        let mut record = Record::read_from(&[0; size_of::<Record>()]).unwrap();
        record.kind = RECORD_CONNECT_FAILED;
        record.slot = slot;
        record.errno = libc::ECONNREFUSED as u16;
        record.remote_port = port;
        recorded.add(&[record]);
    }
    let to = |port| Peer {
        netns: 1,
        address: Ipv4Addr::LOCALHOST.into(),
        port,
        is_client: false,
    };
    let mut snapshot = table.snapshot(1, &kernel, &facts);
    assert_eq!(snapshot.processes.len(), 1);
    snapshot.ended = Arc::new(table.ended_owners(&Walk::default(), recorded.owners()));
    snapshot.walk = Arc::new(Walk {
        processes: vec![ProcessUse {
            owner: (slots[0], 0),
            syn_sent_over_3s: 10,
            ..ProcessUse::default()
        }],
        state_peers: vec![StatePeer {
            owner: (slots[0], 0),
            state: SYN_SENT,
            peer: to(82),
            sockets: 4,
        }],
        ..Walk::default()
    });
    let reasons = ResetReasons::default();
    let sample = Gatherer::default().gather(Inputs {
        snapshot: &snapshot,
        classes: &CounterClasses::new(|index| reasons.name(index).into_owned()),
        fd_kinds: &HashMap::new(),
        recorded_peers: &recorded,
        namespaces: &[],
        sources: Vec::new(),
        netns: &|_| None,
    });
    let ports =
        |peers: &[PeerShare]| -> Vec<_> { peers.iter().map(|it| (it.port, it.share)).collect() };
    let process = &sample.processes[0].culprits;
    assert_eq!(ports(&process.connects), [(80, 1.0)]);
    assert_eq!(ports(&process.connecting), [(82, 0.4)]);
    let mut names = sample.names.iter();
    let name = &names.find(|it| it.labels.comm() == "a").unwrap().culprits;
    assert_eq!(ports(&name.connects), [(81, 0.75), (80, 0.25)]);
    assert_eq!(ports(&name.connecting), [(82, 0.4)]);
}

fn holder(comm: &str) -> Holder {
    Holder {
        process: None,
        labels: Arc::new(Labels::name(comm, "")),
        count: 1,
    }
}

fn searches(connect: u64, bind: u64) -> Counts {
    Counts {
        port_searches_failed: connect,
        bind_searches_failed: bind,
        ..Counts::default()
    }
}

fn name(comm: &str, connect: u64, bind: u64) -> Name {
    Name {
        counts: searches(connect, bind),
        ..Name::new(Arc::new(Labels::name(comm, "")))
    }
}

/// Those of ended processes, which may have searched in any namespace.
#[test]
fn failed_searches_belong_to_the_fullest_destination_of_the_name() {
    let mut failed = FailedSearches::default();
    let mut attribute = |names: &[Name]| {
        let mut ports = [
            ports_of(80, 70, vec![holder("a"), holder("b")]),
            ports_of(81, 60, vec![holder("a")]),
            ports_of(82, 99, vec![holder("c")]),
            Ports {
                subject: Subject::Namespace(1),
                ..ports_of(0, 55, vec![holder("a")])
            },
        ];
        failed.attribute(&[], names, &mut ports, &|_| None);
        ports.map(|it| it.searches_failed)
    };
    assert_eq!(
        attribute(&[name("a", 100, 0)]),
        [0; 4],
        "from before the start"
    );
    assert_eq!(
        attribute(&[name("a", 102, 0), name("b", 0, 0)]),
        [2, 0, 0, 0]
    );
    // The first ones of a name; one that has no port at all.
    let names = [name("a", 102, 0), name("b", 3, 0), name("d", 4, 0)];
    assert_eq!(attribute(&names), [5, 0, 0, 0]);
    assert_eq!(attribute(&names), [5, 0, 0, 0]);
    // Those of bind() are the namespace's.
    let names = [name("a", 102, 7), name("b", 3, 0), name("d", 4, 0)];
    assert_eq!(attribute(&names), [5, 0, 0, 7]);
}

#[test]
fn failed_searches_are_attributed_by_the_thresholds_of_ports() {
    let attributed = |thresholds: &Thresholds| {
        let mut failed = FailedSearches::default();
        failed.set_thresholds(thresholds);
        let mut attribute = |count| {
            let mut ports = [ports_of(80, 40, vec![holder("a")])];
            failed.attribute(&[], &[name("a", count, 0)], &mut ports, &|_| None);
            ports[0].searches_failed
        };
        attribute(0);
        attribute(3)
    };
    assert_eq!(attributed(&Thresholds::default()), 0);
    let lower = Thresholds {
        ports_half: 0.3,
        ..Thresholds::default()
    };
    assert_eq!(attributed(&lower), 3);
}

/// Two containers run the same program towards the same destination, of which one is out of ports.
#[test]
fn failed_searches_belong_to_the_namespace_of_the_process() {
    let mut failed = FailedSearches::default();
    let mut attribute = |counts: [u64; 3]| {
        let in_netns = |netns, blocked, comm: &str| Ports {
            subject: Subject::Destination(Destination {
                netns,
                ..destination(80)
            }),
            ..ports_of(80, blocked, vec![holder(comm)])
        };
        let mut ports = [in_netns(1, 99, "a"), in_netns(2, 60, "a")];
        let processes = [(1, "a"), (2, "a"), (3, "b")].map(|(netns, comm)| Process {
            key: key(netns, 1),
            labels: Arc::new(Labels::process(netns, comm, "")),
            counts: searches(counts[netns as usize - 1], 0),
            ..process_without_sockets()
        });
        let names = [name("a", counts[0] + counts[1], 0), name("b", counts[2], 0)];
        let netns = |process: &ProcessKey| Some(process.tgid);
        let at = failed.attribute(&processes, &names, &mut ports, &netns);
        let netns_of = |key| at.processes.get(&key).and_then(Subject::netns);
        let of_processes = [key(1, 1), key(2, 1), key(3, 1)].map(netns_of);
        (ports.map(|it| it.searches_failed), of_processes)
    };
    assert_eq!(attribute([0; 3]).0, [0; 2]);
    assert_eq!(attribute([0, 5, 0]), ([0, 5], [None, Some(2), None]));
    // Nothing is full where this one is.
    assert_eq!(attribute([0, 5, 9]).0, [0, 5]);
    assert_eq!(attribute([7, 5, 9]), ([7, 5], [Some(1), Some(2), None]));
}
