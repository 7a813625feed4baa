//! Connects that fail.

use super::*;
use crate::detect::{Elsewhere, Severity};

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

/// A backend comes back, and a while later one attempt fails.
#[test]
fn a_single_failure_does_not_raise_what_is_over() {
    let raised = |later| {
        let (changes, _) = play(300, |second| {
            let mut client = process(7);
            let refused = second.min(30) + u64::from(second >= later);
            client.counts.connects[ConnectResult::Refused as usize] = refused;
            client.counts.connects[ConnectResult::Ok as usize] = u64::from(second > 30);
            Sample {
                processes: vec![client],
                ..Sample::default()
            }
        });
        let raised = changes.iter().filter(|it| it.1 == "raised");
        raised.map(|it| it.0).collect::<Vec<_>>()
    };
    for later in [80, 100, 120, 140] {
        assert_eq!(raised(later), [10], "{later}");
    }
}

/// Where IPv6 is absent, half of all attempts end with ENETUNREACH, which is not what is wrong.
#[test]
fn what_is_no_failure_is_no_cause() {
    let cause = |ok: u64| {
        causes_of(60, |second| {
            let mut counts = Counts::default();
            let connects = &mut counts.connects;
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
            counts
        })
    };
    assert_eq!(cause(1), ["nothing_listens"]);
    // Nothing succeeds.
    assert!(cause(0).contains(&"no_route"), "{:?}", cause(0));
}

/// `localhost` is ::1 first, and the server is at one address: each request succeeds at the second attempt.
#[test]
fn the_second_address_of_a_name_is_a_fallback() {
    let raised = |to: &str, listens_at: &str, ok: u64| {
        let (changes, _) = play(200, |second| {
            let mut client = process(7);
            let connects = &mut client.counts.connects;
            connects[ConnectResult::Ok as usize] = ok * second;
            // A sample may come between two attempts.
            connects[ConnectResult::Refused as usize] = 10 * second + second % 3 % 2;
            // Records are read once it is suspected.
            if second > 4 {
                client.culprits.connects = vec![PeerShare {
                    elsewhere: Some(Elsewhere {
                        addresses: vec![listens_at.parse().unwrap()],
                        labels: None,
                    }),
                    ..failed(to.parse::<std::net::IpAddr>().unwrap(), 80, "refused", 1.0)
                }];
            }
            Sample {
                processes: vec![client],
                ..Sample::default()
            }
        });
        changes.len()
    };
    assert_eq!(raised("::1", "127.0.0.1", 10), 0);
    assert_eq!(raised("::1", "0.0.0.0", 30), 0);
    assert_eq!(raised("127.0.0.1", "::1", 10), 0);
    // It does not try the other one.
    assert_eq!(raised("::1", "127.0.0.1", 0), 1);
    assert_eq!(raised("127.0.0.1", "10.0.0.1", 10), 1);
}

/// The server restarts each minute and is away for a second, in which it listens nowhere.
#[test]
fn a_fallback_is_remembered_while_the_server_restarts() {
    let raised = |away: u64| {
        let (changes, _) = play(200, |second| {
            let mut client = process(7);
            let connects = &mut client.counts.connects;
            let away_so_far = away * (second / 60) + (second % 60).min(away);
            let is_away = second % 60 < away && second > 0;
            connects[ConnectResult::Ok as usize] = 10 * (second - away_so_far.min(second));
            connects[ConnectResult::Refused as usize] = 10 * second + 10 * away_so_far;
            if second > 4 {
                let elsewhere = Elsewhere {
                    addresses: vec!["127.0.0.1".parse().unwrap()],
                    labels: None,
                };
                client.culprits.connects = vec![PeerShare {
                    elsewhere: (!is_away).then_some(elsewhere),
                    ..failed(std::net::Ipv6Addr::LOCALHOST, 80, "refused", 1.0)
                }];
            }
            Sample {
                processes: vec![client],
                ..Sample::default()
            }
        });
        changes.len()
    };
    assert_eq!(raised(1), 0);
    assert!(raised(20) > 0);
}

#[test]
fn a_refusal_without_an_rst_is_that_of_a_firewall() {
    let cause = |by_icmp: Option<u64>| {
        causes_of(30, |second| {
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
fn what_listens_at_another_address_is_the_cause_of_its_refusals() {
    let cause = |to: &[(Option<Elsewhere>, f64)]| {
        let (_, engine) = play(30, |second| {
            let mut client = process(7);
            client.counts.connects[ConnectResult::Refused as usize] = 10 * second;
            let to = to
                .iter()
                .zip(1..)
                .map(|((elsewhere, share), last)| PeerShare {
                    elsewhere: elsewhere.clone(),
                    ..failed([10, 0, 0, last], 80, "refused", *share)
                });
            client.culprits.connects = to.collect();
            Sample {
                processes: vec![client],
                ..Sample::default()
            }
        });
        let finding = &engine.board().entries().next().unwrap().finding;
        let causes = finding.causes.iter();
        causes.map(|it| it.cause.id).collect::<Vec<_>>()
    };
    let elsewhere = || {
        Some(Elsewhere {
            addresses: vec![[127, 0, 0, 1].into()],
            labels: None,
        })
    };
    assert_eq!(cause(&[(elsewhere(), 1.0)]), ["listens_elsewhere"]);
    assert_eq!(cause(&[(None, 1.0)]), ["nothing_listens"]);
    assert_eq!(cause(&[]), ["nothing_listens"]);
    assert_eq!(
        cause(&[(None, 0.55), (elsewhere(), 0.45)]),
        ["nothing_listens", "listens_elsewhere"]
    );
}

/// Where connects failed.
fn failed(
    address: impl Into<std::net::IpAddr>,
    port: u16,
    reason: &'static str,
    share: f64,
) -> PeerShare {
    PeerShare {
        netns: 1,
        address: address.into(),
        port,
        is_client: false,
        reason: Some(reason),
        share,
        elsewhere: None,
    }
}

#[test]
fn many_ports_of_one_address_are_a_scan() {
    let found = |ports: u16, of: &[(u8, &'static str, f64)]| {
        let (_, engine) = play(30, |second| {
            let mut client = process(7);
            client.counts.connects[ConnectResult::Refused as usize] = 10 * second;
            let ports = of.iter().flat_map(|(last, reason, share)| {
                let share = share / f64::from(ports);
                (1..=ports).map(move |port| failed([10, 0, 0, *last], port, reason, share))
            });
            client.culprits.connects = ports.collect();
            Sample {
                processes: vec![client],
                ..Sample::default()
            }
        });
        let finding = &engine.board().entries().next().unwrap().finding;
        let Evidence::Connects { scanned, .. } = &finding.evidence else {
            panic!("{finding:?}");
        };
        let scanned = scanned.map(|it| (it.address.to_string(), it.ports));
        (finding.causes[0].cause.id, finding.severity, scanned)
    };
    let scan = Some(("10.0.0.7".to_owned(), 15));
    let refused = (7, "refused", 1.0);
    assert_eq!(found(15, &[refused]), ("scans", Severity::Warning, scan));
    let none = ("nothing_listens", Severity::Critical, None);
    assert_eq!(found(14, &[refused]), none);
    // As many ports of two addresses: no more than half of the failures.
    let half = [(7, "refused", 0.5), (8, "refused", 0.5)];
    assert_eq!(found(15, &half), none);
    assert_eq!(found(15, &[(7, "timed_out", 1.0)]), none);
}

/// Ports that were tried once are forgotten while others are tried.
#[test]
fn a_scan_goes_on_until_one_port_stands_out() {
    let cause = |share: f64| {
        let (_, engine) = play(60, |second| {
            let (ports, share) = if second < 30 { (20, 0.05) } else { (4, share) };
            let mut client = process(7);
            client.counts.connects[ConnectResult::Refused as usize] = 10 * second;
            let ports = (1..=ports).map(|port| failed([10, 0, 0, 7], port, "refused", share));
            client.culprits.connects = ports.collect();
            Sample {
                processes: vec![client],
                ..Sample::default()
            }
        });
        let finding = &engine.board().entries().next().unwrap().finding;
        (finding.causes[0].cause.id, finding.severity)
    };
    assert_eq!(cause(0.05), ("scans", Severity::Warning));
    assert_eq!(cause(0.25), ("nothing_listens", Severity::Critical));
}

#[test]
fn a_local_address_that_cannot_be_used_is_no_lack_of_ports() {
    let cause = |searches: u64| {
        causes_of(30, |second| {
            let mut counts = Counts::default();
            counts.connects[ConnectResult::AddressNotAvailable as usize] = 10 * second;
            counts.port_searches_failed = searches * second;
            counts
        })
    };
    assert_eq!(cause(10), ["no_local_port"]);
    assert_eq!(cause(0), ["local_address"]);
}

/// Beside successes, attempts that fail because the host has no IPv6 do not count as failures, nor their destinations.
#[test]
fn destinations_are_those_of_failures() {
    let share = |address: &str, reason, share| {
        let address: std::net::IpAddr = address.parse().unwrap();
        failed(address, 80, reason, share)
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

/// Two clients of a listener that does not accept: a process, and a name whose processes have ended.
#[test]
fn a_full_listener_explains_its_clients() {
    let raised_at = |to: &str, reason, netns, share: f64, emfile| {
        let at: std::net::SocketAddr = to.parse().unwrap();
        let (_, engine) = play(30, |second| {
            let mut server = process(8);
            server.counts.exhausted = [emfile * second, 0];
            let mut counts = Counts::default();
            counts.connects[ConnectResult::GaveUp as usize] = 10 * second;
            let culprits = Culprits {
                connects: vec![PeerShare {
                    netns,
                    ..failed(at.ip(), at.port(), reason, share)
                }],
                ..Culprits::default()
            };
            Sample {
                processes: vec![
                    Process {
                        counts,
                        culprits: culprits.clone(),
                        ..process(7)
                    },
                    server,
                ],
                names: vec![Name {
                    counts,
                    culprits,
                    ..Name::new(Arc::new(Labels::name("daemon-83", "")))
                }],
                listeners: vec![Listener {
                    queued_at: vec!["10.0.0.8:80".parse().unwrap()],
                    ..full_listener(second)
                }],
                ..Sample::default()
            }
        });
        let full = engine.board().all_raised(Anomaly::ListenOverflow);
        assert_eq!(full.count(), usize::from(emfile == 0));
        let all = engine.board().all_raised(Anomaly::ConnectFailures);
        all.count()
    };
    let raised = |to: &str, reason, netns, share| raised_at(to, reason, netns, share, 0);
    assert_eq!(raised("127.0.0.1:80", "gave_up", 1, 1.0), 0);
    assert_eq!(raised("127.0.0.1:80", "timed_out", 1, 0.6), 0);
    assert_eq!(raised("127.0.0.1:80", "gave_up", 1, 0.5), 2);
    assert_eq!(raised("127.0.0.1:80", "refused", 1, 1.0), 2);
    assert_eq!(raised("127.0.0.1:81", "gave_up", 1, 1.0), 2);
    assert_eq!(raised("127.0.0.1:80", "gave_up", 2, 1.0), 2);
    // Perhaps another host.
    assert_eq!(raised("10.0.0.9:80", "gave_up", 1, 1.0), 2);
    // Connections to it wait there.
    assert_eq!(raised("10.0.0.8:80", "gave_up", 1, 1.0), 0);
    assert_eq!(raised("10.0.0.8:80", "gave_up", 2, 1.0), 2);
    // What is wrong with the server is that it has no descriptor left.
    assert_eq!(raised_at("127.0.0.1:80", "gave_up", 1, 1.0, 5), 0);
}

#[test]
fn clients_that_wait_for_a_full_listener_wait_for_its_program() {
    use observer_common::{TLS_CLIENT, TLS_SERVER, WAIT_PEER_FIRST_BYTE};

    use crate::{
        detect::Awaited,
        walk::{Peer, PeerWait},
    };

    let raised = |port, is_client, role: u32| {
        let (_, engine) = play(40, |second| {
            let mut client = process(7);
            let peer = Peer {
                netns: 1,
                address: "127.0.0.1".parse().unwrap(),
                port,
                is_client,
            };
            let wait = PeerWait {
                owner: (0, 0),
                peer,
                waits_for: WAIT_PEER_FIRST_BYTE,
                is_judged: true,
                connections: 10,
                longest_ms: 20_000,
                server: None,
            };
            client.peers = vec![Awaited { wait, server: None }];
            let waits = &mut client.waits;
            waits.connections = 10;
            waits.in_use_of_clients = 10;
            waits.unanswered = 10;
            client.handshakes.slow[role as usize] = 10;
            Sample {
                processes: vec![client],
                listeners: vec![full_listener(second)],
                ..Sample::default()
            }
        });
        [Anomaly::ReadStall, Anomaly::TlsStall].map(|it| engine.board().all_raised(it).count())
    };
    assert_eq!(raised(80, false, TLS_CLIENT), [0, 0]);
    assert_eq!(raised(81, false, TLS_CLIENT), [1, 1]);
    // Its own clients do not finish their handshakes.
    assert_eq!(raised(80, false, TLS_SERVER), [0, 1]);
    assert_eq!(raised(80, true, TLS_CLIENT), [1, 1]);
}

/// They have timeouts of their own, shorter than the time after which connections that wait for accept() are a finding.
#[test]
fn clients_of_a_listener_that_fills_do_not_give_up_first() {
    let raised = |backlog, port| {
        let (changes, _) = play(30, |second| {
            let mut client = process(7);
            client.counts.gave_up[0] = 5 * second;
            client.counts.ended = 5 * second;
            client.not_closed_by_peer = 5 * second as u32;
            let mut peer = failed([10, 0, 0, 8], port, "", 1.0);
            peer.reason = None;
            client.culprits.gave_up = vec![peer];
            let listener = Listener {
                overflows: 0,
                fullest: 0.1,
                backlog,
                queued_at: vec!["10.0.0.8:80".parse().unwrap()],
                ..full_listener(second)
            };
            Sample {
                processes: vec![client],
                listeners: vec![listener],
                ..Sample::default()
            }
        });
        changes.len()
    };
    assert_eq!(raised(3, 80), 0);
    assert_eq!(raised(2, 80), 1);
    assert_eq!(raised(3, 81), 1);
}

/// It drops requests.
fn full_listener(second: u64) -> Listener {
    Listener {
        sockets: 1,
        backlog: 128,
        max_backlog: 128,
        fullest: 1.0,
        overflows: 10 * second,
        holders: vec![holder(8)],
        ..Listener::new(ListenAddress {
            netns: 1,
            address: "0.0.0.0:80".parse().unwrap(),
        })
    }
}
