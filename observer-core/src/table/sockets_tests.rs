//! Listening sockets and ports in use, by series.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use observer_common::{Listener, ListenerKey, ListenerSample, SLOT_UNATTRIBUTED, V4_MAPPED};

use super::{
    Labels, ListenerStats, Table, TableConfig,
    fake::{FakeFacts, FakeKernel, key},
};
use crate::{
    net::overflows::Overflows,
    walk::{Destination, NamespaceUse, Share, Walk},
};

struct Bench {
    kernel: FakeKernel,
    facts: FakeFacts,
    table: Table,
    now: Instant,
}

impl Bench {
    fn new(config: TableConfig) -> Self {
        Self {
            kernel: FakeKernel::new(16),
            facts: FakeFacts::default(),
            table: Table::new(config),
            now: Instant::now(),
        }
    }

    fn ticks(&mut self, n: u32) {
        for _ in 0..n {
            self.now += Duration::from_secs(1);
            self.table.tick(self.now, &self.kernel, &self.facts);
        }
    }

    fn listeners(&self) -> BTreeMap<(String, String), ListenerStats> {
        let mut series = BTreeMap::new();
        self.table.visit_listeners(&mut |labels, address, stats| {
            let address = address.map_or_else(String::new, |it| it.address.to_string());
            let name = name_of(labels);
            assert!(series.insert((name, address), *stats).is_none());
        });
        series
    }

    /// Of all names.
    fn drops(&self) -> u64 {
        let listeners = self.listeners();
        let names = listeners
            .iter()
            .filter(|((name, _), _)| !name.contains(':'));
        names.map(|(_, it)| it.drops).sum()
    }

    fn ports(&self) -> Vec<(String, Option<u16>, u32, f64)> {
        let views = self.table.ports();
        views
            .map(|view| {
                let port = view.destination.map(|it| it.remote.port());
                (name_of(&view.labels), port, view.used, view.ratio())
            })
            .collect()
    }
}

fn name_of(labels: &Labels) -> String {
    match labels.pid() {
        Some(pid) => format!("{pid}:{}", labels.comm()),
        None => labels.comm().to_owned(),
    }
}

fn sample(slot: u32, port: u16, drops: u32) -> ListenerSample {
    ListenerSample {
        key: ListenerKey {
            socket: u64::from(port),
            born_ns: 1,
        },
        listener: Listener {
            slot,
            drops,
            port,
            address: [0, 0, V4_MAPPED, 0],
            ..Listener::default()
        },
        backlog: 2,
        max_backlog: 8,
        ..ListenerSample::default()
    }
}

fn closed(mut sample: ListenerSample) -> ListenerSample {
    sample.listener.closed = 1;
    sample
}

fn series(name: &str, address: &str) -> (String, String) {
    (name.to_owned(), address.to_owned())
}

#[test]
fn sockets_at_one_address_are_one_series() {
    let mut bench = Bench::new(TableConfig::default());
    let slot = bench.kernel.spawn(7, 1, b"web").unwrap();
    bench.ticks(1);
    let mut twin = sample(slot, 80, 5);
    twin.key.socket = 99;
    for drops in [3, 4] {
        bench
            .table
            .update_listeners(&[sample(slot, 80, drops), twin], None);
    }
    let expected = ListenerStats {
        sockets: 2,
        backlog: 4,
        max_backlog: 16,
        fullest: 0.25,
        fast_open: 0,
        drops: 9,
        overflows: 0,
    };
    let address = "0.0.0.0:80";
    assert_eq!(
        bench.listeners(),
        ["7:web", "web"]
            .map(|name| (series(name, address), expected))
            .into()
    );
}

#[test]
fn one_full_queue_of_many_shows() {
    let mut bench = Bench::new(TableConfig::default());
    let slots = [7, 8, 9].map(|pid| bench.kernel.spawn(pid, 1, b"worker").unwrap());
    bench.ticks(1);
    let mut samples = slots.map(|slot| sample(slot, 80, 0));
    for (socket, sample) in (1..).zip(&mut samples) {
        sample.key.socket = socket;
        sample.backlog = 0;
    }
    samples[1].backlog = 9;
    bench.table.update_listeners(&samples, None);
    let listeners = bench.listeners();
    let fullest = |name| listeners[&series(name, "0.0.0.0:80")].fullest;
    assert_eq!(fullest("worker"), 9.0 / 8.0);
    assert_eq!((fullest("7:worker"), fullest("8:worker")), (0.0, 9.0 / 8.0));
    assert_eq!(listeners[&series("worker", "0.0.0.0:80")].backlog, 9);

    // A reading that failed leaves no gauges behind.
    bench.table.forget_listeners();
    let left = bench.listeners()[&series("worker", "0.0.0.0:80")];
    assert_eq!((left.sockets, left.backlog, left.fullest), (0, 0, 0.0));
}

#[test]
fn counts_outlive_socket_and_process_and_never_go_down() {
    let mut bench = Bench::new(TableConfig::default());
    let slot = bench.kernel.spawn(7, 1, b"web").unwrap();
    bench.ticks(1);
    bench.table.update_listeners(&[sample(slot, 80, 3)], None);
    // The kernel's counter wraps.
    bench
        .table
        .update_listeners(&[sample(slot, 80, u32::MAX)], None);
    bench.table.update_listeners(&[sample(slot, 80, 1)], None);
    let total = u64::from(u32::MAX) + 2;
    assert_eq!(bench.drops(), total);
    // Its end was missed, so its last sample is zero.
    bench
        .table
        .update_listeners(&[closed(sample(slot, 80, 0))], None);
    bench.table.update_listeners(&[], None);
    let left = bench.listeners()[&series("web", "0.0.0.0:80")];
    assert_eq!((left.sockets, left.backlog, left.drops), (0, 0, total));
    bench.facts.kill(key(7, 1));
    bench.ticks(10);
    bench.table.update_listeners(&[], None);
    let series = series("web", "0.0.0.0:80");
    assert_eq!(bench.listeners()[&series].drops, total);
    assert_eq!(bench.listeners().len(), 1, "the process is gone");
}

#[test]
fn a_listener_that_changes_hands_counts_for_each_what_it_saw() {
    let mut bench = Bench::new(TableConfig::default());
    let first = bench.kernel.spawn(7, 1, b"old").unwrap();
    let second = bench.kernel.spawn(8, 1, b"new").unwrap();
    bench.ticks(1);
    bench.table.update_listeners(&[sample(first, 80, 3)], None);
    bench.table.update_listeners(&[sample(second, 80, 5)], None);
    let listeners = bench.listeners();
    assert_eq!(listeners[&series("old", "0.0.0.0:80")].drops, 3);
    assert_eq!(listeners[&series("old", "0.0.0.0:80")].sockets, 0);
    assert_eq!(listeners[&series("new", "0.0.0.0:80")].drops, 2);
}

#[test]
fn a_listener_of_a_process_that_came_after_the_tick_is_its_own() {
    let mut bench = Bench::new(TableConfig::default());
    bench.ticks(1);
    let slot = bench.kernel.spawn(7, 1, b"web").unwrap();
    bench.table.discover(&bench.kernel, &bench.facts);
    bench.table.update_listeners(&[sample(slot, 80, 3)], None);
    let listeners = bench.listeners();
    for name in ["7:web", "web"] {
        assert_eq!(listeners[&series(name, "0.0.0.0:80")].drops, 3);
    }
    assert_eq!(listeners.len(), 2);
}

#[test]
fn addresses_are_bounded() {
    let mut bench = Bench::new(TableConfig::default());
    let slot = bench.kernel.spawn(7, 1, b"many").unwrap();
    bench.ticks(1);
    for port in 1..=300 {
        bench.table.update_listeners(&[sample(slot, port, 1)], None);
    }
    assert!(bench.listeners().len() <= 2 * 65);
    assert_eq!(bench.drops(), 300);
    // The series of an address on which nothing listens any more ends.
    bench.ticks(600);
    bench.table.update_listeners(&[sample(slot, 1000, 1)], None);
    assert!(
        bench
            .listeners()
            .contains_key(&series("many", "0.0.0.0:1000"))
    );
    // Those that never dropped anything leave nothing behind.
    let mut bench = Bench::new(TableConfig::default());
    for port in 1..=300 {
        bench.table.update_listeners(&[sample(0, port, 0)], None);
    }
    assert_eq!(bench.listeners().len(), 1);
}

#[test]
fn overflows_come_from_the_samples_or_are_inferred() {
    let mut bench = Bench::new(TableConfig::default());
    let mut counted = sample(SLOT_UNATTRIBUTED, 80, 4);
    counted.listener.overflows = 3;
    bench.table.update_listeners(&[counted], None);
    bench.table.update_listeners(&[counted], None);
    let overflows = Overflows {
        attributed: vec![(counted, 2)],
        unattributed: 5,
    };
    bench.table.update_listeners(&[counted], Some(&overflows));
    let listeners = bench.listeners();
    let of = |address| listeners[&series("<unattributed>", address)].overflows;
    assert_eq!((of("0.0.0.0:80"), of("")), (5, 5));
}

fn share(slot: u32, port: u16, used: u32, used_by_all: u32) -> Share {
    Share {
        destination: Destination {
            netns: 1,
            source: Ipv4Addr::LOCALHOST.into(),
            remote: (Ipv4Addr::LOCALHOST, port).into(),
        },
        owner: (slot, 0),
        used,
        blocked: used,
        used_by_all,
        blocked_by_all: used_by_all,
        available: 100,
    }
}

fn walk(shares: &[Share]) -> Walk {
    Walk {
        shares: shares.to_vec(),
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
    }
}

#[test]
fn the_busiest_destinations_of_each_process_are_shown() {
    let mut bench = Bench::new(TableConfig::default());
    let one = bench.kernel.spawn(7, 1, b"one").unwrap();
    let two = bench.kernel.spawn(8, 1, b"two").unwrap();
    bench.ticks(1);
    let shares = [
        share(one, 1, 10, 10),
        share(one, 2, 5, 95),
        share(one, 3, 20, 20),
        share(one, 4, 7, 7),
        share(two, 2, 90, 95),
    ];
    bench.table.update_ports(&walk(&shares), 2);
    let mut ports = bench.ports();
    ports.sort_by(|a, b| a.partial_cmp(b).unwrap());
    let of = |one: &str, two: &str| {
        [
            (one.to_owned(), None, 17, 0.1),
            (one.to_owned(), Some(2), 5, 0.95),
            (one.to_owned(), Some(3), 20, 0.2),
            (two.to_owned(), Some(2), 90, 0.95),
        ]
    };
    assert_eq!(ports, [of("7:one", "8:two"), of("one", "two")].concat());
    assert_eq!(bench.table.ports_available()[&1], 100);
    bench.table.update_ports(&walk(&[]), 2);
    assert_eq!(bench.ports(), []);
}

#[test]
fn ports_of_the_departed_stay_with_their_name() {
    let mut bench = Bench::new(TableConfig::default());
    let slots = [7, 8].map(|pid| bench.kernel.spawn(pid, 1, b"curl").unwrap());
    bench.ticks(1);
    let used = walk(&slots.map(|slot| share(slot, 80, 3, 6)));
    bench.table.update_ports(&used, 5);
    assert_eq!(bench.ports().len(), 3);
    let name = ("curl".to_owned(), Some(80), 6, 0.06);
    for pid in [7, 8] {
        bench.facts.kill(key(pid, 1));
        bench.ticks(10);
    }
    // Before the next walk and after it.
    let left = bench.ports();
    assert_eq!(left, [name]);
    bench.table.update_ports(&used, 5);
    assert_eq!(bench.ports(), left);
    bench.ticks(200);
    bench.table.update_ports(&used, 5);
    assert_eq!(bench.ports()[0].0, "<other>");
    bench.table.forget_ports();
    assert_eq!(bench.ports(), []);
}

#[test]
fn destinations_are_bounded_over_all_processes() {
    let mut bench = Bench::new(TableConfig::default());
    let slots = [7, 8, 9].map(|pid| bench.kernel.spawn(pid, 1, b"proxy").unwrap());
    bench.ticks(1);
    let shares: Vec<_> = slots
        .iter()
        .flat_map(|slot| (1..=500).map(|port| share(*slot, port, 1, u32::from(port))))
        .collect();
    bench.table.update_ports(&walk(&shares), 500);
    let ports = bench.ports();
    assert!(ports.len() <= 2 * 1000 + 1 + slots.len());
    assert_eq!(ports.iter().map(|it| it.2).sum::<u32>(), 2 * 1500);
    let labels: std::collections::BTreeSet<_> = bench
        .table
        .ports()
        .map(|view| (Arc::clone(&view.labels), view.destination))
        .collect();
    assert_eq!(labels.len(), ports.len(), "two series alike");
}

#[test]
fn the_ratio_is_of_blocked_ports() {
    let mut bench = Bench::new(TableConfig::default());
    let slots = [7, 8].map(|pid| bench.kernel.spawn(pid, 1, b"curl").unwrap());
    bench.ticks(1);
    let shares = slots.map(|slot| Share {
        blocked: 1,
        blocked_by_all: 2,
        ..share(slot, 80, 30, 60)
    });
    let blocked = |bench: &Bench| -> Vec<_> {
        let views = bench.table.ports();
        views
            .map(|it| (it.used, it.blocked, it.ratio(), it.destination.is_some()))
            .collect()
    };
    bench.table.update_ports(&walk(&shares), 0);
    let (name, process) = ((60, 2), (30, 1));
    let shown = |(used, blocked), by_itself| (used, blocked, 0.02, by_itself);
    let all = |by_itself| [name, process, process].map(|it| shown(it, by_itself));
    assert_eq!(blocked(&bench), all(false));
    bench.table.update_ports(&walk(&shares), 1);
    assert_eq!(blocked(&bench), all(true));
    for pid in [7, 8] {
        bench.facts.kill(key(pid, 1));
        bench.ticks(10);
    }
    assert_eq!(blocked(&bench), [(60, 2, 0.02, true)]);
}
