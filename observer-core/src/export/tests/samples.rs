//! Which samples there are, and their values.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use observer_common::{
    SIGNAL_CONNECT, SIGNAL_RESET_SENT, SIGNAL_STATE, SIGNAL_TIME_WAIT, SIGNAL_TIME_WAIT_END,
    SIGNAL_TIME_WAIT_OVERFLOW,
};

use super::{Series, exporter, exporter_of, kernel, parse, text};
use crate::{
    contract::{Status, Verdict},
    export::{ProcessMetrics, family::METRICS, metric::Scope},
    process::{Unit, UnitKind},
    table::{OTHER, Table, TableConfig, UNATTRIBUTED, fake::FakeFacts},
};

fn series(name: &str, labels: &[(&str, &str)]) -> Series {
    let labels: BTreeMap<String, String> = labels
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    (name.to_owned(), labels)
}

/// `back\slash`, as no name begins with a backslash that is not ours.
const NAME: [(&str, &str); 2] = [("comm", "back\\slash"), ("unit", "")];

fn value(samples: &BTreeMap<Series, f64>, name: &str, extra: &[(&str, &str)]) -> Option<f64> {
    let pid = name
        .starts_with("socket_process_")
        .then_some(("pid", "101"));
    let labels: Vec<_> = pid.iter().chain(&NAME).chain(extra).copied().collect();
    samples.get(&series(name, &labels)).copied()
}

#[test]
fn a_name_and_a_process_show_what_the_slot_holds() {
    let samples = parse(&text(&exporter(kernel(), TableConfig::default())));
    let value = |name: &str, extra: &[(&str, &str)]| value(&samples, name, extra);
    for (name, extra, expected) in [
        (
            "socket_connections",
            &[("state", "ESTABLISHED")][..],
            Some(3.0),
        ),
        ("socket_connections", &[("state", "CLOSE_WAIT")], Some(0.0)),
        ("socket_connections", &[("state", "LISTEN")], Some(1.0)),
        ("socket_connections", &[("state", "FIN_WAIT1")], None),
        ("socket_connections", &[("state", "CLOSE")], None),
        (
            "socket_state_transitions_total",
            &[("from", "SYN_SENT"), ("to", "ESTABLISHED")],
            Some(4.0),
        ),
        ("socket_connects_total", &[("result", "ok")], Some(4.0)),
        (
            "socket_connects_total",
            &[("result", "ECONNREFUSED")],
            Some(1.0),
        ),
        ("socket_connects_total", &[("result", "ETIMEDOUT")], None),
        ("socket_accepts_total", &[], Some(2.0)),
        (
            "socket_connect_seconds_bucket",
            &[("le", "0.0005")],
            Some(0.0),
        ),
        (
            "socket_connect_seconds_bucket",
            &[("le", "0.0025")],
            Some(3.0),
        ),
        ("socket_connect_seconds_bucket", &[("le", "20")], Some(3.0)),
        (
            "socket_connect_seconds_bucket",
            &[("le", "+Inf")],
            Some(4.0),
        ),
        ("socket_connect_seconds_sum", &[], Some(70.25)),
        ("socket_connect_seconds_count", &[], Some(4.0)),
        (
            "socket_resets_total",
            &[("direction", "sent"), ("reason", "TCP_ABORT_ON_CLOSE")],
            Some(3.0),
        ),
        (
            "socket_resets_total",
            &[("direction", "received"), ("reason", "IN_ESTABLISHED")],
            Some(3.0),
        ),
        ("socket_time_wait", &[], Some(6.0)),
        (
            "socket_time_wait_entered_total",
            &[("substate", "TIME_WAIT")],
            Some(6.0),
        ),
        (
            "socket_setsockopt_failures_total",
            &[
                ("family", "inet"),
                ("protocol", "tcp"),
                ("level", "SOL_TCP"),
                ("option", "TCP_CONGESTION"),
                ("errno", "ENOPROTOOPT"),
            ],
            Some(1.0),
        ),
        (
            "socket_fd_exhausted_total",
            &[("errno", "EMFILE")],
            Some(1.0),
        ),
        ("socket_retransmits_total", &[], Some(9.0)),
        ("socket_udp_receive_drops_total", &[], Some(7.0)),
        (
            "socket_process_connections",
            &[("state", "ESTABLISHED")],
            Some(3.0),
        ),
        (
            "socket_process_connections",
            &[("state", "CLOSE_WAIT")],
            None,
        ),
        (
            "socket_process_connects_total",
            &[("result", "ECONNREFUSED")],
            Some(1.0),
        ),
        ("socket_process_accepts_total", &[], Some(2.0)),
        (
            "socket_process_resets_total",
            &[("direction", "received"), ("reason", "IN_ESTABLISHED")],
            Some(3.0),
        ),
        ("socket_process_time_wait", &[], Some(6.0)),
        (
            "socket_process_fd_exhausted_total",
            &[("errno", "EMFILE")],
            Some(1.0),
        ),
        ("socket_process_retransmits_total", &[], Some(9.0)),
        ("socket_process_udp_receive_drops_total", &[], Some(7.0)),
        ("socket_process_open_fds", &[], Some(12.0)),
        ("socket_process_max_fds", &[], Some(1024.0)),
        ("socket_process_open_fds_high_water", &[], None),
        ("socket_process_open_sockets", &[], Some(4.0)),
    ] {
        assert_eq!(value(name, extra), expected, "{name} {extra:?}");
    }
}

#[test]
fn a_quiet_process_shows_its_plain_counters_and_nothing_else() {
    let kernel = kernel();
    kernel.spawn(9, 1, b"idle").unwrap();
    let samples = parse(&text(&exporter(kernel, TableConfig::default())));
    let with = |name: &str, value: &str| -> BTreeSet<&str> {
        let has =
            |labels: &BTreeMap<String, String>| labels.get(name).is_some_and(|it| it == value);
        let ours = samples.keys().filter(|(_, labels)| has(labels));
        ours.map(|(name, _)| name.as_str()).collect()
    };
    let by_process = [
        "socket_process_accepts_total",
        "socket_process_max_fds",
        "socket_process_open_fds",
        "socket_process_open_sockets",
        "socket_process_retransmits_total",
        "socket_process_udp_receive_drops_total",
    ];
    assert_eq!(with("pid", "9"), by_process.into());
    let by_name = [
        "socket_accepts_total",
        "socket_retransmits_total",
        "socket_time_wait",
        "socket_time_wait_ended_total",
        "socket_time_wait_overflows_total",
        "socket_udp_receive_drops_total",
    ];
    let all = by_name.into_iter().chain(by_process).collect();
    assert_eq!(with("comm", "idle"), all);
}

#[test]
fn processes_have_as_many_metrics_as_wanted() {
    let shown = |process_metrics| {
        let config = TableConfig::default();
        parse(&text(&exporter_of(
            kernel(),
            config,
            process_metrics,
            |_| {},
        )))
    };
    let all = shown(ProcessMetrics::All);
    let gauges = shown(ProcessMetrics::Gauges);
    let none = shown(ProcessMetrics::None);
    let by_pid = |samples: &BTreeMap<Series, f64>| {
        let names = samples
            .keys()
            .filter(|(_, labels)| labels.contains_key("pid"));
        names.map(|(name, _)| name.clone()).collect::<BTreeSet<_>>()
    };
    assert!(by_pid(&none).is_empty());
    let counters = |name: &String| name.ends_with("_total");
    assert!(!by_pid(&gauges).iter().any(counters));
    assert!(by_pid(&gauges).contains("socket_process_open_sockets"));
    assert!(by_pid(&all).iter().any(counters));
    let by_name = |samples: &BTreeMap<Series, f64>| {
        let names = samples.iter().filter(|((name, labels), _)| {
            labels.contains_key("comm") && !name.starts_with("socket_process_")
        });
        names
            .map(|(series, value)| (series.clone(), *value))
            .collect::<Vec<_>>()
    };
    assert_eq!(by_name(&all), by_name(&none));
}

#[test]
fn what_has_no_process_has_no_pid() {
    let samples = parse(&text(&exporter(kernel(), TableConfig::default())));
    let stray = series("socket_stray_resets_total", &[("reason", "NO_SOCKET")]);
    assert_eq!(samples[&stray], 8.0);
    for comm in [UNATTRIBUTED, OTHER] {
        let labels = [("comm", comm), ("unit", "")];
        assert!(samples.contains_key(&series("socket_retransmits_total", &labels)));
    }
    let pids = samples.keys().filter_map(|(_, labels)| labels.get("pid"));
    assert!(pids.into_iter().all(|pid| pid.parse::<u32>().is_ok()));
}

#[test]
fn units_are_described() {
    let container = Unit {
        name: "docker:0123456789ab".to_owned(),
        kind: UnitKind::Docker,
        container_id: "0123456789ab".repeat(5),
        pod_uid: "9b2f0c1e-0000-0000-0000-000000000001".to_owned(),
    };
    let source = kernel();
    let facts = FakeFacts::default();
    facts.units.lock().unwrap().insert(101, container.clone());
    let crowded = TableConfig {
        max_names: 0,
        ..TableConfig::default()
    };
    for config in [TableConfig::default(), crowded] {
        let mut table = Table::new(config);
        table.tick(Instant::now(), &source, &facts);
        let units = table.units();
        assert_eq!(units.len(), 2, "one for all that have none");
        assert_eq!(units[container.name.as_str()], &container);
    }
    let samples = parse(&text(&exporter(source, TableConfig::default())));
    for (unit, kind) in [("", "none"), ("a\\x2db@\"1\".service", "systemd")] {
        let labels = [
            ("unit", unit),
            ("kind", kind),
            ("container_id", ""),
            ("pod_uid", ""),
        ];
        assert_eq!(samples[&series("socket_unit_info", &labels)], 1.0);
    }
}

#[test]
fn samples_have_the_labels_that_are_documented() {
    let samples = parse(&text(&exporter(kernel(), TableConfig::default())));
    for metric in METRICS {
        let labels: BTreeSet<&str> = metric
            .scope
            .labels()
            .iter()
            .chain(metric.labels)
            .copied()
            .collect();
        let histogram = metric.kind.name() == "histogram";
        let suffix = if histogram { "_sum" } else { "" };
        for (_, found) in samples
            .keys()
            .filter(|(name, _)| *name == format!("{}{suffix}", metric.name))
        {
            let found: BTreeSet<&str> = found.keys().map(String::as_str).collect();
            assert_eq!(found, labels, "{}", metric.name);
        }
        let by_process = metric.name.starts_with("socket_process_");
        assert_eq!(
            metric.scope == Scope::Process,
            by_process,
            "{}",
            metric.name
        );
        let others = !matches!(metric.scope, Scope::Process | Scope::Observer);
        assert_eq!(others, metric.name.starts_with("socket_") && !by_process);
        assert!(metric.query.contains(metric.name), "{}", metric.name);
        let has_hooks = !matches!(metric.scope, Scope::Finding | Scope::Observer);
        assert_eq!(!metric.hooks.is_empty(), has_hooks, "{}", metric.name);
    }
}

#[test]
fn the_observer_shows_itself() {
    let samples = parse(&text(&exporter(kernel(), TableConfig::default())));
    for (name, labels, expected) in [
        (
            "observer_events_seen_total",
            &[("signal", "reset_sent")][..],
            10.0,
        ),
        (
            "observer_events_total",
            &[("signal", "accept"), ("outcome", "unattributed")],
            2.0,
        ),
        (
            "observer_hook_attached",
            &[
                ("signal", "state"),
                ("attach_type", "tp_btf"),
                ("hook", "inet_sock_set_state"),
            ],
            1.0,
        ),
        (
            "observer_hook_attached",
            &[
                ("signal", "state"),
                ("attach_type", "tracepoint"),
                ("hook", "sock:inet_sock_set_state"),
            ],
            0.0,
        ),
        ("observer_map_capacity", &[("map", "connections")], 10.0),
        ("observer_map_full_total", &[("map", "connections")], 1.0),
        ("observer_records_total", &[("kind", "close")], 5.0),
        (
            "observer_bpf_run_seconds_total",
            &[("program", "state_btf")],
            0.000_001,
        ),
        (
            "observer_signal_info",
            &[("signal", "time_wait"), ("method", "exact")],
            1.0,
        ),
        ("observer_processes", &[("state", "shown")], 5.0),
    ] {
        assert_eq!(
            samples.get(&series(name, labels)),
            Some(&expected),
            "{name}"
        );
    }
    assert!(samples[&series("process_resident_memory_bytes", &[])] > 0.0);
    assert!(samples[&series("process_start_time_seconds", &[])] > 1e9);
}

#[test]
fn what_is_not_observed_is_not_shown() {
    let mut kernel = kernel();
    kernel.blind = [
        SIGNAL_STATE,
        SIGNAL_CONNECT,
        SIGNAL_TIME_WAIT,
        SIGNAL_TIME_WAIT_END,
        SIGNAL_TIME_WAIT_OVERFLOW,
        SIGNAL_RESET_SENT,
    ]
    .into();
    let text = text(&exporter(kernel, TableConfig::default()));
    for name in [
        "socket_connections",
        "socket_state_transitions_total",
        "socket_conn_age_seconds",
        "socket_close_wait_seconds",
        "socket_connects_total",
        "socket_connect_seconds",
        "socket_time_wait",
        "signal=\"time_wait\"",
        "direction=\"sent\"",
    ] {
        assert!(!text.contains(name), "{name}");
    }
    assert!(text.contains("direction=\"received\""));
}

/// What depends on another program counts for nothing. A hook that failed counts for more than one that a setting
/// disables, and that for more than one that the kernel does not have.
#[test]
fn a_signal_without_a_hook_is_missing_for_a_reason() {
    let mut kernel = kernel();
    let [attached, not_needed] = &kernel.verdicts[..] else {
        panic!("two verdicts");
    };
    let of = |signal, status| Verdict {
        signal,
        status,
        ..not_needed.clone()
    };
    kernel.verdicts = vec![
        of("state", Status::Refused),
        attached.clone(),
        of("accept", Status::Refused),
        of("accept", Status::Incomplete),
        of("accept", Status::Unsupported),
        of("fd", Status::Refused),
        of("fd", Status::Disabled),
        of("bind", Status::Disabled),
        of("bind", Status::Unsupported),
        of("tls", Status::Unsupported),
        of("quic", Status::Broken),
    ];
    let samples = parse(&text(&exporter(kernel, TableConfig::default())));
    let missing = samples
        .keys()
        .filter(|it| it.0 == "observer_signal_missing");
    let expected = [
        ("accept", "refused"),
        ("fd", "refused"),
        ("bind", "disabled"),
        ("tls", "unsupported"),
        ("quic", "broken"),
    ];
    assert_eq!(missing.count(), expected.len());
    for (signal, reason) in expected {
        let labels = [("signal", signal), ("reason", reason)];
        let sample = samples.get(&series("observer_signal_missing", &labels));
        assert_eq!(sample, Some(&1.0), "{signal}");
    }
}

#[test]
fn names_say_their_unit_and_help_says_something() {
    for metric in METRICS {
        let total = metric.name.ends_with("_total");
        assert_eq!(total, metric.kind.name() == "counter", "{}", metric.name);
        assert!(metric.help.ends_with('.') && metric.help.len() > 15);
        assert!(!metric.help.contains(['\\', '\n']));
    }
}
