//! Sockets older than the observer, compared with `ss`.

use std::{collections::BTreeMap, time::Instant};

use observer_test_support::{Daemon, Metrics, Netns, Program};

/// A listener, three accepted pairs, a half-closed pair (CLOSE_WAIT and FIN_WAIT2) and two
/// connections that wait to be accepted, for IPv4 and IPv6.
const OLD: &str = r#"
import socket
kept, listeners, waiting = [], [], {}
# Connected, which is ESTABLISHED to the kernel, and no connection.
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
raw.connect(('127.0.0.1', 0))
for family, address in ((socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1')):
    listener = socket.socket(family)
    listener.bind((address, 0))
    listener.listen()
    listeners.append(listener)
    for _ in range(3):
        client = socket.create_connection(listener.getsockname()[:2])
        kept.append((client, listener.accept()[0]))
    closing = socket.create_connection(listener.getsockname()[:2])
    kept.append((closing, listener.accept()[0]))
    closing.shutdown(socket.SHUT_WR)
    assert kept[-1][1].recv(1) == b''
    for _ in range(2):
        client = socket.create_connection(listener.getsockname()[:2])
        waiting[client.getsockname()] = client
print('old')
input()
for listener in listeners:
    for _ in range(2):
        server, client = listener.accept()
        kept.append((waiting.pop(client), server))
print('accepted')
input()
for client, server in kept:
    client.close()
    # Else both ends might close at once.
    assert server.recv(1) == b''
    server.close()
for listener in listeners:
    listener.close()
print('closed')
input()
"#;

/// What `ss` shows as held by process `pid`, by our names of states.
fn held(ss: &str, pid: u32) -> BTreeMap<&'static str, f64> {
    let mut states = BTreeMap::new();
    let holder = format!("pid={pid},");
    for line in ss.lines().filter(|line| line.contains(&holder)) {
        let state = match line.split_whitespace().next().unwrap() {
            "ESTAB" => "ESTABLISHED",
            "LISTEN" => "LISTEN",
            "CLOSE-WAIT" => "CLOSE_WAIT",
            "FIN-WAIT-1" => "FIN_WAIT1",
            "FIN-WAIT-2" => "FIN_WAIT2",
            other => panic!("{other}"),
        };
        *states.entry(state).or_insert(0.0) += 1.0;
    }
    states
}

fn gauges(metrics: &Metrics, pid: u32) -> BTreeMap<String, f64> {
    metrics
        .counted(pid, "socket_connections", |labels| labels["state"].clone())
        .into_iter()
        .filter(|(_, count)| *count != 0)
        .map(|(state, count)| (state, count as f64))
        .collect()
}

/// Waits for the states that `ss` shows for the process, and `waiting` connections that it
/// has not accepted, for which `ss` shows no process.
fn expect_as_ss(daemon: &Daemon, ss: impl Fn() -> String, pid: u32, waiting: f64) -> Metrics {
    daemon.until("the states that ss shows", |metrics| {
        let text = ss();
        let mut held = held(&text, pid);
        *held.entry("ESTABLISHED").or_default() += waiting;
        let gauges = gauges(metrics, pid);
        held.len() == gauges.len()
            && held
                .iter()
                .all(|(state, count)| gauges.get(*state) == Some(count))
    })
}

fn seeded_and_followed_to_the_end(mut program: Program, ss: impl Fn() -> String) {
    program.expect("old");
    let pid = program.pid();
    let started = Instant::now();
    let listed = loop {
        let listed = held(&ss(), pid);
        // The FIN may not have been acknowledged yet.
        if !listed.contains_key("FIN_WAIT1") {
            break listed;
        }
        assert!(
            started.elapsed() < observer_test_support::PATIENCE,
            "{listed:?}"
        );
    };
    assert_eq!(listed["LISTEN"], 2.0);
    // Six pairs, and the near ends of four connections that were not accepted.
    assert_eq!(listed["ESTABLISHED"], 16.0);
    assert_eq!((listed["CLOSE_WAIT"], listed["FIN_WAIT2"]), (2.0, 2.0));

    let daemon = Daemon::start(&[]);
    let first = expect_as_ss(&daemon, &ss, pid, 4.0);
    let seeded = first.sum("observer_seeded_sockets_total", &[]);
    assert!(seeded >= 26.0, "{seeded}");
    assert_eq!(first.of(pid, "socket_process_open_sockets", &[]), 26.0);
    // They are counted as live; their transitions were not observed.
    assert_eq!(first.of(pid, "socket_state_transitions_total", &[]), 0.0);
    assert_eq!(first.of(pid, "socket_connects_total", &[]), 0.0);
    println!("seeded {seeded}");

    program.go();
    program.expect("accepted");
    let accepted = expect_as_ss(&daemon, &ss, pid, 0.0);
    let established = [("state", "ESTABLISHED")];
    assert_eq!(accepted.of(pid, "socket_connections", &established), 20.0);
    assert_eq!(accepted.of(pid, "socket_accepts_total", &[]), 4.0);

    program.go();
    program.expect("closed");
    let end = daemon.until("gauges at zero", |metrics| {
        metrics.of(pid, "socket_connections", &[]) == 0.0
            && metrics.of(pid, "socket_process_open_sockets", &[]) == 0.0
    });
    let step = |from, to| {
        let labels = [("from", from), ("to", to)];
        end.of(pid, "socket_state_transitions_total", &labels)
    };
    assert_eq!(step("LISTEN", "CLOSE"), 2.0);
    // Ten live pairs closed one end after the other, two that were half closed.
    assert_eq!(step("ESTABLISHED", "FIN_WAIT1"), 10.0);
    assert_eq!(step("ESTABLISHED", "CLOSE_WAIT"), 10.0);
    assert_eq!(step("CLOSE_WAIT", "LAST_ACK"), 12.0);
    // Their age is not known, so it is not counted.
    assert_eq!(end.of(pid, "socket_conn_age_seconds_count", &[]), 0.0);
    assert_eq!(end.of(pid, "socket_close_wait_seconds_count", &[]), 0.0);
    end.assert_complete();
    program.end();
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn older_sockets_in_the_host_namespace() {
    let program = Program::python(OLD, &[]);
    seeded_and_followed_to_the_end(program, || observer_test_support::run("ss", &["-Htanp"]));
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn older_sockets_in_another_namespace() {
    let netns = Netns::new();
    let program = netns.python(OLD, &[]);
    seeded_and_followed_to_the_end(program, || netns.run("ss", &["-Htanp"]));
}

/// Connections that were not accepted end with their listener, and count for its process.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn older_unaccepted_connections_of_a_closed_listener() {
    let netns = Netns::new();
    let mut program = netns.python(
        r#"
import socket
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen()
clients = [socket.create_connection(listener.getsockname()) for _ in range(5)]
print('old')
input()
listener.close()
print('closed')
input()
for client in clients:
    client.close()
print('end')
input()
"#,
        &[],
    );
    program.expect("old");
    let pid = program.pid();
    let daemon = Daemon::start(&[]);
    let first = daemon.scrape();
    let snmp = netns.snmp();
    let established = [("state", "ESTABLISHED")];
    // Both ends of each.
    assert_eq!(first.of(pid, "socket_connections", &established), 10.0);
    program.go();
    program.expect("closed");
    let after = daemon.until("five resets", |metrics| {
        let received = [("direction", "received")];
        metrics.of(pid, "socket_resets_total", &received) == 5.0
    });
    assert_eq!(netns.snmp()["OutRsts"] - snmp["OutRsts"], 5);
    assert_eq!(after.of(pid, "socket_connections", &[]), 0.0);
    // Found in the listener's queue, and so its owner's.
    let sent = [("direction", "sent"), ("reason", "UNACCEPTED_CHILD")];
    after.assert_of(pid, "socket_resets_total", &sent, 5.0);
    after.assert_complete();
    program.go();
    program.expect("end");
    program.end();
}
