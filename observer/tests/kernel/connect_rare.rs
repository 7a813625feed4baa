//! Rare ways to connect, on the real kernel: interrupted calls, TCP Fast Open, a socket
//! that connects to itself, IPv4 through an IPv6 socket.

use std::collections::BTreeMap;

use observer_test_support::{Daemon, Metrics, Netns};

for_each_kind_of_hook! {
    af_unspec_while_connect_waits: "connect";
}

/// What observer counted for a process, by result.
fn outcomes(metrics: &Metrics, pid: u32) -> BTreeMap<String, u64> {
    metrics.counted(pid, "socket_connects_total", |labels| {
        labels["result"].clone()
    })
}

fn compare(netns: &Netns, source: &str) {
    let daemon = Daemon::shared();
    let before = netns.snmp();
    let mut program = netns.script(source, &[]);
    let reported = program.tally();
    println!("reported {reported:?}");
    let pid = program.pid();
    let metrics = daemon.scrape();
    assert_eq!(outcomes(&metrics, pid), reported, "{}", metrics.shown());
    let opened = [("from", "CLOSE"), ("to", "SYN_SENT")];
    let opened = metrics.of(pid, "socket_state_transitions_total", &opened);
    let after = netns.snmp();
    let kernel = after["ActiveOpens"] - before["ActiveOpens"];
    assert_eq!(opened, kernel as f64, "{}", metrics.shown());
    metrics.assert_complete();
    program.end();
}

/// A signal interrupts connect(), which continues in the background; Python then waits and reads SO_ERROR.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn connect_interrupted_by_a_signal() {
    let netns = Netns::new();
    netns.sysctl("net.ipv4.tcp_syn_retries", "1");
    compare(
        &netns,
        r"
tally = Tally()
signals = []
signal.signal(signal.SIGALRM, lambda *_: signals.append(1))
for family, address in FAMILIES:
    listener, fillers = deaf(family, address)
    tally.add('ok', 2)
    before = len(signals)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    client = socket.socket(family)
    tally.add(outcome(lambda: client.connect(listener.getsockname())))
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert len(signals) > before
    client.close()
print(tally)
input()
",
    );
}

/// connect() returns at once and the SYN goes with the first data.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn tcp_fast_open() {
    let netns = Netns::new();
    // Client side, without a cookie.
    netns.sysctl("net.ipv4.tcp_fastopen", "5");
    compare(
        &netns,
        r"
tally = Tally()
def start(family, target):
    client = socket.socket(family)
    client.setsockopt(socket.IPPROTO_TCP, 30, 1)    # TCP_FASTOPEN_CONNECT
    client.connect(target)
    return client
for family, address in FAMILIES:
    listener = listen(family, address)
    closed = closed_port(family, address).getsockname()
    for _ in range(5):
        client = start(family, listener.getsockname())
        client.sendall(b'early')
        server, _ = listener.accept()
        assert server.recv(5) == b'early'
        tally.add('ok')
        client.close()
        server.close()
        client = start(family, closed)
        tally.add(outcome(lambda: client.sendall(b'early')))
        client.close()
        client = socket.socket(family)
        client.sendto(b'early', 0x20000000, listener.getsockname())    # MSG_FASTOPEN
        tally.add('ok')
        client.close()
        listener.accept()[0].close()
print(tally)
input()
",
    );
}

/// Established, and reset before the program asks again: connect() returns that, and the attempt
/// succeeded all the same.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn reset_before_connect_is_called_again() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut program = netns.script(
        r"
for family, address in FAMILIES:
    listener = listen(family, address)
    for _ in range(5):
        client = socket.socket(family)
        client.setblocking(False)
        assert outcome(lambda: client.connect(listener.getsockname())) == 'EINPROGRESS'
        server, _ = listener.accept()
        reset(server)
        wait(lambda: state(client) == 7)
        assert outcome(lambda: client.connect(listener.getsockname())) == 'ECONNRESET'
        client.close()
print('done')
input()
",
        &[],
    );
    program.expect("done");
    let metrics = daemon.scrape();
    let pid = program.pid();
    assert_eq!(outcomes(&metrics, pid), [("ok".to_owned(), 10)].into());
    metrics.assert_complete();
    program.end();
}

/// A connection that is ended with connect(AF_UNSPEC), and an attempt of the same socket that fails before a SYN is sent.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn connect_again_after_af_unspec() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut program = netns.script(
        r"
unspec = struct.pack('H14x', socket.AF_UNSPEC)
for family, address in FAMILIES:
    listener = listen(family, address)
    nowhere = '192.0.2.1' if family == socket.AF_INET else '2001:db8::1'
    for _ in range(5):
        client = connect(family, listener.getsockname())
        assert LIBC.connect(client.fileno(), unspec, len(unspec)) == 0
        assert outcome(lambda: client.connect((nowhere, 1))) == 'ENETUNREACH'
        client.close()
        listener.accept()[0].close()
print('done')
input()
",
        &[],
    );
    program.expect("done");
    let metrics = daemon.scrape();
    let expected = [("ok".to_owned(), 10), ("ENETUNREACH".to_owned(), 10)];
    assert_eq!(outcomes(&metrics, program.pid()), expected.into());
    metrics.assert_complete();
    program.end();
}

/// connect(AF_UNSPEC) by another thread while connect() waits: one outcome, that of the call.
fn af_unspec_while_connect_waits(daemon: &Daemon) {
    let netns = Netns::new();
    let before = netns.snmp();
    let mut program = netns.script(
        r"
unspec = struct.pack('H14x', socket.AF_UNSPEC)
kept, results = [], []
def connect_to(client, target):
    results.append(outcome(lambda: client.connect(target)))
for family, address in FAMILIES:
    listener, fillers = deaf(family, address)
    kept += [listener, *fillers]
    for _ in range(5):
        client = socket.socket(family)
        thread = threading.Thread(target=connect_to, args=(client, listener.getsockname()))
        thread.start()
        wait(lambda: state(client) == 2)
        # Some kernels refuse it while another thread waits.
        if LIBC.connect(client.fileno(), unspec, len(unspec)):
            client.shutdown(socket.SHUT_RDWR)
        thread.join()
        kept.append(client)
print(*results)
input()
",
        &[],
    );
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for result in program.line().split(' ') {
        *expected.entry(result.to_owned()).or_default() += 1;
    }
    assert_eq!(expected.values().sum::<u64>(), 10, "{expected:?}");
    let attempts = (netns.snmp()["ActiveOpens"] - before["ActiveOpens"]) as u64;
    // Those that fill the queues.
    *expected.entry("ok".to_owned()).or_default() += attempts - 10;
    let metrics = daemon.scrape();
    assert_eq!(outcomes(&metrics, program.pid()), expected);
    metrics.assert_complete();
    program.end();
}

/// Connections of another host or time that a program restores: no SYN is sent.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn restored_connections_are_no_attempts() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let before = netns.snmp();
    let mut program = netns.script(
        r"
for family, address in FAMILIES:
    listener = listen(family, address)
    for _ in range(5):
        client = socket.socket(family)
        client.setsockopt(socket.IPPROTO_TCP, 19, 1)    # TCP_REPAIR
        client.bind((address, 0))
        client.connect((address, 9))
        assert state(client) == 1
        client.close()
        connect(family, listener.getsockname()).close()
print('done')
input()
",
        &[],
    );
    program.expect("done");
    assert_eq!(netns.snmp()["ActiveOpens"] - before["ActiveOpens"], 10);
    let metrics = daemon.scrape();
    let expected = [("ok".to_owned(), 10)];
    assert_eq!(outcomes(&metrics, program.pid()), expected.into());
    let seconds = "socket_connect_seconds_count";
    metrics.assert_of(program.pid(), seconds, &[], 10.0);
    metrics.assert_complete();
    program.end();
}

/// One socket, both ends: SYN_SENT, SYN_RECV, ESTABLISHED, and at the end CLOSING.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn socket_connected_to_itself() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut program = netns.script(
        r"
socks = []
for family, address in FAMILIES:
    for _ in range(5):
        sock = socket.socket(family)
        # Not the same for both families, which states_of() does not tell apart.
        sock.bind((address, 20000 + len(socks)))
        sock.connect(sock.getsockname())
        sock.sendall(b'x')
        assert sock.recv(1) == b'x'
        socks.append(sock)
print('connected')
input()
for sock in socks:
    port = sock.getsockname()[1]
    sock.close()
    wait(lambda: states_of(port) == [6])
print('closed')
input()
",
        &[],
    );
    program.expect("connected");
    let pid = program.pid();
    let established = [("state", "ESTABLISHED")];
    let metrics = daemon.scrape();
    metrics.assert_of(pid, "socket_connections", &established, 10.0);
    assert_eq!(netns.ss("established"), 10);
    assert_eq!(outcomes(&metrics, pid), [("ok".to_owned(), 10)].into());
    metrics.assert_complete();
    program.go();
    program.expect("closed");
    let metrics = daemon.scrape();
    let closing = [("from", "CLOSING"), ("to", "CLOSE")];
    let entered = "socket_time_wait_entered_total";
    metrics.assert_of(pid, entered, &[], 10.0);
    metrics.assert_of(pid, "socket_state_transitions_total", &closing, 10.0);
    assert_eq!(metrics.of(pid, "socket_connections", &[]), 0.0);
    metrics.assert_complete();
    program.end();
}

/// IPv4 connections of an IPv6 socket, which is of family AF_INET6 to the end.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn ipv4_mapped_addresses() {
    let netns = Netns::new();
    compare(
        &netns,
        r"
tally = Tally()
listener = listen(socket.AF_INET6, '::')
port = listener.getsockname()[1]
closed = closed_port(*FAMILIES[0]).getsockname()[1]
for _ in range(5):
    for family, address in (*FAMILIES, (socket.AF_INET6, '::ffff:127.0.0.1')):
        client = connect(family, (address, port))
        listener.accept()[0].close()
        client.close()
        tally.add('ok')
    target = ('::ffff:127.0.0.1', closed)
    tally.add(outcome(lambda: connect(socket.AF_INET6, target)))
print(tally)
input()
",
    );
}
