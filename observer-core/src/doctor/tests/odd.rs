//! Notes about what no detector raises.

use super::*;
use crate::detect::PeerShare;

/// Summary and hints of the notes about this.
fn notes_about(odd: &Odd, findings: &[Finding], sysctls: &Sysctls) -> Vec<(String, Vec<String>)> {
    let report = report_with(findings, &[], &[], odd, sysctls);
    let notes = report.findings.into_iter();
    let notes = notes.filter(|it| it.anomaly.is_none());
    notes
        .map(|it| {
            assert_eq!(it.severity, Severity::Note);
            let hints = it.holds_for.into_iter().map(|it| it.hint);
            (it.summary, hints.collect())
        })
        .collect()
}

#[test]
fn clients_that_never_connect_are_odd() {
    let notes = |refused, ok| {
        let mut counts = Counts::default();
        counts.connects[ConnectResult::Refused as usize] = refused;
        counts.connects[ConnectResult::NetUnreachable as usize] = 100;
        counts.connects[ConnectResult::Ok as usize] = ok;
        let odd = Odd {
            connects: vec![Counted {
                labels: Arc::new(Labels::name("cron", "")),
                netns: Some(NETNS),
                counts,
            }],
            ..Odd::default()
        };
        notes_about(&odd, &[], &Sysctls::default())
    };
    let [(summary, hints)] = &notes(5, 0)[..] else {
        panic!("one note");
    };
    assert!(
        summary.starts_with("cron: none of its connects"),
        "{summary}"
    );
    assert!(summary.ends_with("and 5 have failed"), "{summary}");
    assert_eq!(hints, &["nothing-listens"]);
    assert_eq!(notes(5, 1), []);
    // A host without IPv6.
    assert_eq!(notes(0, 0), []);
}

/// A server has clients that do not speak TLS; one whose certificate nobody trusts has hardly any others.
#[test]
fn handshakes_most_of_which_fail_are_odd() {
    let notes = |client: [u64; 2], server: [u64; 2], served: u64| {
        let mut counts = Slot::zeroed();
        counts.tls.ended[2][1] = [served, 0];
        let lately = [client, server, [0, 0]];
        let labels = Arc::new(Labels::name("api", "api.service"));
        let odd = Odd {
            handshakes: FailedHandshakes::of(&labels, &lately, &counts.tls).collect(),
            ..Odd::default()
        };
        notes_about(&odd, &[], &Sysctls::default())
    };
    let expected = (
        "api (api.service): 1,000 of its 1,002 TLS handshakes as a client have failed in the last 10 min"
            .to_owned(),
        vec!["tls-fails".to_owned()],
    );
    assert_eq!(notes([2, 1_000], [1, 50], 1), [expected]);
    assert_eq!(notes([0, 9], [0, 0], 0), []);
    // Health checks at night.
    assert_eq!(notes([0, 0], [0, 50], 1), []);
    assert_eq!(notes([0, 0], [0, 50], 0).len(), 1);
}

/// One incident has one finding, of the client, also after it is over.
#[test]
fn handshakes_of_a_finding_are_not_odd() {
    let are_of = |name: &str, role: &'static str, port| {
        let peer = PeerShare {
            netns: NETNS,
            address: [127, 0, 0, 1].into(),
            port: 443,
            is_client: false,
            reason: None,
            share: 1.0,
            elsewhere: None,
        };
        let client = Finding {
            anomaly: Anomaly::TlsFailures,
            labels: Some(Arc::new(Labels::process(7, "client", ""))),
            evidence: Evidence::Handshakes {
                failed: 30,
                handshakes: 30,
                seconds: 10,
                peers: vec![peer],
            },
            ..exhausted(detect::Severity::Critical)
        };
        let place = ListenAddress {
            netns: NETNS,
            address: ([0, 0, 0, 0], port).into(),
        };
        let failed = FailedHandshakes {
            labels: Arc::new(Labels::name(name, "")),
            role,
            failed: 30,
            succeeded: 0,
        };
        failed.are_of(&[client], &[(place, Arc::new(Labels::name("server", "")))])
    };
    assert!(are_of("client", "client", 443));
    assert!(are_of("client", "unknown", 443));
    assert!(!are_of("client", "server", 443));
    assert!(are_of("server", "server", 443));
    assert!(!are_of("server", "client", 443));
    assert!(!are_of("server", "server", 444));
}

#[test]
fn stray_clients_are_odd_unless_they_are_found() {
    let source = |address: &str, segments| Source {
        netns: NETNS,
        address: address.parse().unwrap(),
        ports: [1 << 7, 0, 0, 0],
        segments,
        last_at: Duration::ZERO,
    };
    let odd = Odd {
        strays: vec![
            source("127.0.0.1", 20),
            source("10.0.0.7", 1_200),
            source("10.0.0.8", 9),
        ],
        ..Odd::default()
    };
    let notes = |findings: &[Finding]| {
        let notes = notes_about(&odd, findings, &Sysctls::default());
        notes.into_iter().map(|it| it.0).collect::<Vec<_>>()
    };
    let remote = format!(
        "10.0.0.7 tries a closed port of this host (network namespace {NETNS}): 1,200 segments within a minute"
    );
    let local = format!(
        "a program of this host (127.0.0.1) tries a closed port of network namespace {NETNS}: 20 segments within a \
         minute"
    );
    assert_eq!(notes(&[]), [remote.clone(), local]);
    let client = Finding {
        anomaly: Anomaly::ConnectFailures,
        netns: Some(NETNS),
        ..exhausted(detect::Severity::Warning)
    };
    assert_eq!(notes(&[client]), [remote]);
}

#[test]
fn stray_clients_of_this_host_are_named() {
    let refused = |name, netns: &[u32], count, to: &[(u32, &str)]| Refused {
        labels: Arc::new(Labels::name(name, "")),
        netns: netns.to_vec(),
        count,
        to: to
            .iter()
            .map(|(netns, to)| (*netns, to.parse().unwrap()))
            .collect(),
    };
    let odd = Odd {
        strays: ["127.0.0.1", "10.0.0.7"]
            .map(|address| Source {
                netns: NETNS,
                address: address.parse().unwrap(),
                ports: [1 << 7, 0, 0, 0],
                segments: 20,
                last_at: Duration::ZERO,
            })
            .to_vec(),
        refused: vec![
            refused("cron", &[NETNS], 3, &[]),
            refused(
                "nginx",
                &[NETNS, 1],
                800,
                &[(1, "127.0.0.1:81"), (NETNS, "127.0.0.1:8003")],
            ),
            refused("other", &[1], 900, &[]),
        ],
        ..Odd::default()
    };
    let notes = notes_about(&odd, &[], &Sysctls::default());
    let expected =
        "connects refused since the observer started: nginx (800 to 127.0.0.1:8003), cron (3)";
    assert!(notes[0].0.ends_with(expected), "{notes:?}");
    assert!(
        notes[1].0.ends_with("20 segments within a minute"),
        "{notes:?}"
    );
}

/// A proxy has two connections for each answer, a client has one.
#[test]
fn answers_that_are_cut_off_are_odd() {
    let notes = |opened, accepted, ended, sent: [(SentReset, u64); 2]| {
        let mut counts = Counts {
            accepted,
            ended,
            ..Counts::default()
        };
        counts.connects[ConnectResult::Ok as usize] = opened;
        for (class, count) in sent {
            counts.resets_sent[class as usize] = count;
        }
        let odd = Odd {
            cut_off: vec![Counted {
                labels: Arc::new(Labels::name("socat", "")),
                netns: Some(NETNS),
                counts,
            }],
            ..Odd::default()
        };
        let notes = notes_about(&odd, &[], &Sysctls::default()).into_iter();
        notes.flat_map(|it| it.1).collect::<Vec<_>>()
    };
    let late = |count: u64| {
        [
            (SentReset::DataAfterClose, count - 5),
            (SentReset::UnreadAfterShutdown, 5),
        ]
    };
    assert_eq!(notes(40, 0, 40, late(20)), ["half-close"]);
    assert_eq!(notes(40, 0, 40, late(19)), [""; 0]);
    assert_eq!(notes(40, 0, 41, late(20)), [""; 0]);
    assert_eq!(notes(40, 40, 80, late(20)), ["half-close"]);
    assert_eq!(notes(0, 40, 40, late(20)), ["closes-first", "refuses"]);
    let healthy = [(SentReset::LingerZero, 40), (SentReset::UnreadData, 40)];
    assert_eq!(notes(40, 0, 40, healthy), [""; 0]);
}

#[test]
fn fast_open_of_a_listener_is_odd_without_its_bit() {
    let odd = Odd {
        fast_open: vec![FastOpen {
            place: ListenAddress {
                netns: NETNS,
                address: ([127, 0, 0, 1], 80).into(),
            },
            labels: Arc::new(Labels::name("web", "web.service")),
        }],
        ..Odd::default()
    };
    let notes = |value: Option<u64>| {
        let value = value.map(|it| ("net.ipv4.tcp_fastopen", it));
        let sysctls = Sysctls {
            host: [].into(),
            namespaces: [(NETNS, value.into_iter().collect())].into(),
        };
        notes_about(&odd, &[], &sysctls)
    };
    let summary =
        "the listener 127.0.0.1:80 of web (web.service) sets TCP_FASTOPEN, which has no effect";
    let expected = [(summary.to_owned(), vec!["fastopen-listener".to_owned()])];
    assert_eq!(notes(Some(1)), expected);
    assert_eq!(notes(Some(3)), []);
    assert_eq!(notes(None), []);
}
