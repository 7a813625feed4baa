//! Faults reported by operators in public trackers. Each program prints the true values (from snmp,
//! sockstat, ss and its own calls), and the metrics must agree. Each has the name `fieldNN`, so its
//! metrics by name are separate.

use std::{path::Path, process::Command, time::Duration};

use observer_test_support::{Daemon, Metrics, PATIENCE, Program, Shared, python};
use serde_json::Value;

/// A program that has printed its figures and holds its sockets.
struct Case {
    daemon: Shared,
    comm: String,
    truth: Value,
    _program: Program,
}

/// Label, and the key of its expected value.
type Series<'a> = (&'a str, &'a [(&'a str, &'a str)], f64);

impl Case {
    fn run(file: &str) -> Self {
        let daemon = Daemon::shared();
        let file = Path::new("field").join(file);
        let mut command = Command::new("python3");
        let mut program = Program::spawn(python(&mut command, &file).args(["--hold", "300"]));
        let mut line = program.line();
        while !line.starts_with('{') {
            line = program.line();
        }
        let truth: Value = serde_json::from_str(&line).expect("figures as JSON");
        Self {
            daemon,
            comm: truth["comm"].as_str().expect("a name").to_owned(),
            truth,
            _program: program,
        }
    }

    /// A figure of the program.
    fn figure(&self, key: &str) -> f64 {
        self.truth
            .pointer(&format!("/{key}"))
            .and_then(Value::as_f64)
            .unwrap_or_else(|| panic!("no figure {key} in {}", self.truth))
    }

    fn text(&self, key: &str) -> &str {
        self.truth[key].as_str().expect("a text")
    }

    /// Waits until the metrics of `comm` are as expected, and returns them.
    #[track_caller]
    fn expect_of(&self, comm: &str, patience: Duration, series: &[Series<'_>]) -> Metrics {
        let wrong = |metrics: &Metrics| {
            let values = series.iter().map(|(name, labels, expected)| {
                (metrics.by(comm, name, labels), expected, name, labels)
            });
            values
                .filter(|(value, expected, ..)| value != *expected)
                .map(|(value, expected, name, labels)| {
                    format!("{name}{labels:?}: {value}, not {expected}")
                })
                .collect::<Vec<_>>()
        };
        let started = std::time::Instant::now();
        loop {
            let metrics = self.daemon.scrape();
            let wrong = wrong(&metrics);
            if wrong.is_empty() {
                return metrics;
            }
            assert!(
                started.elapsed() < patience,
                "{comm}: {wrong:#?}\n{}\n{}",
                self.truth,
                metrics.shown()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    #[track_caller]
    fn expect(&self, series: &[Series<'_>]) -> Metrics {
        self.expect_of(&self.comm, PATIENCE / 2, series)
    }
}

const CONNECTS: &str = "socket_connects_total";
const ACCEPTS: &str = "socket_accepts_total";
const RESETS: &str = "socket_resets_total";
const LIVE: &str = "socket_connections";
const EXHAUSTED: &str = "socket_ephemeral_ports_exhausted_total";
const OVERFLOWS: &str = "socket_listen_overflows_total";

/// EADDRNOTAVAIL because IPv6 is off: no port is short.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn ipv6_localhost_without_ipv6() {
    let case = Case::run("01-ipv6-localhost.py");
    case.expect(&[
        (CONNECTS, &[("result", "ok")], case.figure("connects_ok")),
        (
            CONNECTS,
            &[("result", "EADDRNOTAVAIL")],
            case.figure("connects_failed/EADDRNOTAVAIL"),
        ),
        (EXHAUSTED, &[], 0.0),
        (
            "socket_ephemeral_ports_used",
            &[],
            case.figure("ports_used"),
        ),
    ]);
}

/// Attempts that the program gave up are no timeouts of the kernel.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn abandoned_attempts() {
    let case = Case::run("02-abandoned-attempts.py");
    case.expect(&[
        (CONNECTS, &[("result", "ok")], case.figure("connects_ok")),
        (CONNECTS, &[("result", "ETIMEDOUT")], 0.0),
        (
            CONNECTS,
            &[("result", "ECANCELED")],
            case.figure("given_up_by_program"),
        ),
        (
            CONNECTS,
            &[("result", "ENETUNREACH")],
            case.figure("ENETUNREACH"),
        ),
    ]);
}

/// A client that retries a port of the ephemeral range connects to itself.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn self_connect() {
    let case = Case::run("03-self-connect.py");
    case.expect(&[
        (CONNECTS, &[("result", "ok")], case.figure("connects_ok")),
        (
            CONNECTS,
            &[("result", "ECONNREFUSED")],
            case.figure("connects_refused"),
        ),
        (
            RESETS,
            &[("direction", "received")],
            case.figure("rst_received"),
        ),
        (
            "socket_binds_failed_total",
            &[("errno", "EADDRINUSE")],
            case.figure("server_bind_or_listen_EADDRINUSE"),
        ),
        (
            LIVE,
            &[("state", "ESTABLISHED")],
            case.figure("established"),
        ),
        (
            "socket_time_wait_entered_total",
            &[],
            case.figure("time_wait_entered"),
        ),
    ]);
}

/// A full accept queue that is answered with RSTs.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn abort_on_overflow() {
    let case = Case::run("04-abort-on-overflow.py");
    let resets = case.figure("rst_sent_for_full_queue");
    case.expect(&[
        (CONNECTS, &[("result", "ok")], case.figure("connects_ok")),
        (
            RESETS,
            &[("direction", "received"), ("reason", "IN_ESTABLISHED")],
            resets,
        ),
    ]);
    let server = case.text("server_comm");
    case.expect_of(
        server,
        PATIENCE / 2,
        &[
            (
                RESETS,
                &[("direction", "sent"), ("reason", "REFUSED_BY_LISTENER")],
                resets,
            ),
            (RESETS, &[], resets),
            ("socket_listen_backlog", &[], case.figure("backlog")),
            ("socket_listen_backlog_max", &[], case.figure("backlog_max")),
            (ACCEPTS, &[], 0.0),
        ],
    );
}

/// One of eight SO_REUSEPORT queues is full, which the sum over all hides.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn reuseport_stuck() {
    let case = Case::run("05-reuseport-stuck.py");
    case.expect(&[(CONNECTS, &[("result", "ok")], case.figure("connects_ok"))]);
    case.expect_of(
        case.text("server_comm"),
        PATIENCE / 2,
        &[
            (ACCEPTS, &[], case.figure("accepts")),
            ("socket_listen_backlog", &[], case.figure("backlog_sum")),
            (
                "socket_listen_backlog_fullest_ratio",
                &[],
                case.figure("fullest_queue_ratio"),
            ),
            (OVERFLOWS, &[], case.figure("ListenOverflows")),
        ],
    );
}

/// A reload drops the queue of the old listener, or migrates it (net.ipv4.tcp_migrate_req).
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn reuseport_reload() {
    let case = Case::run("06-reuseport-reload.py");
    case.expect(&[
        (
            RESETS,
            &[("direction", "received")],
            case.figure("dropped/clients_reset"),
        ),
        (
            LIVE,
            &[("state", "ESTABLISHED")],
            case.figure("established_of_client"),
        ),
    ]);
    case.expect_of(
        case.text("old_comm"),
        PATIENCE / 2,
        &[
            (
                RESETS,
                &[("direction", "sent")],
                case.figure("dropped/OutRsts"),
            ),
            (LIVE, &[], 0.0),
        ],
    );
    case.expect_of(
        case.text("new_comm"),
        PATIENCE / 2,
        &[
            (ACCEPTS, &[], case.figure("migrated/accepts_by_new")),
            (
                LIVE,
                &[("state", "ESTABLISHED")],
                case.figure("established_of_new"),
            ),
        ],
    );
    let old = ["dropped/old_pid", "migrated/old_pid"].map(|key| case.figure(key) as u32);
    case.daemon
        .until("the end of the old processes' series", |metrics| {
            !old.iter().any(|&pid| metrics.shows(pid))
        });
}

/// Data that crosses a close: only what passes FIN_WAIT2 enters TIME_WAIT.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn close_vs_data() {
    let case = Case::run("09-close-vs-data.py");
    let lost = case.figure("a/requests_lost") + case.figure("b/requests_lost");
    case.expect(&[
        (CONNECTS, &[("result", "ok")], case.figure("connects_ok")),
        (
            RESETS,
            &[("direction", "received"), ("reason", "IN_CLOSE_WAIT")],
            lost,
        ),
        (
            RESETS,
            &[("direction", "received"), ("reason", "IN_ESTABLISHED")],
            case.figure("c/uploads_broken"),
        ),
    ]);
    let entered = "socket_time_wait_entered_total";
    let server = case.text("server_comm");
    let metrics = case.expect_of(
        server,
        PATIENCE / 2,
        &[
            (ACCEPTS, &[], case.figure("accepts")),
            (
                RESETS,
                &[("direction", "sent")],
                case.figure("rst_sent_by_server"),
            ),
            (
                entered,
                &[("substate", "FIN_WAIT2")],
                case.figure("time_wait_entered_by_server/FIN_WAIT2"),
            ),
        ],
    );
    // A client that has its answer may be the first to close, or close at the same time.
    let closed_in_order = [("substate", "TIME_WAIT")];
    let both = metrics.by(server, entered, &closed_in_order)
        + metrics.by(&case.comm, entered, &closed_in_order);
    assert_eq!(
        both,
        case.figure("d/time_wait_entered"),
        "{}",
        metrics.shown()
    );
}

/// EADDRNOTAVAIL because the four-tuple exists: no port is short.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn four_tuple_that_exists() {
    let case = Case::run("11-four-tuple.py");
    case.expect(&[
        (CONNECTS, &[("result", "ok")], case.figure("connects_ok")),
        (
            CONNECTS,
            &[("result", "EADDRNOTAVAIL")],
            case.figure("connects_EADDRNOTAVAIL"),
        ),
        (EXHAUSTED, &[], 0.0),
        (ACCEPTS, &[], case.figure("accepts")),
        (
            LIVE,
            &[("state", "ESTABLISHED")],
            case.figure("established"),
        ),
        (LIVE, &[("state", "LISTEN")], case.figure("listeners")),
    ]);
}

/// All ports are in TIME_WAIT and every connect() succeeds, because the kernel reuses them.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn time_wait_reuse() {
    let case = Case::run("12-tw-reuse.py");
    case.expect(&[
        (CONNECTS, &[("result", "ok")], case.figure("connects_ok")),
        (EXHAUSTED, &[], case.figure("port_searches_that_found_none")),
        (
            "socket_time_wait_entered_total",
            &[],
            case.figure("time_wait_entered"),
        ),
        (
            "socket_ephemeral_ports_used",
            &[],
            case.figure("ports_used"),
        ),
        ("socket_ephemeral_ports_ratio", &[], 0.0),
    ]);
}

/// Established connections die without an RST from the peer.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn silent_death() {
    let case = Case::run("14-silent-death.py");
    case.expect(&[
        (CONNECTS, &[("result", "ok")], case.figure("connects_ok")),
        (
            "socket_connection_errors_total",
            &[("errno", "ETIMEDOUT")],
            case.figure("died_of_ETIMEDOUT/busy") + case.figure("died_of_ETIMEDOUT/idle"),
        ),
        ("socket_retransmits_total", &[], case.figure("RetransSegs")),
        (
            RESETS,
            &[("direction", "sent"), ("reason", "TCP_KEEPALIVE_TIMEOUT")],
            case.figure("rst_sent_by_keepalive"),
        ),
        (LIVE, &[("state", "ESTABLISHED")], 0.0),
    ]);
    case.expect_of(
        case.text("peer_comm"),
        PATIENCE / 2,
        &[(
            LIVE,
            &[("state", "ESTABLISHED")],
            case.figure("peer_established_now"),
        )],
    );
}

/// Sockets that TCP_REPAIR puts into ESTABLISHED made no attempt.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn restored_connections() {
    let case = Case::run("16-unnated-packet.py");
    case.expect(&[
        (CONNECTS, &[], case.figure("syns_sent")),
        ("socket_connect_seconds_count", &[], 0.0),
        (
            RESETS,
            &[("direction", "received"), ("reason", "IN_ESTABLISHED")],
            case.figure("rst_received_in_established"),
        ),
        (
            LIVE,
            &[("state", "ESTABLISHED")],
            case.figure("established_now"),
        ),
    ]);
}

/// A helper program inherits a listener with a queue, and its parent ends.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn inherited_listener() {
    let case = Case::run("17-inherited-listener.py");
    case.expect(&[(
        LIVE,
        &[("state", "ESTABLISHED")],
        case.figure("client_established"),
    )]);
    let of = |metrics: &Metrics, pid: &str, state: &str| {
        metrics.of(case.figure(pid) as u32, LIVE, &[("state", state)])
    };
    let metrics = case.daemon.until("the helper to own them", |metrics| {
        of(metrics, "helper_pid", "LISTEN") == case.figure("helper_states/LISTEN")
            && of(metrics, "helper_pid", "ESTABLISHED") == case.figure("helper_states/ESTABLISHED")
    });
    // A process without a descriptor of its own has no sockets left.
    for state in ["LISTEN", "ESTABLISHED"] {
        assert_eq!(
            of(&metrics, "server_pid", state),
            0.0,
            "{}",
            metrics.shown()
        );
    }
}

/// A process accepts and forks a child for each connection, which keeps it.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn fork_server() {
    let case = Case::run("18-fork-server.py");
    let parent = case.text("parent_comm");
    let child = case.text("child_comm");
    // One walk over the open files is enough.
    let metrics = case.expect_of(
        child,
        PATIENCE / 2,
        &[(
            LIVE,
            &[("state", "ESTABLISHED")],
            case.figure("established_now/last_child"),
        )],
    );
    let both = |name: &str, labels: &[(&str, &str)]| {
        metrics.by(parent, name, labels) + metrics.by(child, name, labels)
    };
    assert_eq!(
        metrics.by(parent, LIVE, &[("state", "ESTABLISHED")]),
        case.figure("established_now/parent")
    );
    assert_eq!(
        metrics.by(parent, ACCEPTS, &[]),
        case.figure("accepts_by_parent")
    );
    // The child of a connection that lived shorter than a walk takes may not be its owner.
    assert_eq!(
        both(RESETS, &[("direction", "sent")]),
        case.figure("rst_sent_by_children")
    );
    assert_eq!(
        both("socket_time_wait_entered_total", &[]),
        case.figure("time_wait_entered_by_children/FIN_WAIT2")
    );
}

/// Sockets in a network namespace that no process is in.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn foreign_namespace() {
    let case = Case::run("19-foreign-netns.py");
    case.expect(&[
        (CONNECTS, &[("result", "ok")], case.figure("connects_ok")),
        (
            CONNECTS,
            &[("result", "ECONNREFUSED")],
            case.figure("connects_ECONNREFUSED"),
        ),
        (ACCEPTS, &[], case.figure("accepts")),
        (
            LIVE,
            &[("state", "ESTABLISHED")],
            case.figure("established"),
        ),
        (
            "socket_time_wait_entered_total",
            &[],
            case.figure("time_wait"),
        ),
        ("socket_listen_backlog", &[], case.figure("backlog")),
    ]);
    // The kernel's counts of this namespace cannot be read. An older comparison shows no drift either.
    let compared =
        |metrics: &Metrics| metrics.sum("observer_job_runs_total", &[("task", "reconcile")]);
    let before = compared(&case.daemon.scrape());
    let namespace = case.truth["sockets_netns"].to_string();
    // Orphans of other programs that are older than the daemon are a drift, too.
    let sockets = case.figure("sockstat_inuse");
    let patience = Duration::from_secs(120);
    case.daemon
        .until_within(patience, "less drift than its sockets", |metrics| {
            compared(metrics) > before + 2.0
                && metrics.has("observer_sockets_drift", &[])
                && metrics.sum("observer_sockets_drift", &[]).abs() < sockets / 2.0
                && !metrics.has(
                    "observer_netns_time_wait_drift_sockets",
                    &[("netns", &namespace)],
                )
        });
}

/// Descriptors of sockets that are in no TCP state.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn closed_sockets_with_descriptors() {
    let case = Case::run("20-closed-fds.py");
    case.expect(&[
        (CONNECTS, &[("result", "ok")], case.figure("connects_ok")),
        (LIVE, &[], case.figure("live_tcp_sockets")),
        (
            "socket_time_wait_entered_total",
            &[],
            case.figure("time_wait_entered"),
        ),
    ]);
    let pid = case.figure("pid") as u32;
    case.daemon.until("its descriptors", |metrics| {
        metrics.of(pid, "socket_process_open_fds", &[]) == case.figure("open_fds")
    });
}

/// Calls of setsockopt() that the kernel refuses, some by seccomp before it looks at the socket.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn setsockopt_denied() {
    let case = Case::run("23-setsockopt-denied.py");
    let failures = "socket_setsockopt_failures_total";
    let metrics = case.expect(&[(failures, &[], case.figure("setsockopt_failures"))]);
    let rows = case.truth["series"].as_array().expect("rows");
    for row in rows {
        let label = |key: &str| row[key].as_str().expect("a label").to_owned();
        let [family, protocol, level, option, errno] =
            ["family", "protocol", "level", "option", "errno"].map(label);
        let labels = [
            ("family", family.as_str()),
            ("protocol", &protocol),
            ("level", &level),
            ("option", &option),
            ("errno", &errno),
        ];
        let counted = metrics.by(&case.comm, failures, &labels);
        assert_eq!(
            Some(counted),
            row["count"].as_f64(),
            "{labels:?}\n{}",
            metrics.shown()
        );
    }
    let series = metrics.select(failures, &[("comm", &case.comm)]).count();
    assert_eq!(series, rows.len(), "{}", metrics.shown());
}
