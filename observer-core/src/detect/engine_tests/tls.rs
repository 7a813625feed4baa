//! TLS handshakes that fail, and what else does then.

use observer_common::{
    TLS_CLIENT, TLS_FAILED, TLS_OK, TLS_SERVER, TLS_UNKNOWN, WAIT_PEER_FIRST_BYTE,
};

use super::*;
use crate::walk::{Peer, PeerWait};

/// A client whose handshakes fail at this rate.
fn refused(pid: u32, total: u64) -> Process {
    let mut client = process(pid);
    client.counts.handshakes[TLS_CLIENT as usize][TLS_FAILED] = total;
    client.counts.connects[ConnectResult::Ok as usize] = total;
    client.counts.ended = total;
    client.culprits.short = vec![server()];
    client
}

fn server() -> PeerShare {
    PeerShare {
        netns: 1,
        address: [10, 0, 0, 8].into(),
        port: 443,
        is_client: false,
        reason: None,
        share: 1.0,
        elsewhere: None,
    }
}

/// What listens there: a process of another name.
fn listener() -> Listener {
    let mut holder = holder(8);
    holder.labels = Arc::new(Labels::process(8, "nginx", "nginx.service"));
    Listener {
        sockets: 1,
        holders: vec![holder],
        ..Listener::new(ListenAddress {
            netns: 1,
            address: "10.0.0.8:443".parse().unwrap(),
        })
    }
}

fn named(process: &Process) -> Name {
    let (comm, unit) = process.labels.name_key();
    Name {
        running: 1,
        counts: process.counts,
        culprits: process.culprits.clone(),
        ..Name::new(Arc::new(Labels::name(comm, unit)))
    }
}

#[test]
fn a_client_has_a_finding_and_not_its_name() {
    let (changes, engine) = play(60, |second| {
        let client = refused(7, 3 * second);
        Sample {
            names: vec![named(&client)],
            processes: vec![client],
            ..Sample::default()
        }
    });
    assert_eq!(changes, [(6, "raised", Anomaly::TlsFailures)]);
    let finding = &engine.board().entries().next().unwrap().finding;
    assert_eq!(finding.subject, Subject::Process(key(7)));
    assert_eq!(finding.severity, Severity::Critical);
    assert_eq!(finding.causes[0].cause.id, "handshakes_refused");
    assert_eq!(finding.causes[0].hints[0].hint.id, "tls-fails");
    let Evidence::Handshakes { peers, .. } = &finding.evidence else {
        panic!("{finding:?}");
    };
    assert_eq!(peers, &[server()]);
}

/// They live too short to be seen.
#[test]
fn processes_of_one_handshake_each_are_found_by_name() {
    let (changes, engine) = play(60, |second| Sample {
        names: vec![named(&refused(7, 3 * second))],
        ..Sample::default()
    });
    assert_eq!(changes, [(7, "raised", Anomaly::TlsFailures)]);
    let finding = &engine.board().entries().next().unwrap().finding;
    assert!(matches!(finding.subject, Subject::Name(_)));
}

#[test]
fn servers_are_not_found() {
    let raised = |role: u32, accepted| {
        let (changes, _) = play(60, |second| {
            let mut server = process(7);
            server.counts.handshakes[role as usize][TLS_FAILED] = 3 * second;
            server.counts.accepted = accepted * second;
            server.counts.connects[ConnectResult::Ok as usize] = 3 * second;
            Sample {
                processes: vec![server],
                ..Sample::default()
            }
        });
        changes.len()
    };
    assert_eq!(raised(TLS_SERVER, 0), 0);
    // GnuTLS.
    assert_eq!(raised(TLS_UNKNOWN, 1), 0);
    assert_eq!(raised(TLS_UNKNOWN, 0), 1);
}

/// A client, which may have ended, and its server, of which it may be known where it listens.
fn both_ends(client: Process, mut server: Process, is_alive: bool, serves: bool) -> Sample {
    server.labels = Arc::clone(&listener().holders[0].labels);
    let names = [&client, &server].map(named).to_vec();
    let client = Some(client).filter(|_| is_alive);
    Sample {
        names,
        processes: client.into_iter().chain([server]).collect(),
        listeners: serves.then(listener).into_iter().collect(),
        ..Sample::default()
    }
}

/// RSTs follow from the failures, at both ends, whoever sends them, and whether or not the clients end.
#[test]
fn storms_follow_from_handshakes() {
    let changes = |is_alive: bool, serves: bool| {
        let (changes, _) = play(100, |second| {
            // Until then all is well.
            let failed = 100 * second.saturating_sub(30);
            let mut client = refused(7, failed);
            client.counts.handshakes[TLS_CLIENT as usize][TLS_OK] = 100 * second - failed;
            client.counts.ended = 100 * second;
            client.counts.resets_received[ReceivedReset::BothClosing as usize] = failed;
            let mut server = process(8);
            server.reset_peer = is_alive.then(|| key(7));
            server.counts.handshakes[TLS_SERVER as usize][TLS_FAILED] = failed;
            server.counts.accepted = 100 * second;
            server.counts.ended = 100 * second;
            server.counts.resets_sent[SentReset::UnreadData as usize] = failed;
            both_ends(client, server, is_alive, serves)
        });
        let changes = changes.iter().filter(|it| it.1 != "updated");
        changes.map(|it| (it.1, it.2)).collect::<Vec<_>>()
    };
    let (raised, storm) = (
        ("raised", Anomaly::TlsFailures),
        ("raised", Anomaly::RstStorm),
    );
    assert_eq!(changes(true, true), [raised]);
    assert_eq!(changes(false, true), [raised]);
    // Where it listens may be in another network namespace.
    assert_eq!(changes(true, false), [raised]);
    assert_eq!(changes(false, false), [raised, storm]);
}

/// The server does not speak TLS, so that nothing says that its RSTs are of handshakes: clients close with its greeting unread.
#[test]
fn a_port_without_tls_is_one_finding() {
    let changes = |is_alive: bool, serves: bool| {
        let (changes, _) = play(100, |second| {
            let mut client = refused(7, 100 * second);
            client.counts.resets_sent[SentReset::UnreadData as usize] = 100 * second;
            client.reset_peer = Some(key(8));
            let mut server = process(8);
            server.reset_peer = is_alive.then(|| key(7));
            server.counts.accepted = 100 * second;
            server.counts.ended = 100 * second;
            server.counts.resets_received[ReceivedReset::Established as usize] = 100 * second;
            both_ends(client, server, is_alive, serves)
        });
        let changes = changes.iter().filter(|it| it.1 != "updated");
        changes.map(|it| it.2).collect::<Vec<_>>()
    };
    assert_eq!(changes(true, false), [Anomaly::TlsFailures]);
    assert_eq!(changes(false, true), [Anomaly::TlsFailures]);
    let both = [Anomaly::RstStorm, Anomaly::TlsFailures];
    assert_eq!(changes(false, false), both);
}

/// A client of this host whose few handshakes fail, at a server that many others reset.
#[test]
fn a_failing_client_does_not_explain_the_resets_of_others() {
    let (changes, _) = play(60, |second| {
        let client = refused(7, 2 * second);
        let mut server = process(8);
        server.counts.accepted = 200 * second;
        server.counts.ended = 200 * second;
        server.counts.resets_received[ReceivedReset::Established as usize] = 200 * second;
        both_ends(client, server, true, true)
    });
    let raised = changes.iter().filter(|it| it.1 == "raised");
    let mut raised: Vec<_> = raised.map(|it| it.2).collect();
    raised.sort();
    let mut both = [Anomaly::RstStorm, Anomaly::TlsFailures];
    both.sort();
    assert_eq!(raised, both);
}

/// A server that resets on purpose is what is wrong.
#[test]
fn handshakes_follow_from_a_storm_of_their_server() {
    let (changes, engine) = play(60, |second| {
        let mut client = refused(7, 100 * second);
        client.counts.resets_received[ReceivedReset::Established as usize] = 100 * second;
        client.reset_peer = Some(key(8));
        let mut server = process(8);
        server.counts.resets_sent[SentReset::LingerZero as usize] = 100 * second;
        server.counts.ended = 100 * second;
        Sample {
            processes: vec![client, server],
            ..Sample::default()
        }
    });
    assert_eq!(changes, [(6, "raised", Anomaly::RstStorm)]);
    let finding = &engine.board().entries().next().unwrap().finding;
    assert_eq!(finding.subject, Subject::Process(key(8)));
}

#[test]
fn peers_that_reset_handshakes_are_a_cause_of_their_own() {
    let causes = |resets| {
        causes_of(60, |second| {
            let mut counts = refused(7, 4 * second).counts;
            counts.resets_received[ReceivedReset::Established as usize] = resets * second;
            counts
        })
    };
    assert_eq!(causes(1), ["handshakes_refused"]);
    assert_eq!(causes(2), ["handshakes_reset", "handshakes_refused"]);
    assert_eq!(causes(4), ["handshakes_reset"]);
}

/// What is not answered is of `read_stall`, `tls_stall` or a full listener, before and after they are raised.
#[test]
fn handshakes_that_nobody_answers_are_other_findings() {
    let gives_up = |gave_up: u64| {
        let (changes, _) = play(60, |second| {
            let mut client = refused(7, 3 * second);
            // Counted a moment later.
            client.counts.gave_up[0] = (gave_up * second).saturating_sub(2);
            client.not_closed_by_peer = client.counts.gave_up[0] as u32;
            Sample {
                processes: vec![client],
                ..Sample::default()
            }
        });
        let anomalies: Vec<_> = changes.iter().map(|it| it.2).collect();
        anomalies
    };
    assert_eq!(gives_up(3), [Anomaly::ReadStall]);
    assert_eq!(gives_up(0), [Anomaly::TlsFailures]);
    let stalls = |slow, port| {
        let (_, engine) = play(60, |second| {
            let mut client = refused(7, 3 * second);
            client.handshakes.in_progress[0] = slow;
            client.handshakes.slow[0] = slow;
            let wait = PeerWait {
                owner: (0, 0),
                peer: Peer {
                    netns: 1,
                    address: server().address,
                    port,
                    is_client: false,
                },
                waits_for: WAIT_PEER_FIRST_BYTE,
                is_judged: false,
                connections: 1,
                longest_ms: 10_000,
                server: None,
            };
            client.peers = vec![Awaited { wait, server: None }];
            Sample {
                processes: vec![client],
                ..Sample::default()
            }
        });
        let board = engine.board();
        [Anomaly::TlsStall, Anomaly::TlsFailures].map(|it| board.all_raised(it).count())
    };
    assert_eq!(stalls(0, 443), [0, 1]);
    assert_eq!(stalls(5, 443), [1, 0]);
    // Something is wrong with two servers.
    assert_eq!(stalls(5, 80), [1, 1]);
    let with_full = |port| {
        let (changes, _) = play(60, |second| {
            let mut full = listener();
            full.place.address.set_port(port);
            (full.overflows, full.backlog, full.max_backlog) = (10 * second, 128, 128);
            Sample {
                processes: vec![refused(7, 3 * second)],
                listeners: vec![full],
                ..Sample::default()
            }
        });
        changes.iter().any(|it| it.2 == Anomaly::TlsFailures)
    };
    assert!(with_full(80));
    assert!(!with_full(443));
}

#[test]
fn findings_are_known_for_a_while_after_their_end() {
    let number = |seconds| {
        let (changes, engine) = play(seconds, |second| Sample {
            processes: vec![refused(7, 3 * second.min(20))],
            ..Sample::default()
        });
        let time = Duration::from_secs(100);
        let lately = |of| engine.lately(of, time).count();
        assert_eq!(lately(Anomaly::TlsStall), 0);
        (changes.len(), lately(Anomaly::TlsFailures))
    };
    assert_eq!(number(10), (1, 1));
    assert_eq!(number(150), (2, 1));
    assert_eq!(number(200), (2, 0));
}

/// What `observer doctor` notes is of the last ten minutes.
#[test]
fn handshakes_are_known_for_ten_minutes() {
    let lately = |seconds| {
        let (_, engine) = play(seconds, |second| {
            let mut server = process(8);
            server.counts.handshakes[TLS_SERVER as usize] = [2 * second, second.min(20)];
            Sample {
                names: vec![named(&server)],
                ..Sample::default()
            }
        });
        let all = engine.handshakes().map(|(_, it)| it[TLS_SERVER as usize]);
        all.collect::<Vec<_>>()
    };
    assert_eq!(lately(301), [[600, 20]]);
    assert_eq!(lately(611), [[1_200, 10]]);
    assert_eq!(lately(622), [[0; 2]; 0]);
}
