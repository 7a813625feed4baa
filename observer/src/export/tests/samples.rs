//! Which samples there are, and their values.

use std::collections::{BTreeMap, BTreeSet};

use observer_common::{SIGNAL_CONNECT, SIGNAL_RESET_SENT, SIGNAL_STATE, SIGNAL_TIME_WAIT};

use super::{Series, exporter, kernel, parse, text};
use crate::{export::family::METRICS, table::TableConfig};

fn series(name: &str, labels: &[(&str, &str)]) -> Series {
    let labels: BTreeMap<String, String> = labels
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    (name.to_owned(), labels)
}

const PROCESS: [(&str, &str); 3] = [("pid", "101"), ("comm", "back\\slash"), ("unit", "")];

fn value(samples: &BTreeMap<Series, f64>, name: &str, extra: &[(&str, &str)]) -> Option<f64> {
    let labels: Vec<_> = PROCESS.iter().chain(extra).copied().collect();
    samples.get(&series(name, &labels)).copied()
}

#[test]
fn a_process_shows_what_its_slot_holds() {
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
        ("socket_connects_total", &[("result", "E111")], Some(1.0)),
        ("socket_connects_total", &[("result", "E110")], None),
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
                ("family", "AF2"),
                ("protocol", "P6"),
                ("level", "L6"),
                ("option", "O6_13"),
                ("errno", "E92"),
            ],
            Some(1.0),
        ),
        ("socket_fd_exhausted_total", &[("errno", "E24")], Some(1.0)),
        ("socket_retransmits_total", &[], Some(9.0)),
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
    let names: BTreeSet<&str> = samples
        .keys()
        .filter(|(_, labels)| labels.get("pid").is_some_and(|pid| pid == "9"))
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "socket_accepts_total",
            "socket_process_max_fds",
            "socket_process_open_fds",
            "socket_process_open_sockets",
            "socket_retransmits_total",
            "socket_time_wait",
        ]
        .into()
    );
}

#[test]
fn the_fixed_series_have_fixed_labels() {
    let samples = parse(&text(&exporter(kernel(), TableConfig::default())));
    let no_socket: Vec<_> = samples
        .iter()
        .filter(|((_, labels), _)| labels.get("pid").is_some_and(|pid| pid == "no_socket"))
        .collect();
    let expected = series(
        "socket_resets_total",
        &[
            ("pid", "no_socket"),
            ("comm", ""),
            ("unit", ""),
            ("direction", "sent"),
            ("reason", "NO_SOCKET"),
        ],
    );
    assert_eq!(no_socket, [(&expected, &8.0)]);
    for pid in ["unattributed", "other"] {
        let labels = [("pid", pid), ("comm", ""), ("unit", "")];
        assert!(samples.contains_key(&series("socket_retransmits_total", &labels)));
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
                ("rung", "tp_btf"),
                ("hook", "inet_sock_set_state"),
            ],
            1.0,
        ),
        (
            "observer_hook_attached",
            &[
                ("signal", "state"),
                ("rung", "tracepoint"),
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
            &[("signal", "time_wait"), ("method", "inferred")],
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

#[test]
fn names_say_their_unit_and_help_says_something() {
    for metric in METRICS {
        let total = metric.name.ends_with("_total");
        assert_eq!(total, metric.kind.name() == "counter", "{}", metric.name);
        assert!(metric.help.ends_with('.') && metric.help.len() > 15);
        assert!(!metric.help.contains(['\\', '\n']));
    }
}
