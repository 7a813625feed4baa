//! Ports that run out.

use super::*;

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

/// A server does not close connections that its client has closed: their sockets are timewait ones in the substate FIN_WAIT2.
#[test]
fn ports_of_connections_that_the_peer_keeps_are_no_time_wait() {
    for (fin_wait2, expected, time_wait) in
        [(100, "short_connections", 900), (1_000, "not_closed", 0)]
    {
        let (_, engine) = play(10, |_| Sample {
            ports: vec![Ports {
                fin_wait2,
                ..ports(1_000, 1_000)
            }],
            ..Sample::default()
        });
        let finding = &engine.board().entries().next().unwrap().finding;
        assert_eq!(finding.causes[0].cause.id, expected);
        let json = serde_json::to_value(finding).unwrap();
        assert_eq!(json["evidence"]["time_wait"], time_wait);
    }
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
