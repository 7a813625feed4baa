//! MPTCP, on the real kernel: the subflows are counted as connections, the parents only store the owners.

use std::time::{Duration, Instant};

use observer_test_support::{Daemon, Metrics, Netns, Program, kernel_at_least};

/// Says `unsupported` where there is no MPTCP, and ends.
const GUARD: &str = r"
MPTCP = 262
try:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP).close()
except OSError as error:
    print('unsupported')
    sys.exit()
";

const SERVER: &str = r"
listeners = [listen(family, address, protocol=MPTCP) for family, address in FAMILIES]
print(*[listener.getsockname()[1] for listener in listeners])
count = int(input())
print('accepting')
input()
conns = [listener.accept()[0] for listener in listeners for _ in range(count)]
for conn in conns:
    assert conn.recv(1) == b'x'
    conn.sendall(b'y')
print('accepted')
input()
for conn in conns + listeners:
    conn.close()
print('closed')
input()
";

/// The first argument is the protocol, the second the ports, the third how many.
const CLIENT: &str = r"
conns = []
for (family, address), port in zip(FAMILIES, sys.argv[2].split()):
    for _ in range(int(sys.argv[3])):
        conn = connect(family, (address, int(port)), int(sys.argv[1]))
        conn.sendall(b'x')
        conns.append(conn)
print('connected')
for conn in conns:
    assert conn.recv(1) == b'y'
print('answered')
input()
for conn in conns:
    assert conn.recv(1) == b''
    conn.close()
print('closed')
input()
";

fn live(metrics: &Metrics, pid: u32, state: &str) -> f64 {
    metrics.of(pid, "socket_connections", &[("state", state)])
}

fn transitions(metrics: &Metrics, pid: u32, from: &str, to: &str) -> f64 {
    let labels = [("from", from), ("to", to)];
    metrics.of(pid, "socket_state_transitions_total", &labels)
}

/// Starts the server; `None` where there is no MPTCP.
fn start_server(netns: &Netns, setup: &str) -> Option<(Program, String)> {
    let mut server = netns.script(&[GUARD, setup, SERVER].concat(), &[]);
    let ports = server.line();
    if ports == "unsupported" {
        skip!("this kernel has no MPTCP");
    }
    Some((server, ports))
}

/// `protocol` is the client's protocol. The server's listeners use MPTCP.
fn counted_once(protocol: &str) {
    const EACH: u32 = 5;
    const ALL: f64 = 10.0;
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let Some((mut server, ports)) = start_server(&netns, "") else {
        return;
    };
    let before = netns.snmp();
    let count = EACH.to_string();
    let mut client = netns.script(&[GUARD, CLIENT].concat(), &[protocol, &ports, &count]);
    server.say(&count);
    server.expect("accepting");
    client.expect("connected");
    let (server_pid, client_pid) = (server.pid(), client.pid());
    // Not yet accepted: the listener's.
    let metrics = daemon.until("children", |metrics| {
        live(metrics, server_pid, "ESTABLISHED") == ALL
    });
    assert_eq!(
        live(&metrics, client_pid, "ESTABLISHED"),
        ALL,
        "{}",
        metrics.shown()
    );
    server.go();
    server.expect("accepted");
    client.expect("answered");
    let metrics = daemon.scrape();
    for pid in [server_pid, client_pid] {
        assert_eq!(
            live(&metrics, pid, "ESTABLISHED"),
            ALL,
            "{}",
            metrics.shown()
        );
    }
    assert_eq!(
        live(&metrics, server_pid, "LISTEN"),
        2.0,
        "{}",
        metrics.shown()
    );
    assert_eq!(netns.ss("established"), 2 * ALL as usize);
    if metrics.observes("accept") {
        assert_eq!(metrics.of(server_pid, "socket_accepts_total", &[]), ALL);
    }
    let connects = metrics.of(client_pid, "socket_connects_total", &[]);
    let ok = metrics.of(client_pid, "socket_connects_total", &[("result", "ok")]);
    assert_eq!((connects, ok), (ALL, ALL), "{}", metrics.shown());
    let after = netns.snmp();
    let delta = |name: &str| (after[name] - before[name]) as f64;
    if !daemon.skipped_twice("state_again_tp_btf") {
        assert_eq!(
            transitions(&metrics, client_pid, "CLOSE", "SYN_SENT"),
            delta("ActiveOpens")
        );
        assert_eq!(
            transitions(&metrics, server_pid, "LISTEN", "SYN_RECV"),
            delta("PassiveOpens")
        );
    }

    server.go();
    server.expect("closed");
    client.go();
    client.expect("closed");
    crate::wait_until_resets_are_certain();
    let metrics = daemon.until("every gauge at 0", |metrics| {
        [server_pid, client_pid]
            .iter()
            .all(|pid| metrics.of(*pid, "socket_connections", &[]) == 0.0)
    });
    metrics.assert_of(server_pid, "socket_resets_total", &[], 0.0);
    metrics.assert_of(client_pid, "socket_resets_total", &[], 0.0);
    for state in ["established", "fin-wait-1", "close-wait", "last-ack"] {
        assert_eq!(netns.ss(state), 0, "{state}");
    }
    // Entries of sockets that are gone are dropped, the parents' as well.
    daemon.until("no socket followed", |metrics| {
        [server_pid, client_pid]
            .iter()
            .all(|pid| metrics.of(*pid, "socket_process_open_sockets", &[]) == 0.0)
    });
    metrics.assert_complete();
    server.end();
    client.end();
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn mptcp_on_both_sides() {
    counted_once("262");
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn plain_tcp_to_an_mptcp_listener() {
    counted_once("0");
}

/// Connections that fail are counted once too.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn refused_mptcp_connects_count_once() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut program = netns.script(
        &[
            GUARD,
            r"
for family, address in FAMILIES:
    closed = closed_port(family, address)
    for _ in range(10):
        target = closed.getsockname()
        assert outcome(lambda: connect(family, target, MPTCP)) == 'ECONNREFUSED'
print('done')
input()
",
        ]
        .concat(),
        &[],
    );
    if program.line() == "unsupported" {
        skip!("this kernel has no MPTCP");
    }
    let pid = program.pid();
    let metrics = daemon.scrape();
    let refused = [("result", "ECONNREFUSED")];
    metrics.assert_of(pid, "socket_connects_total", &refused, 20.0);
    metrics.assert_of(pid, "socket_connects_total", &[], 20.0);
    assert_eq!(live(&metrics, pid, "SYN_SENT"), 0.0);
    metrics.assert_complete();
    program.end();
}

/// A second subflow of every connection, opened by a kernel thread: it belongs to the
/// process that holds the parent, on both sides.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn joined_subflows_belong_to_the_owner_of_the_parent() {
    if !kernel_at_least(5, 15) {
        skip!("a subflow does not lead to its parent before 5.15");
    }
    let netns = Netns::new();
    netns.run("ip", &["addr", "add", "10.77.0.1/32", "dev", "lo"]);
    for args in [
        &[
            "mptcp",
            "limits",
            "set",
            "subflow",
            "2",
            "add_addr_accepted",
            "2",
        ][..],
        &[
            "mptcp",
            "endpoint",
            "add",
            "10.77.0.1",
            "dev",
            "lo",
            "subflow",
        ],
    ] {
        let output = netns.command("ip").args(args).output().unwrap();
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr).into_owned();
            skip!("ip mptcp does not work here: {reason}");
        }
    }
    let daemon = Daemon::shared();
    let one = "FAMILIES = FAMILIES[:1]\n";
    let Some((mut server, ports)) = start_server(&netns, one) else {
        return;
    };
    let mut client = netns.script(&[GUARD, one, CLIENT].concat(), &["262", &ports, "3"]);
    server.say("3");
    server.expect("accepting");
    client.expect("connected");
    server.go();
    server.expect("accepted");
    client.expect("answered");
    let started = Instant::now();
    while netns.ss("established") < 12 {
        if started.elapsed() > Duration::from_secs(20) {
            skip!("no subflow was added:\n{}", netns.run("ss", &["-Htani"]));
        }
    }
    let (server_pid, client_pid) = (server.pid(), client.pid());
    let metrics = daemon.until("subflows on both sides", |metrics| {
        [server_pid, client_pid]
            .iter()
            .all(|pid| live(metrics, *pid, "ESTABLISHED") >= 6.0)
    });
    for pid in [server_pid, client_pid] {
        assert_eq!(
            live(&metrics, pid, "ESTABLISHED"),
            6.0,
            "{}",
            metrics.shown()
        );
    }
    if metrics.observes("accept") {
        assert_eq!(metrics.of(server_pid, "socket_accepts_total", &[]), 3.0);
    }
    let ok = [("result", "ok")];
    metrics.assert_of(client_pid, "socket_connects_total", &ok, 6.0);
    server.go();
    server.expect("closed");
    client.go();
    client.expect("closed");
    let metrics = daemon.until("every gauge at 0", |metrics| {
        [server_pid, client_pid].iter().all(|pid| {
            metrics.of(*pid, "socket_connections", &[]) == 0.0
                && metrics.of(*pid, "socket_process_open_sockets", &[]) == 0.0
        })
    });
    metrics.assert_complete();
    server.end();
    client.end();
}
