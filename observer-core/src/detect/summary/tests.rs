use std::sync::Arc;

use observer_common::{WAIT_PEER, WAIT_PEER_FIRST_BYTE};

use super::*;
use crate::{
    detect::{
        Anomaly, Awaited, Breakdown, Cause, Direction, Elsewhere, Evidence, Holder, KindCount,
        PeerShare, Scanned, Waiting, cause,
    },
    table::{Labels, ListenAddress, fake::key},
    walk::{Destination, Peer, PeerWait},
};

fn process() -> (Subject, Option<Labels>) {
    let key = key(5674, 1);
    let labels = Labels::process(5674, "api", "api.service");
    (Subject::Process(key), Some(labels))
}

fn destination() -> (Subject, Option<Labels>) {
    let to = Destination {
        netns: 1,
        source: [10, 0, 0, 1].into(),
        remote: ([10, 0, 9, 12], 5432).into(),
    };
    let labels = Labels::name("php-fpm", "");
    (Subject::Destination(to), Some(labels))
}

fn listener() -> (Subject, Option<Labels>) {
    let place = ListenAddress {
        netns: 1,
        address: ([0, 0, 0, 0], 8080).into(),
    };
    let labels = Labels::process(7, "api", "");
    (Subject::Listener(place), Some(labels))
}

fn namespace() -> (Subject, Option<Labels>) {
    (Subject::Namespace(4_026_531_840), None)
}

fn finding(
    anomaly: Anomaly,
    (subject, labels): (Subject, Option<Labels>),
    time_left: Option<u64>,
    evidence: Evidence,
    causes: &[(&'static Cause, u64)],
) -> Finding {
    let mut causes = cause::explain(causes);
    crate::detect::Host::default().advise(&mut causes, None, false);
    Finding {
        netns: subject.netns(),
        anomaly,
        subject,
        labels: labels.map(Arc::new),
        severity: Severity::Critical,
        score: 2.0,
        time_left: time_left.map(Duration::from_secs),
        since: Duration::from_secs(100),
        evidence,
        causes,
    }
}

fn resets(direction: Direction, peer_pid: Option<u32>) -> Evidence {
    Evidence::Resets {
        direction,
        per_second: 140.2,
        baseline: Some(0.52),
        share: 0.62,
        sent: Breakdown::default(),
        received: Breakdown::default(),
        peer_pid,
        peer: peer_pid.map(|pid| Arc::new(Labels::process(pid, "envoy", ""))),
        peers: Vec::new(),
    }
}

#[test]
fn a_storm_that_is_sent() {
    let causes = [(&cause::UNREAD, 1)];
    let evidence = resets(Direction::Sent, None);
    let finding = finding(Anomaly::RstStorm, process(), None, evidence, &causes);
    assert_eq!(
        finding_summary(&finding),
        "api (pid 5674, api.service) aborts connections: sends 140 RSTs/s, for 62 % of those that \
         end (normal here: 0.5/s); cause: closes connections with unread data; fix: After \
         shutdown(SHUT_WR), read to the end, then close. If a timeout ends the connection, make it longer than the answer takes"
    );
}

#[test]
fn causes_that_hold_together_have_no_shares() {
    let both = [&cause::SHORT_CONNECTIONS, &cause::SMALL_RANGE];
    let both = both.map(|cause| Explanation::new(cause, 0.99));
    assert_eq!(
        causes(&both).unwrap(),
        "causes: opens a connection for each request; each closed one keeps its port for 60 \
         seconds; and few local ports are available: a small ip_local_port_range, reserved or \
         bound ports"
    );
}

#[test]
fn what_is_normal_for_a_new_process_is_not_known() {
    let mut evidence = resets(Direction::Sent, None);
    if let Evidence::Resets { baseline, .. } = &mut evidence {
        *baseline = None;
    }
    let finding = finding(Anomaly::RstStorm, process(), None, evidence, &[]);
    assert_eq!(
        finding_summary(&finding),
        "api (pid 5674, api.service) aborts connections: sends 140 RSTs/s, for 62 % of those that end"
    );
}

#[test]
fn a_storm_that_is_received_has_several_causes() {
    let causes = [(&cause::PEER_ABORTS, 5), (&cause::PEER_LEFT, 4)];
    let labels = Labels::name("api", "");
    let name = (Subject::Name(Arc::new(labels.clone())), Some(labels));
    let mut evidence = resets(Direction::Received, Some(77));
    if let Evidence::Resets { peers, .. } = &mut evidence {
        *peers = vec![share(7, true, None, 0.8), share(8, false, None, 0.2)];
    }
    let finding = finding(Anomaly::RstStorm, name, None, evidence, &causes);
    assert_eq!(
        finding_summary(&finding),
        "api (all processes) has connections aborted: receives 140 RSTs/s, for 62 % of those that \
         end (normal here: 0.5/s); 80 % with the client 10.0.0.7 of port 443, 20 % with 10.0.0.8:443; the other end is \
         mostly envoy (pid 77) of this host; causes: peers abort established \
         connections: they cancel requests or restart, or a device between the hosts times out (56 %), or \
         continues writing after the peer has closed: the peer closed early, or misuses half-close (44 %); \
         fix: Find out why the other side, or a device between, aborts: the finding names the peers, and \
         `observer tail` shows each RST"
    );
}

fn share(last: u8, is_client: bool, reason: Option<&'static str>, share: f64) -> PeerShare {
    PeerShare {
        netns: 1,
        address: [10, 0, 0, last].into(),
        port: 443,
        is_client,
        reason,
        share,
        elsewhere: None,
    }
}

fn connects(failed: u64, waiting: u32, peers: &[PeerShare], waiting_peers: &[PeerShare]) -> String {
    let evidence = Evidence::Connects {
        failed,
        attempts: 50,
        seconds: 120,
        waiting,
        results: Breakdown::new([("ok", 5), ("timed_out", 5), ("refused", 40)]),
        peers: peers.to_vec(),
        waiting_peers: waiting_peers.to_vec(),
        scanned: None,
    };
    finding_summary(&finding(
        Anomaly::ConnectFailures,
        process(),
        None,
        evidence,
        &[],
    ))
}

const CONNECTING: &str = "api (pid 5674, api.service) cannot connect:";
const FAILED: &str = "45 of 50 connects failed in 2 min (89 % refused, 11 % timed out)";

#[test]
fn failed_connects() {
    assert_eq!(connects(45, 0, &[], &[]), format!("{CONNECTING} {FAILED}"));
    assert_eq!(
        connects(0, 1_200, &[], &[]),
        format!("{CONNECTING} 1,200 connections have waited for an answer for over 3 s")
    );
    assert_eq!(
        connects(45, 1, &[], &[]),
        format!("{CONNECTING} {FAILED}; 1 connection has waited for an answer for over 3 s")
    );
}

#[test]
fn a_scan_has_no_single_destination() {
    let evidence = Evidence::Connects {
        failed: 181,
        attempts: 181,
        seconds: 10,
        waiting: 0,
        results: Breakdown::new([("refused", 181)]),
        peers: vec![share(7, false, Some("refused"), 0.01)],
        waiting_peers: Vec::new(),
        scanned: Some(Scanned {
            address: [10, 0, 0, 7].into(),
            ports: 64,
        }),
    };
    let finding = finding(Anomaly::ConnectFailures, process(), None, evidence, &[]);
    assert_eq!(
        finding_summary(&finding),
        "api (pid 5674, api.service) tries ports of 10.0.0.7, at least 64: 181 of 181 connects failed in 10 s \
         (all refused)"
    );
}

#[test]
fn failed_connects_name_their_destinations() {
    let refused = Some("refused");
    let alike = [(7, 0.52), (8, 0.38), (9, 0.06), (6, 0.04)]
        .map(|(last, part)| share(last, false, refused, part));
    assert_eq!(
        connects(45, 12, &alike, &[share(5, false, None, 1.0)]),
        format!(
            "{CONNECTING} {FAILED}: 52 % to 10.0.0.7:443, 38 % to 10.0.0.8:443, 6 % to 10.0.0.9:443; \
             12 connections have waited for an answer for over 3 s: all to 10.0.0.5:443"
        )
    );
    let listens = |addresses: &[&str], labels: Option<Labels>| PeerShare {
        elsewhere: Some(Elsewhere {
            addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
            labels: labels.map(Arc::new),
        }),
        ..share(7, false, refused, 1.0)
    };
    let nginx = Labels::process(71, "nginx", "");
    for (peer, text) in [
        (
            listens(&["127.0.0.1"], Some(nginx)),
            "nginx (pid 71) listens at 127.0.0.1 only",
        ),
        (
            listens(&["127.0.0.1", "::1"], None),
            "a program listens at 127.0.0.1 and ::1 only",
        ),
        (
            listens(
                &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "::1"],
                None,
            ),
            "a program listens at 10.0.0.1 and 10.0.0.2 and 10.0.0.3 and 2 more addresses only",
        ),
    ] {
        let all = format!("{CONNECTING} {FAILED}: all to 10.0.0.7:443, where {text}");
        assert_eq!(connects(45, 0, &[peer], &[]), all);
    }
    let different = [
        share(7, false, refused, 0.9),
        share(7, false, Some("timed_out"), 0.1),
    ];
    assert_eq!(
        connects(45, 0, &different, &[]),
        format!(
            "{CONNECTING} {FAILED}: 90 % to 10.0.0.7:443 (refused), 10 % to 10.0.0.7:443 (timed out)"
        )
    );
}

#[test]
fn peers_that_are_silent() {
    let evidence = Evidence::Unanswered {
        unanswered: 30,
        ended: 40,
        seconds: 120,
        peers: vec![share(9, false, None, 1.0)],
    };
    let causes = [(&cause::NOT_ACKNOWLEDGED, 1)];
    let finding = finding(Anomaly::SilentPeers, process(), None, evidence, &causes);
    assert_eq!(
        finding_summary(&finding),
        "api (pid 5674, api.service) loses connections that nothing answers any more: 30 of the \
         40 that ended in 2 min: all with 10.0.0.9:443; cause: what it sends is not acknowledged: a NAT or firewall \
         dropped the connections, or the peers have vanished; fix: Set SO_KEEPALIVE, and TCP_KEEPIDLE, \
         TCP_KEEPINTVL and TCP_KEEPCNT so that probes are sent before the idle timeout of the devices \
         between; and TCP_USER_TIMEOUT for data that is not acknowledged"
    );
}

#[test]
fn connections_that_wait() {
    let peer = |last, waits_for, connections| Awaited {
        wait: PeerWait {
            owner: (7, 1),
            peer: Peer {
                netns: 1,
                address: [10, 0, 0, last].into(),
                port: 443,
                is_client: false,
            },
            waits_for,
            is_judged: true,
            connections,
            longest_ms: 41_200,
            server: None,
        },
        server: (last == 7).then(|| Arc::new(Labels::process(71, "nginx", ""))),
    };
    // One peer for two reasons, and more peers than are named.
    let waits = [
        peer(9, WAIT_PEER_FIRST_BYTE, 5),
        peer(7, WAIT_PEER_FIRST_BYTE, 2),
        peer(9, WAIT_PEER, 1),
        peer(8, WAIT_PEER, 1),
        peer(6, WAIT_PEER, 1),
    ];
    let evidence = Evidence::Waits {
        waiting: 9,
        connections: 10,
        reasons: Breakdown::default(),
        longest_seconds: 41.2,
        peers: Waiting::by_peer(waits.iter()),
    };
    let finding = |anomaly| finding(anomaly, process(), None, evidence.clone(), &[]);
    assert_eq!(
        finding_summary(&finding(Anomaly::ReadStall)),
        "api (pid 5674, api.service) waits for peers that do nothing: 9 of its 10 connections, the longest for 41 s: \
         6 with 10.0.0.9:443, 2 with 10.0.0.7:443, which is nginx (pid 71), 1 with 10.0.0.8:443"
    );
    assert!(
        finding_summary(&finding(Anomaly::ProgramNotReading))
            .contains("does not read what it was sent: 9 of")
    );
    assert!(
        finding_summary(&finding(Anomaly::TlsStall)).starts_with(
            "api (pid 5674, api.service) has TLS handshakes that do not end: 9 of its 10 connections, the longest for 41 s: 6 with"
        )
    );
}

#[test]
fn handshakes_that_fail() {
    let handshakes = |peers: &[PeerShare]| {
        let evidence = Evidence::Handshakes {
            failed: 1_200,
            handshakes: 1_210,
            seconds: 120,
            peers: peers.to_vec(),
        };
        let causes = [(&cause::HANDSHAKES_REFUSED, 1)];
        let anomaly = Anomaly::TlsFailures;
        finding_summary(&finding(anomaly, process(), None, evidence, &causes))
    };
    let text = "api (pid 5674, api.service) cannot complete TLS handshakes: 1,200 of 1,210 failed in 2 min";
    let cause = "cause: one end refuses the TLS handshake: the server's certificate has expired,";
    assert!(handshakes(&[]).starts_with(&format!("{text}; {cause}")));
    let peers = [share(9, false, None, 1.0)];
    let with = "connections meanwhile: all with 10.0.0.9:443";
    assert!(handshakes(&peers).starts_with(&format!("{text}; {with}; {cause}")));
}

#[test]
fn connections_that_carry_nothing() {
    let evidence = Evidence::Idle {
        idle: 340,
        idle_10min: 200,
        connections: 350,
        growth_per_second: 0.5,
    };
    let finding = finding(Anomaly::IdlePoolLeak, process(), None, evidence, &[]);
    assert_eq!(
        finding_summary(&finding),
        "api (pid 5674, api.service) keeps more and more connections that carry nothing: 340 of its 350, 200 of them \
         for over 10 minutes, 30 more a minute"
    );
}

fn ports(failed_searches: u64) -> Evidence {
    Evidence::Ports {
        blocked: 14_900,
        available: 28_232,
        live: 298,
        time_wait: 14_602,
        opened_per_second: 560.4,
        end: 1.18,
        failed_searches,
        holders: vec![Holder {
            process: None,
            labels: Arc::new(Labels::name("php-fpm", "")),
            count: 14_900,
        }],
    }
}

#[test]
fn ports_for_a_destination() {
    let of = |anomaly, left, failed| {
        finding_summary(&finding(anomaly, destination(), left, ports(failed), &[]))
    };
    let who = "php-fpm from 10.0.0.1 to 10.0.9.12:5432";
    let numbers = "14,900 of 28,232 are blocked, 98 % of them in TIME_WAIT, and 560 \
                   connections/s are opened";
    assert_eq!(
        of(Anomaly::PortExhaustion, Some(24), 0),
        format!("{who} runs out of local ports in 24 s: {numbers}")
    );
    assert_eq!(
        of(Anomaly::PortExhaustion, None, 3),
        format!("{who} is out of local ports, 3 calls found none in 10 s: {numbers}")
    );
    let mut ended = ports(0);
    if let Evidence::Ports {
        opened_per_second, ..
    } = &mut ended
    {
        *opened_per_second = 0.0;
    }
    let ended = finding(Anomaly::PortExhaustion, destination(), None, ended, &[]);
    assert!(
        finding_summary(&ended)
            .contains("has blocked most local ports: 14,900 of 28,232 are blocked"),
        "{}",
        finding_summary(&ended)
    );
    assert_eq!(
        of(Anomaly::TimeWaitSurge, None, 0),
        format!(
            "{who} leaves most local ports in TIME_WAIT: {numbers}; 100 % will be blocked at \
             this rate"
        )
    );
}

#[test]
fn ports_of_a_namespace() {
    let evidence = Evidence::Ports {
        blocked: 15_000,
        available: 28_232,
        live: 1_500,
        time_wait: 13_500,
        opened_per_second: 500.0,
        end: 1.1,
        failed_searches: 0,
        holders: Vec::new(),
    };
    let finding = finding(
        Anomaly::PortExhaustion,
        namespace(),
        Some(26),
        evidence,
        &[],
    );
    assert_eq!(
        finding_summary(&finding),
        "network namespace 4026531840 runs out of local ports in 26 s: 15,000 of 28,232 are \
         taken by bind(), 90 % of them in TIME_WAIT, and 500 connections/s are bound"
    );
}

#[test]
fn overflows_of_time_wait() {
    let evidence = Evidence::TimeWaitOverflows { overflows: 1_200 };
    let finding = finding(Anomaly::TimeWaitOverflow, namespace(), None, evidence, &[]);
    assert_eq!(
        finding_summary(&finding),
        "network namespace 4026531840 closed 1,200 connections without TIME_WAIT in 10 s"
    );
}

#[test]
fn descriptors() {
    let kind = |kind: &str, count| KindCount {
        kind: kind.to_owned(),
        count,
    };
    let newest = vec![kind("pipes", 200), kind("files in /tmp", 56)];
    let of = |anomaly, left, open, growth_per_second, emfile| {
        let peers = match anomaly {
            Anomaly::FdLeak => vec![share(9, true, None, 1.0)],
            _ => Vec::new(),
        };
        let evidence = Evidence::Descriptors {
            open,
            limit: 1_024,
            growth_per_second,
            emfile,
            enfile: 0,
            newest: newest.clone(),
            peers,
        };
        finding_summary(&finding(anomaly, process(), left, evidence, &[]))
    };
    assert_eq!(
        of(Anomaly::FdLeak, Some(1_222), 800, 11.0 / 60.0, 0),
        "api (pid 5674, api.service) has 800 of 1,024 file descriptors open, 11 more a minute; \
         none is left in 20 min 22 s; the newest are pipes (200), files in /tmp (56); \
         connections: all with the client 10.0.0.9 of port 443"
    );
    assert_eq!(
        of(Anomaly::FdExhaustion, Some(0), 1_024, 0.0, 212),
        "api (pid 5674, api.service) has 1,024 of 1,024 file descriptors open; calls fail, 212 \
         with EMFILE (too many open files) in the last seconds; the newest are pipes (200), files in /tmp (56)"
    );
}

#[test]
fn sockets_in_close_wait() {
    let of = |over_10s, over_60s, peers: &[PeerShare]| {
        let evidence = Evidence::CloseWait {
            over_10s,
            over_60s,
            peers: peers.to_vec(),
        };
        finding_summary(&finding(
            Anomaly::CloseWaitLeak,
            process(),
            None,
            evidence,
            &[],
        ))
    };
    assert_eq!(
        of(45, 30, &[share(9, true, None, 1.0)]),
        "api (pid 5674, api.service) does not close 45 sockets that the other side closed over \
         10 s ago, 30 of them for over a minute: all with the client 10.0.0.9 of port 443"
    );
    assert!(
        of(1, 0, &[]).ends_with("does not close 1 socket that the other side closed over 10 s ago")
    );
}

#[test]
fn early_data() {
    let of = |rejections: [(&'static str, u64); 3], failed, reset, cause| {
        let rejected = rejections.iter().map(|(_, count)| count).sum();
        let evidence = Evidence::EarlyData {
            seconds: 600,
            attempts: Breakdown::new([("accepted", 2), ("rejected", rejected), ("failed", failed)]),
            rejections: Breakdown::new(rejections),
            reset,
        };
        let causes = [(cause, 1)];
        finding_summary(&finding(
            Anomaly::Quic0RttLost,
            process(),
            None,
            evidence,
            &causes,
        ))
    };
    let start = "api (pid 5674, api.service) loses requests that it sends as early data (QUIC 0-RTT): in 10 min,";
    let cancelled = [("resumed", 1), ("cancelled", 5), ("abandoned", 0)];
    let cancelled = of(cancelled, 0, 5, &cause::CANCELLED_EARLY_STREAMS);
    assert!(
        cancelled.starts_with(&format!(
            "{start} 5 of 6 QUIC connections whose early data the server rejected had streams reset; cause: cancels streams \
             after the server has rejected its early data and before it calls NextConnection: quic-go before 0.48.0 then \
             resets the new streams, too, and their requests fail; fix: Build the program with quic-go 0.48.0 or later"
        )),
        "{cancelled}"
    );
    let abandoned = [("resumed", 0), ("cancelled", 0), ("abandoned", 4)];
    let abandoned = of(abandoned, 20, 0, &cause::NEVER_RESUMED);
    assert!(
        abandoned.starts_with(&format!(
            "{start} 4 of 4 QUIC connections whose early data the server rejected were closed, and 20 of 26 QUIC connections \
             with early data ended before the server had answered; cause: closes connections"
        )),
        "{abandoned}"
    );
}

#[test]
fn an_accept_queue() {
    let of = |sockets, accepts| {
        let evidence = Evidence::AcceptQueue {
            overflows: 38,
            backlog: 129,
            max_backlog: 128,
            fullest: 1.01,
            stalled: 0,
            stalled_seconds: 0.0,
            sockets,
            accepts,
            stuck_pid: (sockets == 8).then_some(12),
            waits: Vec::new(),
            holders: Vec::new(),
        };
        finding_summary(&finding(
            Anomaly::ListenOverflow,
            listener(),
            None,
            evidence,
            &[],
        ))
    };
    let start = "the listener 0.0.0.0:8080 of api (pid 7) dropped 38 connection requests in 10 \
                 s: 129 connections wait for accept() where 128 may";
    assert_eq!(
        of(1, 0),
        format!("{start}; none was accepted in the last seconds")
    );
    assert_eq!(
        of(8, 1_500),
        format!(
            "{start} over 8 sockets, the fullest 100 % full; 1,500 were accepted in the last \
             seconds, none by pid 12"
        )
    );
}

#[test]
fn a_scan() {
    let source = Subject::Source {
        netns: 1,
        address: [198, 51, 100, 7].into(),
    };
    let evidence = Evidence::Scan {
        ports: 200,
        segments: 5_000,
    };
    let causes = [(&cause::SCAN, 1)];
    let finding = finding(Anomaly::SynScan, (source, None), None, evidence, &causes);
    assert_eq!(
        finding_summary(&finding),
        "198.51.100.7 tries closed ports: 5,000 segments to at least 200 ports; cause: a port \
         scan: one source tries many ports to find open ones; the source address may be forged; \
         fix: No action is required. If the source is this host (a loopback address) or another of your own, find the \
         scanning program there: its connects are refused (socket_connects_total{result=\"ECONNREFUSED\"}). Else block \
         it in the firewall"
    );
    let of_loopback = Finding {
        subject: Subject::Source {
            netns: 7,
            address: [127, 0, 0, 1].into(),
        },
        ..finding
    };
    assert_eq!(
        who(&of_loopback),
        "a program of this host (127.0.0.1) in network namespace 7"
    );
}

#[test]
fn changes_say_what_happened() {
    let evidence = Evidence::TimeWaitOverflows { overflows: 2 };
    let finding = finding(Anomaly::TimeWaitOverflow, namespace(), None, evidence, &[]);
    let of = |change, at| change_summary(&change, Duration::from_secs(at));
    let numbers = "network namespace 4026531840 closed 2 connections without TIME_WAIT in 10 s";
    assert_eq!(
        of(Change::Raised(finding.clone()), 100),
        format!("time_wait_overflow raised: {numbers}")
    );
    assert_eq!(
        of(Change::Updated(finding.clone()), 700),
        format!("time_wait_overflow is critical after 10 min: {numbers}")
    );
    assert_eq!(
        of(Change::Cleared(finding), 350),
        "time_wait_overflow cleared after 4 min 10 s: network namespace 4026531840"
    );
}

#[test]
fn a_program_cannot_forge_a_line_by_its_name() {
    let labels = Labels::process(1, "a\nERROR\u{202e}\u{1b}[2J", "\u{9b}unit\n");
    let key = key(1, 1);
    let process = (Subject::Process(key), Some(labels));
    let evidence = Evidence::CloseWait {
        over_10s: 3,
        over_60s: 0,
        peers: Vec::new(),
    };
    let finding = finding(Anomaly::CloseWaitLeak, process, None, evidence, &[]);
    let summary = finding_summary(&finding);
    assert!(!summary.chars().any(|c| c.is_control() || c == '\u{202e}'));
    assert!(summary.starts_with(r"a\x0aERROR\u{202e}\x1b[2J (pid 1, \u{9b}unit\x0a) does"));
}
