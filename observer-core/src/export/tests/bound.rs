//! However much programs do, a scrape has no more series than the formula says.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{Arc, Mutex, RwLock},
    time::{Duration, Instant},
};

use observer_common::{
    BUCKETS, Listener, ListenerKey, ListenerSample, SLOT_FIRST, SLOT_NO_SOCKET, SLOT_UNATTRIBUTED,
    STALLS, Slot, TURNS, TimeWaitCount,
};

use super::{build, parse};
use crate::{
    detect::{Anomaly, Engine, Subject, Thresholds, testing::finding},
    export::{Exporter, Piece, ProcessMetrics, bound},
    net::sysctls::{self, Sysctls},
    process::Unit,
    table::{
        Labels, Resources, Table, TableConfig,
        fake::{FakeFacts, FakeKernel},
    },
    walk::{Destination, ProcessUse, QUIET_SECONDS, Share, Waits, Walk},
};

const PROCESSES: u32 = 30;
const ADDRESSES: u16 = 80;

/// Everything there is to count.
fn everything(slot: &mut Slot) {
    slot.sockets = 1;
    slot.counters_mut().fill(1);
    slot.state.adjust.fill(1000);
}

/// As many findings, and totals, as there can be.
fn engine() -> Engine {
    let mut engine = Engine::new(Thresholds::default());
    let board = engine.board_mut();
    for number in 0..2_000 {
        let labels = Labels::process(number, &format!("program-{number}"), "");
        let mut finding = finding(Anomaly::FdLeak, Subject::Namespace(number), Some(labels));
        finding.time_left = Some(Duration::from_secs(number.into()));
        board.raise(finding.clone());
        // Makes room for others.
        if number < 1_800 {
            board.end(finding.anomaly, &finding.subject, finding.since);
        }
    }
    engine
}

fn series(max_names: usize, max_processes: usize) -> usize {
    let mut kernel = FakeKernel::new((PROCESSES + SLOT_FIRST) as usize);
    let count = TimeWaitCount {
        entered: 9,
        ended: 1,
    };
    let time_waits = (0..=PROCESSES + SLOT_FIRST).map(|number| (number, count));
    kernel.time_waits = Mutex::new(time_waits.collect());
    let mut listeners = Vec::new();
    let mut shares = Vec::new();
    let facts = FakeFacts {
        resources: Resources {
            open_fds: Some(12),
            max_fds: Some(1024),
            fd_high_water: Some(13),
            ..Resources::default()
        },
        ..FakeFacts::default()
    };
    for slot in (SLOT_UNATTRIBUTED..SLOT_FIRST).filter(|slot| *slot != SLOT_NO_SOCKET) {
        kernel.change(slot, everything);
    }
    kernel.change(SLOT_NO_SOCKET, |slot| slot.reset.sent.fill(1));
    for pid in 1..=PROCESSES {
        let comm = format!("program-{pid}");
        let slot = kernel.spawn(pid, 1, comm.as_bytes()).unwrap();
        kernel.change(slot, everything);
        kernel.change(slot, |it| it.time_wait_count = slot);
        let unit = Unit::systemd(&format!("{pid}.service"));
        facts.units.lock().unwrap().insert(pid, unit);
        for option in 0..100 {
            kernel.fail_setsockopt(slot, option);
        }
        for port in 1..=ADDRESSES {
            listeners.push(ListenerSample {
                key: ListenerKey {
                    socket: u64::from(pid) << 16 | u64::from(port),
                    born_ns: 1,
                },
                listener: Listener {
                    slot,
                    port,
                    drops: 1,
                    overflows: 1,
                    ..Listener::default()
                },
                backlog: 1,
                max_backlog: 1,
                ..ListenerSample::default()
            });
            shares.push(Share {
                destination: Destination {
                    netns: 1,
                    source: Ipv4Addr::LOCALHOST.into(),
                    remote: (Ipv4Addr::LOCALHOST, port).into(),
                },
                owner: (slot, 0),
                used: 1,
                used_by_all: 1,
                blocked: 1,
                blocked_by_all: 1,
                available: 100,
            });
        }
    }
    let mut table = Table::new(TableConfig {
        max_names,
        max_processes,
        ..TableConfig::default()
    });
    table.tick(Instant::now(), &kernel, &facts);
    table.update_listeners(&listeners, None);
    let owners: BTreeSet<_> = shares.iter().map(|it: &Share| it.owner).collect();
    let processes = owners.into_iter().map(|owner| ProcessUse {
        owner,
        unguarded: 1,
        ..ProcessUse::default()
    });
    let waits = shares.iter().map(|it| {
        let waits = Waits {
            connections: 1,
            stalled: [1; STALLS],
            quiet: [[1; QUIET_SECONDS.len()]; TURNS],
            ages: [1; BUCKETS],
            ..Waits::default()
        };
        (it.owner, waits)
    });
    let waits: BTreeMap<_, _> = waits.collect();
    let walk = Walk {
        waits: waits.into_iter().collect(),
        processes: processes.collect(),
        shares,
        ..Walk::default()
    };
    table.update_ports(&walk, 60);
    let values: sysctls::Values = ["a", "b"].map(|name| (name, 1)).into();
    table.update_sysctls(Sysctls {
        host: values.clone(),
        namespaces: (0..200).map(|netns| (netns, values.clone())).collect(),
    });
    let exporter = Exporter::new(
        Arc::new(RwLock::new(table)),
        Arc::new(RwLock::new(engine())),
        Arc::new(kernel),
        Arc::new(facts),
        build(),
        ProcessMetrics::All,
    );
    let text: String = exporter.scrape().iter().map(Piece::text).collect();
    let samples = parse(&text);
    samples
        .keys()
        .filter(|(name, _)| name.starts_with("socket_"))
        .count()
}

#[test]
fn a_scrape_has_no_more_series_than_the_formula_says() {
    for (names, processes) in [(0, 0), (10, 0), (0, 10), (10, 10), (30, 30)] {
        let count = series(names, processes);
        let most = bound::series(names, processes);
        assert!(count <= most, "{count} series of {most}");
        // It is not a bound that anything is below: names share reasons, a kernel has fewer states.
        let least = most - bound::FIXED - (names + processes) * 60 - 1000;
        println!("{names} names, {processes} processes: {count} of {most}");
        assert!(count >= least, "{count} series of {most}");
    }
}
