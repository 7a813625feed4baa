//! Descriptors that leak or run out.

use super::*;
use crate::process::fd_kinds::{FdKind, FdKinds, FdPeer};

/// The cause and the evidence say what the newest descriptors are.
#[test]
fn a_leak_of_descriptors_names_their_kind() {
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
fn a_server_at_its_descriptor_limit_has_one_finding() {
    let run = |emfile: u64| {
        let (changes, _) = play(60, move |second| {
            let mut server = process(7);
            server.counts.exhausted = [emfile * second, 0];
            server.counts.resets_sent[SentReset::UnreadData as usize] = 100 * second;
            server.counts.ended = 100 * second;
            let listener = Listener {
                sockets: 1,
                backlog: 129,
                max_backlog: 128,
                fullest: 1.0,
                overflows: 10 * second,
                accepts: second,
                exhausted: emfile * second,
                holders: vec![holder(7)],
                ..Listener::new(ListenAddress {
                    netns: 1,
                    address: "0.0.0.0:80".parse().unwrap(),
                })
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

#[test]
fn a_full_limit_names_the_kind_of_descriptors() {
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
    let client = FdPeer {
        address: [10, 0, 0, 9].into(),
        port: 80,
        is_client: true,
    };
    let accepted = kinds(FdKind::Tcp("ESTABLISHED"));
    let accepted = accepted.map(|it| it.with_peers([(client, 60)]));
    assert_eq!(cause(accepted, 0), "full_of_accepted");
    assert_eq!(cause(kinds(FdKind::Tcp("CLOSE_WAIT")), 0), "fd_close_wait");
    assert_eq!(cause(kinds(FdKind::IdleSocket), 0), "full_of_sockets");
    let udp = kinds(FdKind::Socket("udp"));
    assert_eq!(cause(udp, 0), "full_of_other_sockets");
    assert_eq!(cause(kinds(FdKind::Tcp("ESTABLISHED")), 1), "file_table");
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

/// A cache that fills up cannot be told from a leak until it is full.
#[test]
fn a_leak_that_grows_no_more_is_over() {
    let (changes, _) = play(3_000, |second| {
        let mut process = process(7);
        process.descriptors = Some(Descriptors {
            open: (30 + 25 * second).min(850),
            limit: 1_000,
            measured_at: Duration::from_secs(1_000 + second),
        });
        Sample {
            processes: vec![process],
            ..Sample::default()
        }
    });
    let leak: Vec<_> = changes.iter().filter(|it| it.1 != "updated").collect();
    let [
        (raised, "raised", Anomaly::FdLeak),
        (cleared, "cleared", Anomaly::FdLeak),
    ] = leak[..]
    else {
        panic!("{changes:?}");
    };
    // After the highest number, for 1,800 s, and 30 s of calm.
    assert!(*raised < 33, "{raised}");
    assert!((1_860..1_870).contains(cleared), "{cleared}");
}

/// The causes of a leak of a process with so many descriptors of these kinds, by second.
fn leak(kinds: impl Fn(u64) -> FdKinds) -> Vec<&'static str> {
    let (_, engine) = play(40, |second| {
        let mut process = process(7);
        process.descriptors = Some(Descriptors {
            open: 20 + second,
            limit: 64,
            measured_at: Duration::from_secs(1_000 + second),
        });
        process.close_wait_over_10s = 2;
        process.fd_kinds = Some(Arc::new(kinds(second)));
        Sample {
            processes: vec![process],
            ..Sample::default()
        }
    });
    let raised = engine
        .board()
        .raised(Anomaly::FdLeak, &Subject::Process(key(7)));
    let causes = &raised.unwrap().causes;
    causes.iter().map(|it| it.cause.id).collect()
}

/// A server with pipes and files of its own leaks connections under a small limit.
#[test]
fn a_leak_is_of_what_has_grown() {
    let causes = leak(|second| {
        FdKinds::new([
            (FdKind::Pipe, 12),
            (FdKind::Anonymous("eventfd".to_owned()), 8),
            (FdKind::Tcp("CLOSE_WAIT"), 2),
            (FdKind::IdleSocket, 1 + second),
        ])
    });
    assert_eq!(causes, ["fd_idle_sockets"]);
}

#[test]
fn signalfds_are_known() {
    let causes = leak(|second| {
        FdKinds::new([
            (FdKind::Pipe, 12),
            (FdKind::Anonymous("signalfd".to_owned()), 1 + second),
        ])
    });
    assert_eq!(causes, ["fd_events"]);
}

/// Of many descriptors the newest are looked at: what leaks is nearly all of them from the first look on.
#[test]
fn a_leak_of_many_is_not_of_what_comes_and_goes() {
    let files = || FdKind::File {
        directory: "/tmp".to_owned(),
        deleted: false,
    };
    let causes = leak(|second| match second {
        0 => FdKinds::new([(files(), 256)]),
        _ => FdKinds::new([(files(), 254), (FdKind::Pipe, 2)]),
    });
    assert_eq!(causes, ["fd_files"]);
}

/// A server whose clients change leaks connections to its database.
#[test]
fn clients_that_change_are_no_leak() {
    let peer = |last, is_client| FdPeer {
        address: [10, 0, 0, last].into(),
        port: 80,
        is_client,
    };
    let causes = leak(|second| {
        let clients = (0..20).map(|n| (peer((second % 2) as u8 * 100 + n, true), 1));
        let database = (peer(250, false), 10 + second);
        FdKinds::new([(FdKind::Tcp("ESTABLISHED"), 30 + second)])
            .with_peers(clients.chain([database]))
    });
    assert_eq!(causes, ["fd_connections"]);
}

/// A seccomp filter may return EMFILE for whatever call: descriptors are counted before it is believed, unless it is seen
/// where the kernel allocates them.
#[test]
fn calls_that_fail_with_descriptors_left_are_no_exhaustion() {
    // Calls fail from second 10 on. Descriptors are counted every 5 s.
    let raised = |open: fn(u64) -> u64, sees_allocations| {
        let (changes, _) = play(60, move |second| {
            let mut process = process(1);
            process.sees_allocations = sees_allocations;
            process.counts.exhausted[0] = second.saturating_sub(10);
            let measured = second - second % 5;
            process.descriptors = Some(Descriptors {
                open: open(measured),
                limit: 1_024,
                measured_at: Duration::from_secs(1_000 + measured),
            });
            Sample {
                processes: vec![process],
                ..Sample::default()
            }
        });
        let mut raised = changes.iter().filter(|it| it.1 == "raised");
        raised.next().map(|it| (it.0, it.2))
    };
    assert_eq!(raised(|_| 30, false), None);
    let exhaustion = |second| Some((second, Anomaly::FdExhaustion));
    assert_eq!(raised(|_| 30, true), exhaustion(11));
    // The next measurement says so.
    let jump = |second| if second < 11 { 30 } else { 1_024 };
    assert_eq!(raised(jump, false), exhaustion(15));
    // Some were closed at once.
    let falls = |second| if second == 10 { 1_000 } else { 700 };
    assert_eq!(raised(falls, false), exhaustion(11));
}
