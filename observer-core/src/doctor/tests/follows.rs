//! Findings that follow from others.

use std::net::SocketAddr;

use super::*;
use crate::detect::{Breakdown, PeerShare};

/// A leak of connections that leads to the exhaustion, of which a full queue is a consequence.
#[test]
fn what_follows_from_another_says_so() {
    let explained = |cause| explained(cause, &Host::default());
    let exhausted = exhausted(detect::Severity::Warning);
    let leak = Finding {
        anomaly: Anomaly::FdLeak,
        causes: explained(&cause::FD_CONNECTIONS),
        ..exhausted.clone()
    };
    let queue = Finding {
        anomaly: Anomaly::ListenOverflow,
        subject: Subject::Listener(ListenAddress {
            netns: 1,
            address: ([0, 0, 0, 0], 80).into(),
        }),
        evidence: Evidence::AcceptQueue {
            overflows: 1,
            backlog: 1,
            max_backlog: 1,
            fullest: 1.0,
            stalled: 0,
            stalled_seconds: 0.0,
            sockets: 1,
            accepts: 0,
            holders: Vec::new(),
            stuck_pid: None,
            waits: Vec::new(),
        },
        causes: explained(&cause::ACCEPT_WITHOUT_DESCRIPTORS),
        ..exhausted.clone()
    };
    let other = Finding {
        labels: Some(Arc::new(Labels::name("other", ""))),
        ..queue.clone()
    };
    let all = [leak, exhausted, queue, other];
    let report = report(&all, &[], &Sysctls::default());
    let origins = report.findings.iter().map(|it| it.follows_from.as_ref());
    let origins: Vec<_> = origins.map(|it| it.map(|it| it.id.as_str())).collect();
    let expected = [None, Some("fd-leak"), Some("fd-exhaustion"), None];
    assert_eq!(origins, expected);
    let text = render(&report, None);
    assert!(
        text.contains("Follows from fd-leak: api\\x1b[31m (pid 5674, api.service)\n"),
        "{text}"
    );
    let [limit, unguarded] = report.findings[0].notes.as_slice() else {
        panic!("{:?}", report.findings[0].notes);
    };
    assert!(
        limit.contains("is 1024, and may be raised to 524288"),
        "{limit}"
    );
    assert!(
        unguarded.starts_with("412 of its connections"),
        "{unguarded}"
    );
    // The cause is the limit, which says nothing about connections.
    assert_eq!(report.findings[1].notes, [limit.as_str()]);
}

/// Clients of a proxy of this host that waits for its own server.
#[test]
fn a_client_waits_for_what_its_server_waits_for() {
    let of = |pid, comm: &str, netns, evidence| Finding {
        subject: Subject::Process(key(pid, 1)),
        labels: Some(Arc::new(Labels::process(
            pid,
            comm,
            &format!("{comm}.service"),
        ))),
        netns: Some(netns),
        evidence,
        ..exhausted(detect::Severity::Warning)
    };
    let waits = |peer: &str, others, server: Option<Arc<Labels>>| Evidence::Waits {
        waiting: 6,
        connections: 6,
        reasons: Breakdown::default(),
        longest_seconds: 10.0,
        peers: [(peer, 6), ("10.8.0.9:80", others)]
            .map(|(peer, connections)| {
                let at: SocketAddr = peer.parse().unwrap();
                detect::Waiting {
                    address: at.ip(),
                    port: at.port(),
                    is_client: false,
                    reason: "peer_first_byte",
                    connections,
                    server: server.clone(),
                }
            })
            .to_vec(),
    };
    let of_known = |peer, others, netns, server| {
        let client = Finding {
            anomaly: Anomaly::ReadStall,
            ..of(1, "client", NETNS, waits(peer, others, server))
        };
        let proxy = Finding {
            anomaly: Anomaly::ConnectFailures,
            ..of(
                2,
                "nginx",
                netns,
                Evidence::TimeWaitOverflows { overflows: 0 },
            )
        };
        let report = report(&[client, proxy], &[], &Sysctls::default());
        let origin = report.findings[0].follows_from.as_ref();
        origin.map(|it| format!("{}: {}", it.id, it.who))
    };
    let origin = |peer, others, netns| of_known(peer, others, netns, None);
    let expected = "connect-failures: nginx (pid 2, nginx.service)";
    assert_eq!(origin("127.0.0.1:80", 0, NETNS).as_deref(), Some(expected));
    assert_eq!(origin("127.0.0.1:80", 6, NETNS), None);
    assert_eq!(origin("127.0.0.1:81", 0, NETNS), None);
    // The listener is at all addresses of this host.
    assert_eq!(origin("10.8.0.2:80", 0, NETNS), None);
    // A proxy of the same name in a container.
    assert_eq!(origin("127.0.0.1:80", 0, 1), None);
    // The walk has seen that it is this one.
    let named = Some(Arc::new(Labels::process(3, "nginx", "nginx.service")));
    assert_eq!(
        of_known("10.8.0.2:80", 0, 1, named).as_deref(),
        Some(expected)
    );
}

/// A proxy of this host without a backend closes connections before the handshake; its certificate has nothing to do with that.
#[test]
fn handshakes_that_are_reset_follow_from_what_is_wrong_with_the_server() {
    let origin = |cause| {
        let peer = PeerShare {
            netns: NETNS,
            address: [127, 0, 0, 1].into(),
            port: 80,
            is_client: false,
            reason: None,
            share: 0.9,
            elsewhere: None,
        };
        let client = Finding {
            anomaly: Anomaly::TlsFailures,
            subject: Subject::Process(key(1, 1)),
            labels: Some(Arc::new(Labels::process(1, "client", ""))),
            netns: Some(NETNS),
            evidence: Evidence::Handshakes {
                failed: 30,
                handshakes: 30,
                seconds: 10,
                peers: vec![peer],
            },
            causes: explained(cause, &Host::default()),
            ..exhausted(detect::Severity::Warning)
        };
        let proxy = Finding {
            anomaly: Anomaly::ConnectFailures,
            subject: Subject::Process(key(2, 1)),
            labels: Some(Arc::new(Labels::process(2, "nginx", "nginx.service"))),
            netns: Some(NETNS),
            ..exhausted(detect::Severity::Warning)
        };
        let report = report(&[client, proxy], &[], &Sysctls::default());
        let origin = report.findings[0].follows_from.as_ref();
        origin.map(|it| it.who.clone())
    };
    let proxy = Some("nginx (pid 2, nginx.service)".to_owned());
    assert_eq!(origin(&cause::HANDSHAKES_RESET), proxy);
    assert_eq!(origin(&cause::HANDSHAKES_REFUSED), None);
}

#[test]
fn programs_that_wait_for_each_other_follow_from_nothing() {
    let waits_for = |pid, comm: &str, server: &str| Finding {
        anomaly: Anomaly::ReadStall,
        subject: Subject::Process(key(pid, 1)),
        labels: Some(Arc::new(Labels::process(pid, comm, ""))),
        evidence: Evidence::Waits {
            waiting: 6,
            connections: 6,
            reasons: Breakdown::default(),
            longest_seconds: 10.0,
            peers: vec![detect::Waiting {
                address: [10, 0, 0, 9].into(),
                port: 80,
                is_client: false,
                reason: "peer_first_byte",
                connections: 6,
                server: Some(Arc::new(Labels::name(server, ""))),
            }],
        },
        ..exhausted(detect::Severity::Warning)
    };
    let follows = |findings: &[Finding]| {
        let report = report(findings, &[], &Sysctls::default());
        let all = report.findings.iter();
        all.map(|it| it.follows_from.as_ref().map(|it| it.who.clone()))
            .collect::<Vec<_>>()
    };
    let [a, b, c] = [(1, "a", "b"), (2, "b", "a"), (3, "c", "a")]
        .map(|(pid, comm, server)| waits_for(pid, comm, server));
    assert_eq!(follows(&[a.clone(), b]), [None, None]);
    assert_eq!(follows(&[a, c]), [None, Some("a (pid 1)".to_owned())]);
}

#[test]
fn a_scan_by_a_program_of_this_host_is_that_of_the_program() {
    let origin = |address: &str, cause| {
        let scan = Finding {
            anomaly: Anomaly::SynScan,
            subject: Subject::Source {
                netns: NETNS,
                address: address.parse().unwrap(),
            },
            labels: None,
            ..exhausted(detect::Severity::Warning)
        };
        let client = Finding {
            anomaly: Anomaly::ConnectFailures,
            netns: Some(NETNS),
            causes: explained(cause, &Host::default()),
            ..exhausted(detect::Severity::Warning)
        };
        let report = report(&[scan, client], &[], &Sysctls::default());
        report.findings[0]
            .follows_from
            .as_ref()
            .map(|it| it.id.clone())
    };
    let client = Some("connect-failures".to_owned());
    assert_eq!(origin("127.0.0.1", &cause::SCANS), client);
    assert_eq!(origin("127.0.0.1", &cause::NOTHING_LISTENS), None);
    assert_eq!(origin("10.0.0.7", &cause::SCANS), None);
}
