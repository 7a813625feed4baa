//! The rules that findings of several detectors follow.

use std::{sync::Arc, time::Duration};

use observer_common::ProcessKey;

use super::*;
use crate::{
    table::{Labels, ListenAddress},
    walk::Destination,
};

mod connects;
mod descriptors;
mod ports;
mod resets;
mod tls;

fn key(pid: u32) -> ProcessKey {
    ProcessKey {
        start_boottime_ns: 1,
        tgid: pid,
        reserved: 0,
    }
}

fn process(pid: u32) -> Process {
    Process::new(
        key(pid),
        Arc::new(Labels::process(pid, "api", "api.service")),
    )
}

fn holder(pid: u32) -> Holder {
    Holder {
        process: Some(key(pid)),
        labels: Arc::new(Labels::process(pid, "api", "api.service")),
        count: 1,
    }
}

fn ports(available: u32, blocked: u32) -> Ports {
    Ports {
        subject: Subject::Destination(Destination {
            netns: 1,
            source: "10.0.0.1".parse().unwrap(),
            remote: "10.0.0.2:80".parse().unwrap(),
        }),
        walked_at: Duration::ZERO,
        available,
        blocked,
        syn_sent: 0,
        established: 0,
        idle: 0,
        closing: 0,
        time_wait: blocked,
        fin_wait2: 0,
        opened: 0,
        blocked_for: Duration::from_secs(60),
        searches_failed: 0,
        holders: vec![holder(7)],
    }
}

/// Plays samples, one a second, and gives what changed: second, what, anomaly.
fn play(
    seconds: u64,
    mut sample: impl FnMut(u64) -> Sample,
) -> (Vec<(u64, &'static str, Anomaly)>, Engine) {
    let mut engine = Engine::new(Thresholds::default());
    let mut changes = Vec::new();
    for second in 0..seconds {
        let mut sample = sample(second);
        sample.now = Duration::from_secs(1_000 + second);
        for ports in &mut sample.ports {
            ports.walked_at = sample.now;
        }
        for change in engine.step(&sample) {
            changes.push((second, change.name(), change.finding().anomaly));
        }
    }
    (changes, engine)
}

/// The causes of the only finding about a process with these counts at each second.
fn causes_of(seconds: u64, counts: impl Fn(u64) -> Counts) -> Vec<&'static str> {
    let (_, engine) = play(seconds, |second| Sample {
        processes: vec![Process {
            counts: counts(second),
            ..process(7)
        }],
        ..Sample::default()
    });
    let finding = &engine.board().entries().next().unwrap().finding;
    finding.causes.iter().map(|it| it.cause.id).collect()
}

fn resetting(pid: Option<u32>, second: u64) -> Sample {
    let mut counts = Counts::default();
    counts.resets_sent[SentReset::LingerZero as usize] = 100 * second;
    counts.ended = 100 * second;
    let name = Name {
        running: u32::from(pid.is_some()),
        counts,
        ..Name::new(Arc::new(Labels::name("api", "api.service")))
    };
    let running = pid.map(|pid| Process {
        counts,
        ..process(pid)
    });
    Sample {
        processes: running.into_iter().collect(),
        names: vec![name],
        ..Sample::default()
    }
}

#[test]
fn walks_are_wanted_when_connections_may_be_stuck() {
    let wanted = |sample: Sample| play(5, |_| sample.clone()).1.wants_walks();
    let connecting = |syn_sent| Sample {
        processes: vec![Process {
            syn_sent,
            ..process(1)
        }],
        ..Sample::default()
    };
    let waiting = |backlog| {
        let place = ListenAddress {
            netns: 1,
            address: "0.0.0.0:80".parse().unwrap(),
        };
        Sample {
            listeners: vec![Listener {
                sockets: 1,
                backlog,
                max_backlog: 511,
                ..Listener::new(place)
            }],
            ..Sample::default()
        }
    };
    let walked = |close_wait| Sample {
        processes: vec![Process {
            close_wait_over_10s: close_wait,
            descriptors: Some(Descriptors {
                open: 12,
                limit: 16,
                measured_at: Duration::ZERO,
            }),
            ..process(1)
        }],
        ..Sample::default()
    };
    // Of connect-waiting and listen-stalled, and half of close-wait-few.
    let few = [connecting(9), waiting(2), walked(3)].map(wanted);
    let many = [connecting(10), waiting(3), walked(4)].map(wanted);
    assert_eq!((few, many), ([false; 3], [true; 3]));
}

/// Its calls fail in each second.
fn exhausted(pid: u32, second: u64, comm: &str, unit: &str) -> Process {
    let mut process = Process {
        labels: Arc::new(Labels::process(pid, comm, unit)),
        ..process(pid)
    };
    process.counts.exhausted[0] = 1 + second;
    process
}

/// Many processes with the same finding: workers of a service, and a user's programs of many names.
#[test]
fn a_name_and_a_unit_leave_room_for_others() {
    let (_, engine) = play(20, |second| {
        let workers = (0..100).map(|pid| exhausted(pid, second, "worker", "web.service"));
        let others = (100..400)
            .map(|pid| exhausted(pid, second, &format!("flood{pid}"), "user@1000.service"));
        let last = exhausted(400, second.saturating_sub(10), "db", "db.service");
        Sample {
            processes: workers.chain(others).chain([last]).collect(),
            ..Sample::default()
        }
    });
    let board = engine.board();
    let of = |comm: &str| {
        let raised = board.all_raised(Anomaly::FdExhaustion);
        let labels = raised.filter_map(|it| it.labels.as_deref());
        labels.filter(|it| it.comm().starts_with(comm)).count()
    };
    assert_eq!(["worker", "flood", "db"].map(of), [5, 20, 1]);
    let unlisted = |limit| {
        let all = board.unlisted().filter(move |it| it.limit == limit);
        all.map(|it| it.count).sum::<usize>()
    };
    assert_eq!(Limit::ALL.map(unlisted), [95, 280, 0]);
    // They explain others all the same.
    let is_found = |pid| board.is_found(Anomaly::FdExhaustion, &Subject::Process(key(pid)));
    assert!((0..=400).all(is_found));
    assert!(!is_found(401));
}

/// Warnings of a unit that has no room left: each in turn makes room for one that is critical, and comes back.
#[test]
fn a_critical_finding_displaces_a_warning_as_long_as_it_lasts() {
    let (changes, engine) = play(300, |second| {
        let connects = |pid: u32, ok: u64, failed: u64| {
            let comm = format!("p{pid}");
            let mut process = Process {
                labels: Arc::new(Labels::process(pid, &comm, "user@1000.service")),
                ..process(pid)
            };
            let connects = &mut process.counts.connects;
            connects[ConnectResult::Ok as usize] = ok;
            connects[ConnectResult::Refused as usize] = failed;
            process
        };
        let some_fail = |pid| connects(pid, second, 100 * second);
        let all_fail = connects(0, 1, 100 * second.clamp(50, 100));
        Sample {
            processes: (1..=20).map(some_fail).chain([all_fail]).collect(),
            ..Sample::default()
        }
    });
    let kinds = |from: u64| {
        let of = changes
            .iter()
            .filter(|it| (from..from + 100).contains(&it.0));
        of.map(|it| it.1)
            .filter(|it| *it != "updated")
            .collect::<Vec<_>>()
    };
    assert_eq!(kinds(0)[..20], ["raised"; 20]);
    assert_eq!(kinds(0)[20..], ["unlisted", "raised"]);
    assert_eq!(kinds(100), ["cleared", "raised"]);
    assert_eq!(
        engine.board().all_raised(Anomaly::ConnectFailures).count(),
        20
    );
    assert_eq!(engine.board().unlisted().count(), 0);
}

#[test]
fn findings_and_changes_are_bounded() {
    let (changes, engine) = play(1_500, |second| {
        // Other ones every 200 s, so that those before are over.
        let first = 1_000 * (second / 200) as u32;
        let exhausted = |pid| exhausted(pid, second, "p", &format!("{}.service", pid / 5));
        Sample {
            processes: (first..first + 300).map(exhausted).collect(),
            ..Sample::default()
        }
    });
    assert_eq!(engine.board().entries().count(), FINDINGS);
    assert_eq!(engine.board().changes().count(), CHANGES);
    let raised = |from: u64| {
        let range = from..from + 200;
        let raised = changes
            .iter()
            .filter(|it| range.contains(&it.0) && it.1 == "raised");
        raised.count()
    };
    assert_eq!(raised(0), FINDINGS);
    assert_eq!(raised(200), FINDINGS);
}

/// Forged source addresses do not take the room of other findings.
#[test]
fn forged_sources_leave_room() {
    let source = |number: u32, ports| Source {
        netns: 1,
        address: std::net::Ipv4Addr::from_bits(number).into(),
        ports: [ports, 0, 0, 0],
        segments: 1,
        last_at: Duration::from_secs(1_000_000),
    };
    let (changes, _) = play(20, |second| {
        let first = 10_000 * second as u32;
        let scans = (first..first + 2_000).map(|number| source(number, u64::MAX));
        let others = (first + 2_000..first + 9_000).map(|number| source(number, 1));
        let mut exhausted = process(7);
        exhausted.counts.exhausted[0] = second;
        Sample {
            sources: scans.chain(others).collect(),
            processes: vec![exhausted],
            ..Sample::default()
        }
    });
    let raised = |anomaly| {
        let of = |it: &&(u64, &str, Anomaly)| it.1 == "raised" && it.2 == anomaly;
        changes.iter().filter(of).count()
    };
    assert_eq!(raised(Anomaly::SynScan), 20);
    assert_eq!(raised(Anomaly::FdExhaustion), 1);
}

#[test]
fn the_same_samples_give_the_same_changes() {
    let run = || play(100, |second| resetting(Some(7), second)).0;
    assert_eq!(run(), run());
}

/// The hints of a finding are those for the network namespace of its process.
#[test]
fn hints_depend_on_the_host() {
    use crate::net::sysctls::Sysctls;

    const ABORT: &str = "net.ipv4.tcp_abort_on_overflow";
    let found = |netns, overflows: bool| {
        let mut engine = Engine::new(Thresholds::default());
        engine.set_host(Host {
            kernel: None,
            sysctls: Arc::new(Sysctls {
                host: [].into(),
                namespaces: [(1, [(ABORT, 0)].into()), (2, [(ABORT, 1)].into())].into(),
            }),
            netns: Arc::new(move |_| Some(netns)),
        });
        for second in 0..30 {
            let mut server = process(7);
            server.counts.resets_sent[SentReset::Listener as usize] = 100 * second;
            server.counts.ended = 100 * second;
            let listener = Listener {
                sockets: 1,
                max_backlog: 128,
                overflows: if overflows { 100 * second } else { 0 },
                accepts: second,
                holders: vec![holder(7)],
                ..Listener::new(ListenAddress {
                    netns,
                    address: "0.0.0.0:80".parse().unwrap(),
                })
            };
            engine.step(&Sample {
                now: Duration::from_secs(1_000 + second),
                processes: vec![server],
                listeners: vec![listener],
                ..Sample::default()
            });
        }
        let subject = Subject::Process(key(7));
        let finding = engine.board().raised(Anomaly::RstStorm, &subject).unwrap();
        assert_eq!(finding.netns, Some(netns));
        let cause = &finding.causes[0];
        let hints = cause.hints.iter().map(|it| it.hint.id);
        (cause.cause.id, hints.collect::<Vec<_>>())
    };
    let full = ("queue_resets", vec!["abort-on-overflow", "backlog"]);
    let stray = ("listener_resets", vec!["listener-stray"]);
    assert_eq!(found(2, true), full);
    assert_eq!(found(2, false), stray);
    assert_eq!(found(1, true), stray);
}

/// Also of names, whose processes may live too short to be suspected themselves.
#[test]
fn what_may_be_raised_is_suspected() {
    let none = Suspected::default();
    let at = |seconds, sample: fn(u64) -> Sample| play(seconds, sample).1.suspected();
    let refused = |second| {
        let mut process = process(7);
        process.counts.connects[ConnectResult::Refused as usize] = 20 * second;
        Sample {
            processes: vec![process],
            ..Sample::default()
        }
    };
    assert_eq!(at(2, refused), none);
    let connects = Suspected {
        connects: true,
        ..none
    };
    assert_eq!(at(5, refused), connects);
    let resets = Suspected {
        resets: true,
        ..none
    };
    let silence = Suspected {
        silence: true,
        ..none
    };
    let unanswered = |second| {
        let mut process = process(7);
        process.counts.unanswered = 2 * second;
        Sample {
            processes: vec![process],
            ..Sample::default()
        }
    };
    assert_eq!(at(2, unanswered), none);
    assert_eq!(at(4, unanswered), silence);
    let handshakes = Suspected {
        handshakes: true,
        ..none
    };
    let refused = |second| {
        let mut process = process(7);
        process.counts.handshakes[0][1] = 3 * second;
        Sample {
            processes: vec![process],
            ..Sample::default()
        }
    };
    assert_eq!(at(2, refused), none);
    assert_eq!(at(4, refused), handshakes);
    let ends_half = |second| {
        let mut process = process(7);
        process.counts.handshakes[0] = [3 * second; 2];
        Sample {
            processes: vec![process],
            ..Sample::default()
        }
    };
    assert_eq!(at(20, ends_half), none);
    assert_eq!(at(20, |second| resetting(None, second)), none);
    assert_eq!(at(40, |second| resetting(None, second)), resets);
}

/// A scan is a finding, and what has stopped is the past.
#[test]
fn stray_segments_are_kept_for_a_minute() {
    let mut engine = Engine::new(Thresholds::default());
    let source = |address: &str, ports: u64, last: u64| Source {
        netns: 1,
        address: address.parse().unwrap(),
        ports: [ports, 0, 0, 0],
        segments: 30,
        last_at: Duration::from_secs(last),
    };
    engine.step(&Sample {
        now: Duration::from_secs(200),
        sources: vec![
            source("10.0.0.1", 1, 199),
            source("10.0.0.2", 1, 100),
            source("10.0.0.3", u64::MAX, 199),
        ],
        ..Sample::default()
    });
    let strays = engine.strays().iter().map(|it| it.address.to_string());
    assert_eq!(strays.collect::<Vec<_>>(), ["10.0.0.1"]);
}
