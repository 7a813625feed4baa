//! Storms of RSTs.

use observer_common::{TLS_FAILED, TLS_SERVER};

use super::*;

#[test]
fn a_storm_of_a_process_is_not_one_of_its_name() {
    let (changes, _) = play(200, |second| resetting(Some(7), second));
    assert_eq!(changes, [(6, "raised", Anomaly::RstStorm)]);
    let (changes, engine) = play(200, |second| resetting(None, second));
    assert_eq!(changes, [(55, "raised", Anomaly::RstStorm)]);
    let entry = engine.board().entries().next().unwrap();
    assert!(matches!(entry.finding.subject, Subject::Name(_)));
    assert_eq!(entry.finding.causes[0].cause.id, "linger_zero");
}

/// A proxy resets the connections that it gives up: to those the server has not answered, which receives the RSTs.
#[test]
fn connections_that_are_given_up_are_no_storm() {
    let found = |gave_up: u64| {
        let (changes, engine) = play(60, |second| {
            let mut proxy = process(7);
            proxy.counts.resets_sent[SentReset::LingerZero as usize] = 100 * second;
            proxy.counts.gave_up[1] = gave_up * second;
            proxy.counts.ended = 100 * second;
            let mut server = process(8);
            server.counts.resets_received[ReceivedReset::Established as usize] = 100 * second;
            server.counts.ended = 100 * second;
            server.reset_peer = Some(key(7));
            Sample {
                processes: vec![proxy, server],
                ..Sample::default()
            }
        });
        let entries = engine.board().entries();
        let causes: Vec<_> = entries.map(|it| it.finding.causes[0].cause.id).collect();
        (changes.len(), causes)
    };
    assert_eq!(found(100), (1, vec!["gave_up"]));
    assert_eq!(found(0), (1, vec!["linger_zero"]));
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

/// A job that resets 15 connections a second for 45 s, each 20 minutes: what is normal is so while it runs.
#[test]
fn time_without_a_process_does_not_lower_the_baseline() {
    let period = 1_200;
    let (changes, _) = play(6 * period, |second| {
        let (run, into) = (second / period, second % period);
        let running = into < 45;
        let before = 45 * run;
        let counts = |seconds: u64| {
            let mut counts = Counts::default();
            counts.resets_sent[SentReset::LingerZero as usize] = 15 * seconds;
            counts.ended = 15 * seconds;
            counts
        };
        let mut sample = resetting(None, 0);
        sample.names[0].counts = counts(before + into.min(45));
        sample.names[0].running = u32::from(running);
        sample.processes.extend(running.then(|| Process {
            counts: counts(into),
            ..process(100 + run as u32)
        }));
        sample
    });
    assert_eq!(changes, []);
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
            running: 1,
            counts: it.counts,
            ..Name::new(Arc::new(Labels::name(it.labels.comm(), it.labels.unit())))
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

/// The client closes the connection as its library likes: here with the server's last message unread.
#[test]
fn handshakes_that_fail_are_the_cause_of_what_follows() {
    let causes = |failed| {
        causes_of(60, |second| {
            let mut counts = Counts::default();
            counts.resets_sent[SentReset::UnreadData as usize] = 60 * second;
            counts.resets_sent[SentReset::LingerZero as usize] = 40 * second;
            counts.handshakes[TLS_SERVER as usize][TLS_FAILED] = failed * second;
            counts.ended = 100 * second;
            counts
        })
    };
    assert_eq!(causes(0), ["unread"]);
    assert_eq!(causes(49), ["unread"]);
    assert_eq!(causes(60), ["handshakes_fail"]);
    // SO_LINGER is set on purpose.
    assert_eq!(causes(130), ["handshakes_fail"]);
    assert_eq!(causes(55), ["handshakes_fail", "linger_zero", "unread"]);
}

/// Data that clients send after the server has closed is no mistake of its own shutdown().
#[test]
fn a_server_that_closes_first_does_not_misuse_half_close() {
    let cause_with = |accepted, connected, clients| {
        let (_, engine) = play(100, |second| {
            let mut server = process(7);
            let peer = |is_client, share| PeerShare {
                netns: 1,
                address: [10, 0, 0, 1].into(),
                port: 80,
                is_client,
                reason: None,
                share,
                elsewhere: None,
            };
            server.culprits.resets_sent = vec![peer(true, clients), peer(false, 1.0 - clients)];
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
    let cause = |accepted, connected| cause_with(accepted, connected, 0.5);
    assert_eq!(cause(100, 0), "closes_first");
    assert_eq!(cause(100, 100), "half_close");
    // A proxy, whose connections to servers are not reset.
    assert_eq!(cause_with(100, 100, 0.95), "closes_first");
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
