//! RSTs, on the real kernel.

use observer_test_support::{Daemon, Metrics, Netns, kernel_at_least};

/// Half-close misused: shutdown(SHUT_WR), the peer answers, close() with the answer unread.
/// An RST, not an orderly end: nothing enters TIME_WAIT, although the connection was in
/// FIN_WAIT2.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn half_close_then_close_with_unread_data() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let before = netns.snmp();
    let mut program = netns.script(
        r"
for family, address in FAMILIES:
    for _ in range(10):
        client, server = pair(family, address)
        half_close(client)
        assert server.recv(1) == b''
        server.sendall(b'answer')
        assert client.recv(6, socket.MSG_PEEK) == b'answer'
        client.close()
        # A close() ends later while the observer looks at the descriptor.
        wait(lambda: state(server) == 7)
        server.close()
print('done')
input()
",
        &[],
    );
    program.expect("done");
    let pid = program.pid();
    let metrics = daemon.until("20 RSTs", |metrics| {
        sent(metrics, pid, "UNREAD_AFTER_SHUTDOWN") >= 20.0
            && received(metrics, pid, "IN_CLOSE_WAIT") >= 20.0
    });
    assert_eq!(all(&metrics, pid, "sent"), 20.0, "{}", metrics.shown());
    assert_eq!(all(&metrics, pid, "received"), 20.0, "{}", metrics.shown());
    assert_eq!(metrics.of(pid, "socket_time_wait_entered_total", &[]), 0.0);
    assert_eq!(netns.ss("time-wait"), 0);
    let after = netns.snmp();
    assert_eq!(after["OutRsts"] - before["OutRsts"], 20);
    metrics.assert_complete();
    program.end();
}

const RESETS: &str = "socket_resets_total";

pub fn sent(metrics: &Metrics, pid: u32, reason: &str) -> f64 {
    metrics.of(pid, RESETS, &[("direction", "sent"), ("reason", reason)])
}

pub fn received(metrics: &Metrics, pid: u32, reason: &str) -> f64 {
    metrics.of(
        pid,
        RESETS,
        &[("direction", "received"), ("reason", reason)],
    )
}

/// All RSTs of a process in one direction.
pub fn all(metrics: &Metrics, pid: u32, direction: &str) -> f64 {
    metrics.of(pid, RESETS, &[("direction", direction)])
}

/// Runs a script that prints `done`, and checks the RSTs it sent and received, by reason; that
/// there were no others; and that the kernel counted the same number.
fn check(source: &str, sends: &[(&str, u32)], receives: &[(&str, u32)]) {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let before = netns.snmp();
    let mut program = netns.script(source, &[]);
    program.expect("done");
    let pid = program.pid();
    let total = |counts: &[(&str, u32)]| counts.iter().map(|(_, n)| f64::from(*n)).sum::<f64>();
    let metrics = daemon.until("RSTs", |metrics| {
        all(metrics, pid, "sent") >= total(sends)
            && all(metrics, pid, "received") >= total(receives)
    });
    for (reason, count) in sends {
        let ours = sent(&metrics, pid, reason);
        assert_eq!(ours, f64::from(*count), "{reason}\n{}", metrics.shown());
    }
    for (reason, count) in receives {
        let ours = received(&metrics, pid, reason);
        assert_eq!(ours, f64::from(*count), "{reason}\n{}", metrics.shown());
    }
    assert_eq!(
        all(&metrics, pid, "sent"),
        total(sends),
        "{}",
        metrics.shown()
    );
    assert_eq!(
        all(&metrics, pid, "received"),
        total(receives),
        "{}",
        metrics.shown()
    );
    let after = netns.snmp();
    let of_kernel = |counter: &str| (after[counter] - before[counter]) as f64;
    // A slow machine sends a segment again to a socket that is gone, and an RST of no process answers it.
    let most = total(sends) + of_kernel("RetransSegs");
    let kernel = of_kernel("OutRsts");
    assert!(
        (total(sends)..=most).contains(&kernel),
        "{kernel} RSTs, {sends:?}, at most {most}"
    );
    metrics.assert_complete();
    program.end();
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn close_with_so_linger_zero() {
    check(
        r"
for family, address in FAMILIES:
    for _ in range(10):
        client, server = pair(family, address)
        reset(client)
        wait(lambda: state(server) == 7)
        server.close()
print('done')
input()
",
        &[("LINGER_ZERO", 20)],
        &[("IN_ESTABLISHED", 20)],
    );
}

/// close() with data that was not read: before and after the peer's FIN. Not reading the
/// end-of-file is no fault.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn close_with_unread_data() {
    check(
        r"
for family, address in FAMILIES:
    for _ in range(10):
        client, server = pair(family, address)
        client.sendall(b'unread')
        assert server.recv(6, socket.MSG_PEEK) == b'unread'
        server.close()
        wait(lambda: state(client) == 7)
        client.close()

        client, server = pair(family, address)
        client.sendall(b'unread')
        half_close(client)
        server.close()
        wait(lambda: state(client) == 7)
        client.close()

        client, server = pair(family, address)
        half_close(client)
        server.close()
        client.close()
print('done')
input()
",
        &[("TCP_ABORT_ON_CLOSE", 40)],
        &[("IN_ESTABLISHED", 20), ("IN_FIN_WAIT2", 20)],
    );
}

/// The same in LAST_ACK and CLOSING: after shutdown(), before the peer has acknowledged the FIN. The
/// clients are deaf, so they receive no RST.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn close_with_unread_data_while_the_fin_is_unanswered() {
    check(
        r"
for family, address in FAMILIES:
    for _ in range(10):
        client, server = pair(family, address)
        client.sendall(b'unread')
        half_close(client)
        deafen(client)
        server.shutdown(socket.SHUT_WR)
        assert state(server) == 9
        server.close()
        client.close()

        client, server = closing(family, address, b'unread')
        server.close()
        # Otherwise it would send its data again.
        reset(client)

        # The end-of-file alone is no data.
        client, server = pair(family, address)
        half_close(client)
        deafen(client)
        server.shutdown(socket.SHUT_WR)
        assert state(server) == 9
        server.close()
        hear(client)
        client.close()
print('done')
input()
",
        &[("TCP_ABORT_ON_CLOSE", 40), ("LINGER_ZERO", 20)],
        &[],
    );
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn connect_af_unspec_sends_rst() {
    check(
        r"
unspec = struct.pack('H14x', socket.AF_UNSPEC)
for family, address in FAMILIES:
    for _ in range(10):
        client, server = pair(family, address)
        assert LIBC.connect(client.fileno(), unspec, len(unspec)) == 0
        wait(lambda: state(server) == 7)
        client.close()
        server.close()
print('done')
input()
",
        &[("DISCONNECT", 20)],
        &[("IN_ESTABLISHED", 20)],
    );
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn listener_closed_with_unaccepted_connections() {
    check(
        r"
for family, address in FAMILIES:
    listener = listen(family, address)
    clients = [connect(family, listener.getsockname()) for _ in range(10)]
    wait(lambda: queued(listener) == 10)
    listener.close()
    wait(lambda: all(state(client) == 7 for client in clients))
    for client in clients:
        client.close()
print('done')
input()
",
        &[("UNACCEPTED_CHILD", 20)],
        &[("IN_ESTABLISHED", 20)],
    );
}

/// The peer's RST for a connection that was closed here but whose FIN the peer has not
/// answered. With `tcp_fin_timeout` above 60 seconds, that connection is still a full socket.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn rst_received_in_fin_wait2() {
    check(
        r"
open('/proc/sys/net/ipv4/tcp_fin_timeout', 'w').write('120')
for family, address in FAMILIES:
    for _ in range(10):
        client, server = pair(family, address)
        port = client.getsockname()[1]
        client.close()
        wait(lambda: 5 in states_of(port))
        reset(server)
print('done')
input()
",
        &[("LINGER_ZERO", 20)],
        &[("IN_FIN_WAIT2", 20)],
    );
}

/// `ss -K`: the RST counts for the owner of the connection. `half` has it close its half before.
fn killed(keepalive: &str, half: bool) {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let before = netns.snmp();
    let mut program = netns.script(
        r"
pairs = [pair(family, address) for family, address in FAMILIES for _ in range(5)]
for _, server in pairs:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(sys.argv[1]))
    if int(sys.argv[2]):
        half_close(server)
print(*[server.getsockname()[1] for _, server in pairs])
input()
states = [(state(client), state(server)) for client, server in pairs]
print('killed' if all(pair == (7, 7) for pair in states) else states)
input()
",
        &[keepalive, if half { "1" } else { "0" }],
    );
    let (of, at_peer) = if half {
        ("fin-wait-2", "IN_CLOSE_WAIT")
    } else {
        ("established", "IN_ESTABLISHED")
    };
    let ports = program.line();
    for port in ports.split(' ') {
        netns.run(
            "ss",
            &["-KHtn", "state", of, "sport", "=", &format!(":{port}")],
        );
    }
    if netns.ss(of) != 0 {
        skip!("the kernel cannot kill sockets (CONFIG_INET_DIAG_DESTROY)");
    }
    program.go();
    program.expect("killed");
    let pid = program.pid();
    let metrics = daemon.scrape();
    assert_eq!(
        sent(&metrics, pid, "ABORTED_BY_ADMIN"),
        10.0,
        "{}",
        metrics.shown()
    );
    assert_eq!(all(&metrics, pid, "sent"), 10.0, "{}", metrics.shown());
    assert_eq!(
        received(&metrics, pid, at_peer),
        10.0,
        "{}",
        metrics.shown()
    );
    assert_eq!(netns.snmp()["OutRsts"] - before["OutRsts"], 10);
    metrics.assert_complete();
    program.end();
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn connections_killed_by_ss() {
    killed("0", false);
}

/// The same if keepalive is also a possible reason.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn connections_with_keepalive_killed_by_ss() {
    if !kernel_at_least(6, 12) {
        skip!("before 6.12 the kernel gives no reason, and keepalive is taken for it");
    }
    killed("1", false);
    killed("1", true);
}

/// A full accept queue answers with RSTs (`tcp_abort_on_overflow`).
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn refused_by_a_full_accept_queue() {
    let netns = Netns::new();
    netns.sysctl("net.ipv4.tcp_abort_on_overflow", "1");
    let daemon = Daemon::shared();
    let mut server = netns.script(
        r"
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
# A connection enters the queue with its first data, of which four fit.
listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
listener.listen(3)
print(listener.getsockname()[1])
input()
",
        &[],
    );
    let port = server.line();
    let mut client = netns.script(
        r"
clients = []
for _ in range(2):
    few = [connect(socket.AF_INET, ('127.0.0.1', int(sys.argv[1]))) for _ in range(3)]
    for client in few:
        client.sendall(b'x')
    clients += few
wait(lambda: sum(state(client) == 7 for client in clients) == 2)
print('refused')
input()
",
        &[&port],
    );
    client.expect("refused");
    let metrics = daemon.scrape();
    let refused = sent(&metrics, server.pid(), "REFUSED_BY_LISTENER");
    let all = all(&metrics, server.pid(), "sent");
    assert_eq!((refused, all), (2.0, 2.0), "{}", metrics.shown());
    metrics.assert_complete();
    client.end();
    server.end();
}
