//! Listening sockets and ports in use.

use std::{net::Ipv6Addr, time::Duration};

use observer_common::{
    Listener, ListenerSample, SLOT_FIRST, TLS_CLIENT, TLS_OPENSSL, TLS_SERVER, TlsHandshake,
    TlsKey, TlsSeen,
};

use super::{exporter_of, kernel, parse, text};
use crate::{
    export::ProcessMetrics,
    net::{overflows::Overflows, sysctls::Sysctls},
    table::TableConfig,
    walk::{Destination, NamespaceUse, ProcessUse, Share, Waits, Walk},
};

#[test]
fn addresses_are_labels() {
    let sample = ListenerSample {
        listener: Listener {
            slot: SLOT_FIRST,
            netns: 77,
            port: 443,
            drops: 9,
            drops_before: 4,
            ..Listener::default()
        },
        backlog: 3,
        max_backlog: 128,
        ..ListenerSample::default()
    };
    let overflows = Overflows {
        attributed: vec![(sample, 2)],
        unattributed: 1,
    };
    let share = |port, used| Share {
        destination: Destination {
            netns: 77,
            source: Ipv6Addr::LOCALHOST.into(),
            remote: (Ipv6Addr::LOCALHOST, port).into(),
        },
        owner: (SLOT_FIRST, 0),
        used,
        blocked: used - 1,
        used_by_all: 2 * used,
        blocked_by_all: 2 * (used - 1),
        available: 40,
    };
    let mut waits = Waits {
        connections: 3,
        stalled: [0, 2, 0, 0, 1, 0],
        longest_ms: [0, 30_500, 0, 0, 12_000, 0],
        ..Waits::default()
    };
    waits.quiet[2] = [4, 3, 0, 0];
    waits.ages[5] = 3;
    let walk = Walk {
        waits: vec![((SLOT_FIRST, 0), waits)],
        shares: vec![share(80, 10), share(81, 4), share(82, 3)],
        processes: vec![ProcessUse {
            owner: (SLOT_FIRST, 0),
            unguarded: 6,
            ..ProcessUse::default()
        }],
        namespaces: [(
            77,
            NamespaceUse {
                range: 50,
                bound: 10,
                ..NamespaceUse::default()
            },
        )]
        .into(),
        ..Walk::default()
    };
    let sysctls = Sysctls {
        host: [("fs.nr_open", 5)].into(),
        namespaces: [(77, [("net.core.somaxconn", 6)].into())].into(),
    };
    let shown = |process_metrics| {
        let exporter = exporter_of(kernel(), TableConfig::default(), process_metrics, |table| {
            table.update_listeners(&[sample], Some(&overflows));
            table.update_ports(&walk, 1);
            table.update_sysctls(sysctls.clone());
        });
        text(&exporter)
    };
    let text = shown(ProcessMetrics::All);
    let values = values(&text);
    let expected = [
        ("socket_ephemeral_ports_available -- 77", "", 40.0),
        (
            "socket_ephemeral_ports_ratio -quo\"te 77",
            "::1 [::1]:80",
            0.45,
        ),
        (
            "socket_ephemeral_ports_ratio -quo\"te ",
            "other other",
            0.15,
        ),
        (
            "socket_ephemeral_ports_blocked -quo\"te 77",
            "::1 [::1]:80",
            9.0,
        ),
        (
            "socket_ephemeral_ports_blocked -quo\"te ",
            "other other",
            5.0,
        ),
        (
            "socket_ephemeral_ports_used -quo\"te 77",
            "::1 [::1]:80",
            10.0,
        ),
        ("socket_ephemeral_ports_used -quo\"te ", "other other", 7.0),
        ("socket_listen_backlog -quo\"te 77", "[::]:443", 3.0),
        (
            "socket_listen_backlog_fullest_ratio -quo\"te 77",
            "[::]:443",
            0.0234375,
        ),
        ("socket_listen_backlog_max -quo\"te 77", "[::]:443", 128.0),
        ("socket_listen_overflows_total -quo\"te 77", "[::]:443", 2.0),
        (
            "socket_listen_overflows_total -<unattributed> ",
            "other",
            1.0,
        ),
        (
            "socket_process_ephemeral_ports_used 100quo\"te 77",
            "::1 [::1]:80",
            10.0,
        ),
        (
            "socket_process_ephemeral_ports_used 100quo\"te ",
            "other other",
            7.0,
        ),
        (
            "socket_process_listen_backlog 100quo\"te 77",
            "[::]:443",
            3.0,
        ),
        (
            "socket_process_listen_backlog_max 100quo\"te 77",
            "[::]:443",
            128.0,
        ),
        (
            "socket_process_listen_overflows_total 100quo\"te 77",
            "[::]:443",
            2.0,
        ),
        ("socket_listen_drops_total -quo\"te 77", "[::]:443", 5.0),
        ("socket_unguarded_connections -quo\"te -", "", 6.0),
        ("socket_stalled_connections -quo\"te -", "program_read", 2.0),
        ("socket_stalled_connections -quo\"te -", "peer_ack", 1.0),
        (
            "socket_stalled_seconds_max -quo\"te -",
            "program_read",
            30.5,
        ),
        ("socket_stalled_seconds_max -quo\"te -", "peer_ack", 12.0),
        (
            "socket_process_stalled_connections 100quo\"te -",
            "program_read",
            2.0,
        ),
        (
            "socket_process_stalled_connections 100quo\"te -",
            "peer_ack",
            1.0,
        ),
        ("socket_quiet_connections -quo\"te -", "nobody 10", 4.0),
        ("socket_quiet_connections -quo\"te -", "nobody 60", 3.0),
    ];
    assert_eq!(values.len(), expected.len(), "{values:#?}");
    for (name, place, value) in expected {
        let expected = (name.to_owned(), place.to_owned(), value);
        assert!(values.contains(&expected), "{expected:?} in {values:#?}");
    }
    let count = |process_metrics| self::values(&shown(process_metrics)).len();
    assert_eq!(count(ProcessMetrics::Gauges), expected.len() - 1);
    assert_eq!(count(ProcessMetrics::None), expected.len() - 7);
    for (name, netns, value) in [("fs.nr_open", "", 5), ("net.core.somaxconn", "77", 6)] {
        let line = format!("socket_sysctl{{name=\"{name}\",netns=\"{netns}\"}} {value}\n");
        assert!(text.contains(&line), "{line}");
    }
    let ages = text
        .lines()
        .filter(|it| it.starts_with("socket_live_conn_age_seconds_bucket"));
    let counts = ages.map(|line| line.rsplit(' ').next().unwrap());
    let counts: Vec<_> = counts.collect();
    assert_eq!(
        counts,
        ["0", "0", "0", "0", "0", "3", "3", "3", "3", "3", "3"]
    );
    for signal in ["listen", "ports"] {
        assert!(text.contains(&format!("observer_signal_info{{signal=\"{signal}\"")));
    }
}

/// Gauges of handshakes in progress, and of the files that are probed for them.
#[test]
fn handshakes_are_of_names() {
    let seen = |role, object, seconds: u64| TlsSeen {
        key: TlsKey {
            object,
            tgid: 100,
            library: TLS_OPENSSL,
        },
        handshake: TlsHandshake {
            began_ns: 60_000_000_000 - seconds * 1_000_000_000,
            slot: SLOT_FIRST,
            generation: 0,
            role,
            reserved: 0,
        },
    };
    let seen = [
        seen(TLS_CLIENT, 1, 2),
        seen(TLS_CLIENT, 2, 40),
        seen(TLS_SERVER, 3, 1),
    ];
    let shown = |observe: bool| {
        let exporter = exporter_of(
            kernel(),
            TableConfig::default(),
            ProcessMetrics::All,
            |table| {
                if observe {
                    let seconds = Duration::from_secs;
                    assert_eq!(table.update_handshakes(&seen, seconds(60), seconds(5)), []);
                    table.update_tls_files(vec![
                        ("openssl", "state_machine", 2),
                        ("go", "pclntab", 1),
                    ]);
                }
            },
        );
        let lines = text(&exporter);
        let lines = lines.lines().filter(|line| {
            [
                "socket_tls_handshakes_in_",
                "socket_tls_handshake_oldest_",
                "observer_tls_files",
            ]
            .iter()
            .any(|name| line.starts_with(name))
        });
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(shown(false), Vec::<String>::new());
    let lines = shown(true);
    assert_eq!(lines.len(), 6, "{lines:#?}");
    for (name, labels, value) in [
        ("socket_tls_handshakes_in_progress", "role=\"client\"", "2"),
        ("socket_tls_handshakes_in_progress", "role=\"server\"", "1"),
        (
            "socket_tls_handshake_oldest_seconds",
            "role=\"client\"",
            "40",
        ),
        (
            "socket_tls_handshake_oldest_seconds",
            "role=\"server\"",
            "1",
        ),
        (
            "observer_tls_files",
            "library=\"openssl\",how=\"state_machine\"",
            "2",
        ),
        ("observer_tls_files", "library=\"go\",how=\"pclntab\"", "1"),
    ] {
        let is_it = |line: &&String| {
            line.starts_with(name)
                && line.contains(labels)
                && line.rsplit(' ').next() == Some(value)
        };
        assert_eq!(
            lines.iter().filter(is_it).count(),
            1,
            "{name} {labels} {value} in {lines:#?}"
        );
    }
    let of_names = lines.iter().filter(|line| line.starts_with("socket_"));
    for line in of_names {
        assert!(line.contains("comm=\"quo\\\"te\""), "{line}");
        assert!(!line.contains("pid="), "{line}");
    }
}

/// Name, pid, comm and namespace; place; value.
fn values(text: &str) -> Vec<(String, String, f64)> {
    let samples = parse(text);
    let parts = [
        "listen_",
        "syn_",
        "ephemeral_",
        "unguarded_",
        "stalled_",
        "quiet_",
    ];
    let ours = samples.iter().filter(|((name, _), _)| {
        let name = name.strip_prefix("socket_");
        let name = name.map(|name| name.strip_prefix("process_").unwrap_or(name));
        name.is_some_and(|name| parts.iter().any(|part| name.starts_with(part)))
    });
    let values = ours.map(|((name, labels), value)| {
        let label = |name: &str| labels.get(name).map_or("-", String::as_str);
        let place = [
            "address",
            "source",
            "destination",
            "reason",
            "turn",
            "quiet",
        ]
        .map(label);
        let place: Vec<_> = place.into_iter().filter(|it| *it != "-").collect();
        let (pid, comm) = (label("pid"), label("comm"));
        let series = format!("{name} {pid}{comm} {}", label("netns"));
        (series, place.join(" "), *value)
    });
    values.collect()
}
