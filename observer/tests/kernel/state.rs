//! States, live and in transition, on the real kernel: compared with `ss` and with the
//! counters that `tcp_set_state` and its like keep themselves (`/proc/net/snmp`).

use observer_test_support::{Daemon, Metrics, Netns, Program};

const SERVER: &str = r"
listeners = [listen(family, address) for family, address in FAMILIES]
print(*[listener.getsockname()[1] for listener in listeners])
count = int(input())
kept, ended = [], []
for listener in listeners:
    for _ in range(count):
        conn, _ = listener.accept()
        if conn.recv(1) == b'e':
            ended.append(conn)
            assert conn.recv(1) == b''
        else:
            kept.append(conn)
print('accepted')
input()
for conn in ended + kept + listeners:
    conn.close()
print('closed')
input()
";

const CLIENT: &str = r"
ports = [int(port) for port in sys.argv[1:3]]
keep, end = int(sys.argv[3]), int(sys.argv[4])
kept, ended = [], []
for (family, address), port in zip(FAMILIES, ports):
    for i in range(keep + end):
        conn = connect(family, (address, port))
        if i < end:
            conn.sendall(b'e')
            conn.shutdown(socket.SHUT_WR)
            ended.append(conn)
        else:
            conn.sendall(b'k')
            kept.append(conn)
wait(lambda: all(state(conn) == 5 for conn in ended))
print('connected')
input()
for conn in kept + ended:
    conn.close()
print('closed')
input()
";

/// Live sockets of both processes in a state.
fn live(metrics: &Metrics, pids: [u32; 2], state: &str) -> [f64; 2] {
    pids.map(|pid| metrics.of(pid, "socket_connections", &[("state", state)]))
}

/// Transitions of both processes together.
fn transitions(metrics: &Metrics, pids: &[u32], labels: &[(&str, &str)]) -> i64 {
    let of = |pid: &u32| metrics.of(*pid, "socket_state_transitions_total", labels);
    pids.iter().map(of).sum::<f64>() as i64
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn live_states_equal_ss_and_transitions_equal_snmp() {
    const KEPT: usize = 7;
    const ENDED: usize = 5;
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let before = netns.snmp();
    let mut server = netns.script(SERVER, &[]);
    let ports = server.line();
    let ports: Vec<&str> = ports.split(' ').collect();
    let mut client = netns.script(
        CLIENT,
        &[ports[0], ports[1], &KEPT.to_string(), &ENDED.to_string()],
    );
    server.say(&(KEPT + ENDED).to_string());
    client.expect("connected");
    server.expect("accepted");

    let pids = [server.pid(), client.pid()];
    let metrics = daemon.until("live states", |metrics| {
        live(metrics, pids, "CLOSE_WAIT") == [2.0 * ENDED as f64, 0.0]
    });
    for (state, filter, expected) in [
        ("ESTABLISHED", "established", [2 * KEPT, 2 * KEPT]),
        ("CLOSE_WAIT", "close-wait", [2 * ENDED, 0]),
        ("FIN_WAIT2", "fin-wait-2", [0, 2 * ENDED]),
        ("LISTEN", "listening", [2, 0]),
        ("SYN_SENT", "syn-sent", [0, 0]),
        ("SYN_RECV", "syn-recv", [0, 0]),
        ("FIN_WAIT1", "fin-wait-1", [0, 0]),
        ("LAST_ACK", "last-ack", [0, 0]),
        ("CLOSING", "closing", [0, 0]),
    ] {
        let ours = live(&metrics, pids, state);
        assert_eq!(
            ours,
            expected.map(|n| n as f64),
            "{state}\n{}",
            metrics.shown()
        );
        assert_eq!(netns.ss(filter), expected[0] + expected[1], "{state}");
    }
    let current = netns.snmp()["CurrEstab"];
    assert_eq!(current, 2 * 2 * KEPT as i64 + 2 * ENDED as i64);

    server.go();
    server.expect("closed");
    client.go();
    client.expect("closed");
    let metrics = daemon.until("every gauge at 0", |metrics| {
        pids.iter()
            .all(|pid| metrics.of(*pid, "socket_connections", &[]) == 0.0)
    });
    let after = netns.snmp();
    let delta = |name: &str| after[name] - before[name];
    let of = |labels: &[(&str, &str)]| transitions(&metrics, &pids, labels);
    assert_eq!(
        of(&[("from", "CLOSE"), ("to", "SYN_SENT")]),
        delta("ActiveOpens")
    );
    assert_eq!(
        of(&[("from", "LISTEN"), ("to", "SYN_RECV")]),
        delta("PassiveOpens")
    );
    assert_eq!(delta("ActiveOpens"), 2 * (KEPT + ENDED) as i64);
    assert_eq!(delta("EstabResets"), 0);
    assert_eq!(delta("CurrEstab"), 0);
    // Both sides of every connection close: one of them second.
    let closed = [("from", "CLOSE_WAIT"), ("to", "LAST_ACK")];
    assert_eq!(of(&closed), 2 * (KEPT + ENDED) as i64);
    // Every state that is entered is left.
    for state in [
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "CLOSE_WAIT",
    ] {
        assert_eq!(of(&[("to", state)]), of(&[("from", state)]), "{state}");
    }
    metrics.assert_complete();
    client.end();
    server.end();
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn unanswered_connects_are_in_syn_sent() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let before = netns.snmp();
    let mut program = netns.script(
        r"
pending, keep = [], []
for family, address in FAMILIES:
    listener, fillers = deaf(family, address)
    keep.append((listener, fillers))
    for _ in range(3):
        client = socket.socket(family)
        client.setblocking(False)
        assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        pending.append(client)
print('pending')
input()
for client in pending:
    client.close()
print('closed')
input()
",
        &[],
    );
    program.expect("pending");
    let pid = program.pid();
    let metrics = daemon.scrape();
    assert_eq!(
        live_of(&metrics, &program, "SYN_SENT"),
        6.0,
        "{}",
        metrics.shown()
    );
    assert_eq!(netns.ss("syn-sent"), 6);
    // The fillers' clients, and their children that are never accepted.
    assert_eq!(live_of(&metrics, &program, "ESTABLISHED"), 8.0);
    assert_eq!(netns.ss("established"), 8);
    program.go();
    program.expect("closed");
    let metrics = daemon.scrape();
    assert_eq!(live_of(&metrics, &program, "SYN_SENT"), 0.0);
    assert_eq!(netns.ss("syn-sent"), 0);
    let closed = [("from", "SYN_SENT"), ("to", "CLOSE")];
    assert_eq!(transitions(&metrics, &[pid], &closed), 6);
    let opened = [("from", "CLOSE"), ("to", "SYN_SENT")];
    let after = netns.snmp();
    assert_eq!(
        transitions(&metrics, &[pid], &opened),
        after["ActiveOpens"] - before["ActiveOpens"]
    );
    metrics.assert_complete();
    program.end();
}

fn live_of(metrics: &Metrics, program: &Program, state: &str) -> f64 {
    metrics.of(program.pid(), "socket_connections", &[("state", state)])
}

/// EstabResets counts connections that go from ESTABLISHED or CLOSE_WAIT to CLOSE.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn aborted_connections_equal_estab_resets() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let before = netns.snmp();
    let mut program = netns.script(
        r"
for family, address in FAMILIES:
    for _ in range(8):
        # Both ends in ESTABLISHED.
        client, server = pair(family, address)
        reset(client)
        wait(lambda: state(server) == 7)
        server.close()
        # The aborting end in CLOSE_WAIT.
        client, server = pair(family, address)
        half_close(client)
        assert server.recv(1) == b''
        reset(server)
        wait(lambda: state(client) == 7)
        client.close()
print('done')
input()
",
        &[],
    );
    program.expect("done");
    let pid = program.pid();
    let metrics = daemon.scrape();
    let of = |from| transitions(&metrics, &[pid], &[("from", from), ("to", "CLOSE")]);
    assert_eq!(of("ESTABLISHED"), 32, "{}", metrics.shown());
    assert_eq!(of("CLOSE_WAIT"), 16, "{}", metrics.shown());
    assert_eq!(of("FIN_WAIT2"), 16, "{}", metrics.shown());
    let after = netns.snmp();
    assert_eq!(after["EstabResets"] - before["EstabResets"], 48);
    assert_eq!(live_of(&metrics, &program, "ESTABLISHED"), 0.0);
    metrics.assert_complete();
    program.end();
}
