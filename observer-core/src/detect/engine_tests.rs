//! The rules that findings of several detectors follow.

use std::{sync::Arc, time::Duration};

use observer_common::ProcessKey;

use super::*;
use crate::{
    table::{Labels, ListenAddress},
    walk::Destination,
};

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

/// The cause and the evidence say what the newest descriptors are.
#[test]
fn a_leak_of_descriptors_names_their_kind() {
    use crate::process::fd_kinds::{FdKind, FdKinds};

    let mut engine = Engine::new(Thresholds::default());
    let kinds = FdKinds::new([(FdKind::Pipe, 200), (FdKind::Tcp("ESTABLISHED"), 56)]);
    let mut raised = Vec::new();
    for second in 0..60 {
        let mut process = process(1);
        process.descriptors = Some(Descriptors {
            open: 400 + 10 * second,
            limit: 1024,
            measured_at: Duration::from_secs(second),
        });
        process.fd_kinds = Some(Arc::new(kinds.clone()));
        raised.extend(engine.step(&Sample {
            now: Duration::from_secs(second),
            processes: vec![process],
            ..Sample::default()
        }));
    }
    let [Change::Raised(finding)] = &raised[..] else {
        panic!("{raised:?}");
    };
    assert_eq!(finding.anomaly, Anomaly::FdLeak);
    assert_eq!(finding.causes[0].cause.id, "fd_pipes");
    let Evidence::Descriptors { newest, .. } = &finding.evidence else {
        panic!("{finding:?}");
    };
    let newest: Vec<_> = newest.iter().map(|it| (&*it.kind, it.count)).collect();
    assert_eq!(newest, [("pipes", 200), ("TCP sockets in ESTABLISHED", 56)]);
}

#[test]
fn exhausted_ports_explain_failed_connects_and_time_wait() {
    /// `without` of 100 connects a second find no port, of the destination in this network namespace.
    fn run(without: u64, netns: u32) -> Vec<(u64, &'static str, Anomaly)> {
        let (changes, _) = play(40, |second| {
            let mut client = process(7);
            let no_address = ConnectResult::AddressNotAvailable as usize;
            client.counts.connects[no_address] = 100 * second;
            client.counts.port_searches_failed = without * second;
            let mut ports = ports(1_000, 1_000);
            ports.opened = 20 * second;
            ports.searches_failed = 100 * second;
            let mut at = SearchesFailedAt::default();
            if let Subject::Destination(to) = ports.subject {
                let to = Destination { netns, ..to };
                at.processes.insert(client.key, Subject::Destination(to));
            }
            Sample {
                processes: vec![client],
                ports: vec![ports],
                searches_failed_at: at,
                ..Sample::default()
            }
        });
        changes
    }
    assert_eq!(run(100, 1), [(1, "raised", Anomaly::PortExhaustion)]);
    let both = [
        (1, "raised", Anomaly::PortExhaustion),
        (6, "raised", Anomaly::ConnectFailures),
    ];
    // The same destination in another network namespace; another reason for the same errno.
    assert_eq!(run(100, 2), both);
    assert_eq!(run(30, 1), both);
}

/// They fail in one second, and the finding says how many for ten.
#[test]
fn failed_searches_are_those_of_ten_seconds() {
    for (seconds, expected) in [(10, 30), (15, 0)] {
        let (_, engine) = play(seconds, |second| {
            let mut ports = ports(1_000, 900);
            ports.searches_failed = if second < 3 { 0 } else { 30 };
            Sample {
                ports: vec![ports],
                ..Sample::default()
            }
        });
        let finding = &engine.board().entries().next().unwrap().finding;
        let json = serde_json::to_value(finding).unwrap();
        assert_eq!(json["evidence"]["failed_searches"], expected, "{seconds}");
    }
}

#[test]
fn a_time_wait_surge_becomes_exhaustion() {
    let (changes, _) = play(40, |second| {
        let blocked = (20 * second) as u32;
        let mut ports = ports(1_000, blocked);
        ports.opened = u64::from(blocked);
        Sample {
            ports: vec![ports],
            ..Sample::default()
        }
    });
    let expected = [
        (20, "raised", Anomaly::TimeWaitSurge),
        (28, "raised", Anomaly::PortExhaustion),
        (28, "cleared", Anomaly::TimeWaitSurge),
    ];
    assert_eq!(changes, expected);
}

#[test]
fn a_server_at_its_descriptor_limit_has_one_finding() {
    let run = |emfile: u64| {
        let (changes, _) = play(60, move |second| {
            let mut server = process(7);
            server.counts.exhausted = [emfile * second, 0];
            server.counts.resets_sent[SentReset::UnreadData as usize] = 100 * second;
            server.counts.ended = 100 * second;
            let listener = Listener {
                place: ListenAddress {
                    netns: 1,
                    address: "0.0.0.0:80".parse().unwrap(),
                },
                sockets: 1,
                backlog: 129,
                max_backlog: 128,
                fullest: 1.0,
                overflows: 10 * second,
                accepts: second,
                exhausted: emfile * second,
                syncookies: None,
                holders: vec![holder(7)],
                workers: Vec::new(),
            };
            Sample {
                processes: vec![server],
                listeners: vec![listener],
                ..Sample::default()
            }
        });
        changes
    };
    assert_eq!(run(5), [(1, "raised", Anomaly::FdExhaustion)]);
    let without = run(0);
    let raised: Vec<_> = without.iter().map(|(_, _, anomaly)| *anomaly).collect();
    assert_eq!(
        raised,
        [Anomaly::ListenOverflow, Anomaly::RstStorm],
        "{without:?}"
    );
}

fn resetting(pid: Option<u32>, second: u64) -> Sample {
    let mut counts = Counts::default();
    counts.resets_sent[SentReset::LingerZero as usize] = 100 * second;
    counts.ended = 100 * second;
    let name = Name {
        labels: Arc::new(Labels::name("api", "api.service")),
        running: u32::from(pid.is_some()),
        counts,
        syn_sent_over_3s: 0,
        culprits: Culprits::default(),
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
fn a_storm_of_a_process_is_not_one_of_its_name() {
    let (changes, _) = play(200, |second| resetting(Some(7), second));
    assert_eq!(changes, [(6, "raised", Anomaly::RstStorm)]);
    let (changes, engine) = play(200, |second| resetting(None, second));
    assert_eq!(changes, [(54, "raised", Anomaly::RstStorm)]);
    let entry = engine.board().entries().next().unwrap();
    assert!(matches!(entry.finding.subject, Subject::Name(_)));
    assert_eq!(entry.finding.causes[0].cause.id, "linger_zero");
}

#[test]
fn a_finding_of_a_process_that_ends_clears() {
    let (changes, engine) = play(200, |second| match second {
        0..100 => Sample {
            names: Vec::new(),
            ..resetting(Some(7), second)
        },
        _ => Sample::default(),
    });
    let expected = [
        (6, "raised", Anomaly::RstStorm),
        (130, "cleared", Anomaly::RstStorm),
    ];
    assert_eq!(changes, expected);
    assert_eq!(engine.board().entries().next().unwrap().level(), 0);
}

#[test]
fn a_new_process_inherits_the_baseline_of_its_name() {
    let run = |heir: u64| {
        let (changes, _) = play(800, move |second| {
            // Two workers that reset 20 a second each, one of them replaced at second 700.
            let worker = |pid, since: u64, rate: u64| {
                let mut worker = process(pid);
                worker.counts.resets_sent[SentReset::LingerZero as usize] = rate * (second - since);
                worker.counts.ended = 2 * rate * (second - since);
                worker
            };
            let new = second >= 700;
            let second_worker = if new {
                worker(3, 700, heir)
            } else {
                worker(2, 0, 20)
            };
            let mut name = resetting(Some(1), 0).names.remove(0);
            name.running = 2;
            name.counts.resets_sent[SentReset::LingerZero as usize] =
                40 * second.min(700) + (20 + heir) * second.saturating_sub(700);
            name.counts.ended = 10_000 * second;
            Sample {
                processes: vec![worker(1, 0, 20), second_worker],
                names: vec![name],
                ..Sample::default()
            }
        });
        changes
    };
    // Above the threshold of a new process without a name's baseline.
    assert_eq!(run(60), []);
    assert_eq!(run(400).len(), 1);
}

/// Ports of a client that keeps what it opens, of which `opened` a second.
fn kept_ports(opened: u64, second: u64) -> Ports {
    let mut ports = ports(100_000, (60_000 + opened * second) as u32);
    ports.time_wait = 0;
    ports.established = ports.blocked;
    ports.idle = ports.blocked;
    ports.opened = opened * second;
    ports
}

#[test]
fn a_finding_becomes_critical_and_has_its_evidence() {
    let (changes, engine) = play(160, |second| Sample {
        ports: vec![kept_ports(200, second)],
        ..Sample::default()
    });
    let expected = [
        // After a minute of growth, with 140 s left.
        (60, "raised", Anomaly::PortExhaustion),
        (141, "updated", Anomaly::PortExhaustion),
    ];
    assert_eq!(changes, expected);
    let finding = &engine.board().entries().next().unwrap().finding;
    assert_eq!(finding.severity, Severity::Critical);
    let json = serde_json::to_value(finding).unwrap();
    assert_eq!(json["anomaly"], "port_exhaustion");
    assert_eq!(json["severity"], "critical");
    assert_eq!(json["pid"], 7);
    assert_eq!(json["subject"]["destination"], "10.0.0.2:80");
    assert_eq!(json["evidence"]["holders"][0]["comm"], "api");
    assert_eq!(json["time_left_seconds"], 41.0);
    assert_eq!(json["since_monotonic_seconds"], 1_060.0);
    assert_eq!(json["causes"][0]["id"], "idle_connections");
    assert_eq!(json["causes"][0]["hints"][0]["id"], "ports");
}

#[test]
fn a_finding_of_several_processes_names_no_pid() {
    let holder = |pid, comm: &str, count| Holder {
        process: Some(key(pid)),
        labels: Arc::new(Labels::process(pid, comm, "")),
        count,
    };
    let (_, engine) = play(160, |second| {
        let mut ports = kept_ports(200, second);
        let first = 100 + second % 2;
        ports.holders = vec![
            holder(1, "api", first),
            holder(2, "api", 100),
            holder(3, "cron", 150),
        ];
        Sample {
            ports: vec![ports],
            ..Sample::default()
        }
    });
    let finding = &engine.board().entries().next().unwrap().finding;
    assert_eq!(finding.labels.as_deref(), Some(&Labels::name("api", "")));
}

/// No worker of many has as much as another process, but all together have more.
#[test]
fn a_finding_of_many_processes_names_those_with_the_most() {
    let (_, engine) = play(160, |second| {
        let mut ports = kept_ports(200, second);
        let cron = Arc::new(Labels::process(1, "cron", ""));
        ports.holders = vec![Holder {
            labels: cron,
            count: 12,
            ..holder(1)
        }];
        ports.holders.extend((2..22).map(holder));
        Sample {
            ports: vec![ports],
            ..Sample::default()
        }
    });
    let finding = &engine.board().entries().next().unwrap().finding;
    let comm = finding.labels.as_deref().map(Labels::comm);
    assert_eq!(comm, Some("api"));
    assert_eq!(finding.evidence.holders().len(), 10);
}

/// The process that had the most when it was raised gets company, and ends then.
#[test]
fn a_finding_keeps_its_holder() {
    let mut seen = Vec::new();
    for end in [100, 160] {
        let (changes, engine) = play(end, |second| {
            let mut ports = kept_ports(200, second);
            let mut others = vec![holder(8), holder(9)];
            for other in &mut others {
                other.count = 1_000;
            }
            ports.holders = match second {
                0..70 => vec![holder(7)],
                70 => Vec::new(),
                71..120 => [vec![holder(7)], others].concat(),
                _ => others,
            };
            Sample {
                ports: vec![ports],
                ..Sample::default()
            }
        });
        let raises = changes.iter().filter(|it| it.1 == "raised").count();
        assert_eq!(raises, 1, "{changes:?}");
        let finding = &engine.board().entries().next().unwrap().finding;
        let labels = finding.labels.as_deref().unwrap();
        seen.push((labels.comm().to_owned(), labels.pid().map(str::to_owned)));
    }
    let api = || "api".to_owned();
    assert_eq!(seen, [(api(), Some("7".to_owned())), (api(), None)]);
}

#[test]
fn of_two_local_ends_the_one_that_resets_has_the_finding() {
    let (changes, engine) = play(100, |second| {
        let mut server = process(7);
        server.counts.resets_received[ReceivedReset::CloseWait as usize] = 100 * second;
        server.counts.ended = 100 * second;
        server.reset_peer = Some(key(8));
        let mut client = process(8);
        for half_close in [SentReset::DataAfterClose, SentReset::UnreadAfterShutdown] {
            client.counts.resets_sent[half_close as usize] = 50 * second;
        }
        client.counts.ended = 100 * second;
        client.reset_peer = Some(key(7));
        server.labels = Arc::new(Labels::process(7, "nginx", ""));
        let names = [&server, &client].map(|it| Name {
            labels: Arc::new(Labels::name(it.labels.comm(), it.labels.unit())),
            running: 1,
            counts: it.counts,
            syn_sent_over_3s: 0,
            culprits: Culprits::default(),
        });
        Sample {
            processes: vec![server, client],
            names: names.into(),
            ..Sample::default()
        }
    });
    // Nor has the name of either.
    assert_eq!(changes, [(6, "raised", Anomaly::RstStorm)]);
    let finding = &engine.board().entries().next().unwrap().finding;
    assert_eq!(finding.subject, Subject::Process(key(8)));
    assert_eq!(finding.causes[0].cause.id, "half_close");
    let json = serde_json::to_value(finding).unwrap();
    assert_eq!(json["evidence"]["peer_pid"], 7);
    assert_eq!(json["evidence"]["sent"]["data_after_close"], 1_000);
}

/// What a finding says is of the time before the calm at its end, which is not reported either.
#[test]
fn a_finding_that_is_over_keeps_its_evidence() {
    let mut held = Vec::new();
    let mut engine = Engine::new(Thresholds::default());
    let mut changes = Vec::new();
    for second in 0..100 {
        let mut client = process(7);
        client.counts.connects[ConnectResult::Refused as usize] = 50 * second.min(30);
        client.counts.connects[ConnectResult::Ok as usize] = 50 * (second - second.min(30));
        changes.extend(engine.step(&Sample {
            now: Duration::from_secs(second),
            processes: vec![client],
            ..Sample::default()
        }));
        held.extend(engine.board().all_raised(Anomaly::ConnectFailures).cloned());
    }
    let changes: Vec<_> = changes.iter().map(Change::name).collect();
    assert_eq!(changes, ["raised", "cleared"]);
    let last = held.last().expect("it was raised");
    assert!(last.score < 1.0, "{last:?}");
    assert_eq!(last.causes[0].cause.id, "nothing_listens");
    let Evidence::Connects { failed, .. } = last.evidence else {
        panic!("{last:?}");
    };
    assert!(failed > 0);
}

/// Data that clients send after the server has closed is no mistake of its own shutdown().
#[test]
fn a_server_that_closes_first_does_not_misuse_half_close() {
    let cause = |accepted, connected| {
        let (_, engine) = play(100, |second| {
            let mut server = process(7);
            server.counts.resets_sent[SentReset::DataAfterClose as usize] = 100 * second;
            server.counts.ended = 100 * second;
            server.counts.accepted = accepted * second;
            server.counts.connects[ConnectResult::Ok as usize] = connected * second;
            Sample {
                processes: vec![server],
                ..Sample::default()
            }
        });
        let finding = &engine.board().entries().next().unwrap().finding;
        finding.causes[0].cause.id
    };
    assert_eq!(cause(100, 0), "closes_first");
    // Which of its connections these are is not known.
    assert_eq!(cause(100, 100), "half_close");
    assert_eq!(cause(0, 100), "half_close");
}

#[test]
fn what_never_changes_is_normal_after_an_hour() {
    let total = |second: u64| 100 * second + 900 * second.saturating_sub(5_000);
    let (changes, _) = play(5_100, |second| {
        let mut sample = resetting(Some(7), 0);
        sample.names.clear();
        sample.processes[0].counts.resets_sent[SentReset::LingerZero as usize] = total(second);
        sample.processes[0].counts.ended = total(second);
        sample
    });
    let whens: Vec<_> = changes
        .iter()
        .filter(|it| it.1 != "updated")
        .map(|it| it.0)
        .collect();
    assert_eq!(whens.len(), 3, "{changes:?}");
    assert_eq!(whens[0], 6);
    assert!((3_606..3_650).contains(&whens[1]), "{changes:?}");
    // Ten times as many are a storm again.
    assert!((5_005..5_015).contains(&whens[2]), "{changes:?}");
}

#[test]
fn a_storm_does_not_hide_itself_from_the_next_process() {
    // Replaced after 40 min of storm, beside a name that was calm before.
    let (start, replaced) = (700, 3_100);
    let (changes, _) = play(replaced + 60, |second| {
        let mut sample = resetting(Some(7), second.saturating_sub(start));
        if second >= replaced {
            let worker = resetting(Some(8), second - replaced).processes.remove(0);
            sample.processes = vec![worker];
        }
        sample
    });
    let raised: Vec<_> = changes
        .iter()
        .filter(|it| it.1 == "raised")
        .map(|it| it.0)
        .collect();
    assert_eq!(raised.len(), 2, "{changes:?}");
    assert!(
        raised[0] < start + 10 && raised[1] < replaced + 12,
        "{changes:?}"
    );
}

#[test]
fn storms_are_found_at_any_pace() {
    for tick in [1, 5, 6, 15, 60, 600] {
        let mut engine = Engine::new(Thresholds::default());
        engine.set_pace(Duration::from_secs(tick));
        let mut changes = Vec::new();
        for step in 1..=20 {
            let mut sample = resetting(Some(7), step * tick);
            sample.names.clear();
            // A tick begins when the last one's work is done.
            sample.now = Duration::from_millis(step * (1_000 * tick + 20));
            changes.extend(engine.step(&sample));
        }
        assert!(!changes.is_empty(), "{tick}");
        let Evidence::Resets { per_second, .. } = changes[0].finding().evidence else {
            panic!("{changes:?}");
        };
        assert!((50.0..101.0).contains(&per_second), "{tick}: {per_second}");
    }
}

/// A worker ends, and its 3,000 connections with it.
#[test]
fn a_burst_is_no_storm_at_any_pace() {
    for tick in [1, 5, 6, 15, 60, 600] {
        let mut engine = Engine::new(Thresholds::default());
        engine.set_pace(Duration::from_secs(tick));
        for step in 1..=200 {
            let mut sample = resetting(Some(7), 0);
            let resets = 1_500 * u64::clamp(step, 100, 102);
            sample.processes[0].counts.resets_sent[SentReset::UnreadData as usize] = resets;
            sample.processes[0].counts.ended = 1_500 * step;
            sample.names.clear();
            sample.now = Duration::from_secs(step * tick);
            assert_eq!(engine.step(&sample), [], "{tick}");
        }
    }
}

#[test]
fn a_stall_of_the_daemon_is_no_storm() {
    // 30 s without a tick, and then all at once what was counted meanwhile.
    let mut engine = Engine::new(Thresholds::default());
    for second in (0..200).chain(230..240) {
        let mut sample = resetting(Some(7), 0);
        sample.processes[0].counts.resets_sent[0] = if second < 200 { 0 } else { 100_000 };
        sample.now = Duration::from_secs(1_000 + second);
        assert_eq!(engine.step(&sample), []);
    }
}

#[test]
fn findings_and_changes_are_bounded() {
    let (changes, engine) = play(1_500, |second| {
        // Other ones every 200 s, so that those before are over.
        let first = 1_000 * (second / 200) as u32;
        let exhausted = |pid| {
            let mut process = process(pid);
            process.counts.exhausted[0] = 1 + second;
            process
        };
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

/// Whoever forges source addresses does not take the room of other findings.
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

/// A backend is down for two minutes, and then the program has what it needs.
#[test]
fn failures_that_are_over_are_not_raised_again() {
    let (changes, _) = play(400, |second| {
        let mut client = process(7);
        client.counts.connects[ConnectResult::Refused as usize] = second.min(120);
        client.counts.connects[ConnectResult::Ok as usize] = second.saturating_sub(120).min(1);
        Sample {
            processes: vec![client],
            ..Sample::default()
        }
    });
    let raised = changes.iter().filter(|it| it.1 == "raised").count();
    let last = changes.last().map(|it| it.1);
    assert_eq!((raised, last), (1, Some("cleared")), "{changes:?}");
}

#[test]
fn the_same_samples_give_the_same_changes() {
    let run = || play(100, |second| resetting(Some(7), second)).0;
    assert_eq!(run(), run());
}

/// Where IPv6 is absent, half of all attempts end with ENETUNREACH, which is not what is wrong.
#[test]
fn what_is_no_failure_is_no_cause() {
    let cause = |ok: u64| {
        let (_, engine) = play(60, |second| {
            let mut client = process(7);
            let connects = &mut client.counts.connects;
            connects[ConnectResult::Ok as usize] = ok * second;
            connects[ConnectResult::Refused as usize] = 10 * second;
            for ignorable in [
                ConnectResult::NetUnreachable,
                ConnectResult::FamilyNotSupported,
                ConnectResult::Canceled,
                ConnectResult::AddressNotAvailable,
            ] {
                connects[ignorable as usize] = 20 * second;
            }
            Sample {
                processes: vec![client],
                ..Sample::default()
            }
        });
        let finding = &engine.board().entries().next().unwrap().finding;
        let causes = finding.causes.iter();
        causes.map(|it| it.cause.id).collect::<Vec<_>>()
    };
    assert_eq!(cause(1), ["nothing_listens"]);
    // Nothing succeeds.
    assert!(cause(0).contains(&"no_route"), "{:?}", cause(0));
}

/// `prlimit --nofile` gives a process more descriptors than it will ever have.
#[test]
fn a_leak_clears_when_the_limit_is_raised() {
    let mut engine = Engine::new(Thresholds::default());
    let mut changes = Vec::new();
    for second in 0..200 {
        let mut process = process(1);
        process.descriptors = Some(Descriptors {
            open: 400 + 5 * second,
            limit: if second < 100 { 1_024 } else { 1_048_576 },
            measured_at: Duration::from_secs(second),
        });
        let found = engine.step(&Sample {
            now: Duration::from_secs(second),
            processes: vec![process],
            ..Sample::default()
        });
        changes.extend(found.into_iter().map(|change| (change.name(), second)));
    }
    let [("raised", raised), ("cleared", cleared)] = changes[..] else {
        panic!("{changes:?}");
    };
    assert!(raised < 100 && (130..135).contains(&cleared), "{changes:?}");
}

/// Causes of failing connects, from the counts of each second.
fn causes_of_connects(counts: impl Fn(u64) -> Counts) -> Vec<&'static str> {
    let (_, engine) = play(30, |second| {
        let mut client = process(7);
        client.counts = counts(second);
        Sample {
            processes: vec![client],
            ..Sample::default()
        }
    });
    let finding = &engine.board().entries().next().unwrap().finding;
    finding.causes.iter().map(|it| it.cause.id).collect()
}

#[test]
fn a_refusal_without_an_rst_is_that_of_a_firewall() {
    let cause = |by_icmp: Option<u64>| {
        causes_of_connects(|second| {
            let mut counts = Counts::default();
            counts.connects[ConnectResult::Refused as usize] = 10 * second;
            counts.refused_by_icmp = by_icmp.map(|it| it * second);
            counts
        })
    };
    assert_eq!(cause(Some(10)), ["refused_by_icmp"]);
    assert_eq!(cause(Some(0)), ["nothing_listens"]);
    // RSTs are not counted on this kernel.
    assert_eq!(cause(None), ["nothing_listens"]);
    assert_eq!(cause(Some(5)), ["nothing_listens", "refused_by_icmp"]);
}

#[test]
fn a_local_address_that_cannot_be_used_is_no_lack_of_ports() {
    let cause = |searches: u64| {
        causes_of_connects(|second| {
            let mut counts = Counts::default();
            counts.connects[ConnectResult::AddressNotAvailable as usize] = 10 * second;
            counts.port_searches_failed = searches * second;
            counts
        })
    };
    assert_eq!(cause(10), ["no_local_port"]);
    assert_eq!(cause(0), ["local_address"]);
}

#[test]
fn a_full_limit_names_the_kind_of_descriptors() {
    use crate::process::fd_kinds::{FdKind, FdKinds};

    let cause = |kinds: Option<FdKinds>, enfile: u64| {
        let (_, engine) = play(30, |second| {
            let mut process = process(7);
            process.counts.exhausted = [second * (1 - enfile), second * enfile];
            process.descriptors = Some(Descriptors {
                open: 64,
                limit: 64,
                measured_at: Duration::from_secs(1_000 + second),
            });
            process.fd_kinds = kinds.clone().map(Arc::new);
            Sample {
                processes: vec![process],
                ..Sample::default()
            }
        });
        let mut entries = engine.board().entries();
        let of = |it: &&Entry| it.finding.anomaly == Anomaly::FdExhaustion;
        entries.find(of).unwrap().finding.causes[0].cause.id
    };
    let kinds = |kind| Some(FdKinds::new([(kind, 60), (FdKind::Pipe, 2)]));
    assert_eq!(cause(None, 0), "fd_limit");
    assert_eq!(
        cause(kinds(FdKind::Tcp("ESTABLISHED")), 0),
        "full_of_connections"
    );
    assert_eq!(cause(kinds(FdKind::Tcp("CLOSE_WAIT")), 0), "fd_close_wait");
    assert_eq!(cause(kinds(FdKind::IdleSocket), 0), "full_of_sockets");
    let udp = kinds(FdKind::Socket("udp"));
    assert_eq!(cause(udp, 0), "full_of_other_sockets");
    assert_eq!(cause(kinds(FdKind::Tcp("ESTABLISHED")), 1), "file_table");
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
                place: ListenAddress {
                    netns,
                    address: "0.0.0.0:80".parse().unwrap(),
                },
                sockets: 1,
                backlog: 0,
                max_backlog: 128,
                fullest: 0.0,
                overflows: if overflows { 100 * second } else { 0 },
                accepts: second,
                exhausted: 0,
                syncookies: None,
                holders: vec![holder(7)],
                workers: Vec::new(),
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
    assert_eq!(at(20, |second| resetting(None, second)), none);
    assert_eq!(at(40, |second| resetting(None, second)), resets);
}

/// Beside successes, attempts that fail because the host has no IPv6 do not count as failures, nor their destinations.
#[test]
fn destinations_are_those_of_failures() {
    let share = |address: &str, reason, share| PeerShare {
        address: address.parse().unwrap(),
        port: 80,
        is_client: false,
        reason: Some(reason),
        share,
    };
    let (_, engine) = play(20, |second| {
        let mut client = process(7);
        for (result, each) in [
            (ConnectResult::Ok, 5),
            (ConnectResult::Refused, 10),
            (ConnectResult::NetUnreachable, 15),
        ] {
            client.counts.connects[result as usize] = each * second;
        }
        client.culprits.connects = vec![
            share("2001:db8::1", "net_unreachable", 0.6),
            share("10.0.0.7", "refused", 0.3),
            share("10.0.0.8", "timed_out", 0.1),
        ];
        Sample {
            processes: vec![client],
            ..Sample::default()
        }
    });
    let subject = Subject::Process(key(7));
    let finding = engine.board().raised(Anomaly::ConnectFailures, &subject);
    let Some(Evidence::Connects { peers, .. }) = finding.map(|it| &it.evidence) else {
        panic!("{finding:?}");
    };
    let peers: Vec<_> = peers
        .iter()
        .map(|it| (it.address.to_string(), (it.share * 100.0).round()))
        .collect();
    // A result that no counter has is not ignored: it may be an old one.
    assert_eq!(
        peers,
        [("10.0.0.7".to_owned(), 75.0), ("10.0.0.8".to_owned(), 25.0)]
    );
}

/// A descriptor a minute under a limit that is days away is no finding.
#[test]
fn slow_growth_of_descriptors_is_known() {
    let growth = |open: &dyn Fn(u64) -> u64| {
        let (changes, engine) = play(5_400, |second| {
            let mut process = process(7);
            process.descriptors = Some(Descriptors {
                open: open(second),
                limit: 1_048_576,
                measured_at: Duration::from_secs(1_000 + second),
            });
            Sample {
                processes: vec![process],
                ..Sample::default()
            }
        });
        assert_eq!(changes, []);
        engine.growing().collect::<Vec<_>>()
    };
    let [(process, per_second)] = growth(&|second| 100 + second / 60)[..] else {
        panic!("it grows");
    };
    assert_eq!(process, key(7));
    assert!((per_second * 60.0 - 1.0).abs() < 0.1, "{per_second}");
    assert_eq!(growth(&|second| 100 + (second / 60).min(20)), []);
    assert_eq!(growth(&|second| 100 + second / 60 % 30), []);
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
