//! TIME_WAIT, on the real kernel: entries and ends, compared with the number of timewait sockets that
//! the kernel and `ss` report.

use std::time::{Duration, Instant};

use observer_test_support::{Daemon, Metrics, Netns, scaled};

const ENTERED: &str = "socket_time_wait_entered_total";

/// Connections that did not enter FIN_WAIT2 as a timewait socket: if close() still holds the socket when the peer's ACK arrives,
/// as in a guest that stands still for a while, the kernel waits with a timer and then resets them (`tcp_keepalive_timer`).
fn reset(metrics: &Metrics, pid: u32) -> f64 {
    metrics.of(pid, "socket_resets_total", &[("direction", "sent")])
}

/// Serves HTTP/1.0 on both families: one request per connection. The first argument says which side closes first.
const SERVER: &str = r"
listeners = [listen(family, address) for family, address in FAMILIES]
print(*[listener.getsockname()[1] for listener in listeners])
def serve(listener, count, first):
    for _ in range(count):
        conn, _ = listener.accept()
        request = b''
        while not request.endswith(b'\r\n\r\n'):
            request += conn.recv(4096)
        conn.sendall(b'HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok')
        if not first:
            assert conn.recv(1) == b''
        conn.close()
threads = [threading.Thread(target=serve, args=(listener, int(sys.argv[2]), sys.argv[1] == 'server'))
           for listener in listeners]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print('served')
input()
";

const CLIENT: &str = r"
for (family, address), port in zip(FAMILIES, sys.argv[3].split()):
    for number in range(int(sys.argv[2])):
        # A port for each: the kernel's own choice starts anew every ten seconds, and a SYN from a
        # port that was taken before ends the server's TIME_WAIT.
        conn = socket.socket(family)
        conn.bind((address, 20000 + number))
        conn.connect((address, int(port)))
        conn.sendall(b'GET / HTTP/1.0\r\n\r\n')
        reply = b''
        while not reply.endswith(b'ok'):
            reply += conn.recv(4096)
        if sys.argv[1] == 'server':
            assert conn.recv(1) == b''
        conn.close()
print('fetched')
input()
";

/// 1,000 short connections, fewer where each takes milliseconds of a processor; closed first by `closer`.
fn short_connections(closer: &str) {
    let each = scaled(500, 100);
    let netns = Netns::new();
    netns.keep_time_wait();
    let daemon = Daemon::shared();
    let started = Instant::now();
    let count = each.to_string();
    let mut server = netns.script(SERVER, &[closer, &count]);
    let ports = server.line();
    let mut client = netns.script(CLIENT, &[closer, &count, &ports]);
    // A machine too slow for sockets to be compared below is slow here.
    let patience = Duration::from_secs(300);
    assert_eq!(server.line_within(patience), "served");
    assert_eq!(client.line_within(patience), "fetched");
    let (first, other) = match closer {
        "server" => (server.pid(), client.pid()),
        _ => (client.pid(), server.pid()),
    };
    let total = 2 * each;
    let metrics = daemon.until("all entries", |metrics| {
        metrics.of(first, ENTERED, &[]) >= total as f64
    });
    assert_eq!(
        metrics.of(first, ENTERED, &[]),
        total as f64,
        "{}",
        metrics.shown()
    );
    assert_eq!(metrics.of(other, ENTERED, &[]), 0.0, "{}", metrics.shown());
    let transitions = "socket_state_transitions_total";
    let closed = metrics.of(first, transitions, &[("to", "FIN_WAIT1")]);
    assert_eq!(closed, total as f64);

    let (tw, ss) = (netns.sockstat("tw"), netns.ss("time-wait") as u64);
    let metrics = daemon.scrape();
    // None has left yet, even on a slow machine: they stay for 60 seconds.
    if started.elapsed() < Duration::from_secs(50) {
        let mut why = netns.netstat();
        why.retain(|name, _| name.starts_with("TW") || name.starts_with("TCPTimeWait"));
        let took = started.elapsed();
        assert_eq!((tw, ss), (total, total), "after {took:?}: {why:?}");
        assert_live(&metrics, first, total);
    } else {
        left_out!("this machine was too slow to compare with sockstat ({tw}, {ss})");
    }
    assert_eq!(metrics.of(other, "socket_time_wait", &[]), 0.0);
    metrics.assert_complete();
    server.go();
    client.go();
    server.finish();
    client.finish();
}

fn assert_live(metrics: &Metrics, pid: u32, expected: u64) {
    let live = metrics.of(pid, "socket_time_wait", &[]);
    assert_eq!(live, expected as f64, "{}", metrics.shown());
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn belongs_to_the_server_that_closes_first() {
    short_connections("server");
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn belongs_to_the_client_that_closes_first() {
    short_connections("client");
}

/// Ends that look like an orderly one, or nearly, but leave nothing behind.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn aborted_and_refused_do_not_count() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut program = netns.script(
        r"
unspec = struct.pack('H14x', socket.AF_UNSPEC)
for family, address in FAMILIES:
    for _ in range(10):
        client, server = pair(family, address)
        reset(client)
        server.close()
        closed = closed_port(family, address)
        assert outcome(lambda: connect(family, closed.getsockname())) == 'ECONNREFUSED'
        # From FIN_WAIT2: by the peer's RST, by SO_LINGER 0, by connect(AF_UNSPEC).
        client, server = pair(family, address)
        half_close(client)
        reset(server)
        wait(lambda: state(client) == 7)
        client.close()
        for abort in (reset, lambda sock: LIBC.connect(sock.fileno(), unspec, len(unspec))):
            client, server = pair(family, address)
            client.shutdown(socket.SHUT_WR)
            wait(lambda: state(client) == 5)
            abort(client)
            wait(lambda: state(server) == 7)
            server.close()
print('done')
input()
",
        &[],
    );
    program.expect("done");
    let metrics = daemon.scrape();
    assert_eq!(
        metrics.of(program.pid(), ENTERED, &[]),
        0.0,
        "{}",
        metrics.shown()
    );
    assert_live(&metrics, program.pid(), 0);
    assert_eq!(netns.sockstat("tw"), 0);
    metrics.assert_complete();
    program.go();
    program.finish();
}

/// Other ways to end in order.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn other_orderly_ends_count_once() {
    let netns = Netns::new();
    netns.keep_time_wait();
    let daemon = Daemon::shared();
    let started = Instant::now();
    let mut program = netns.script(
        r"
kept = []
for family, address in FAMILIES:
    for _ in range(10):
        # shutdown() on both sides, close() later.
        client, server = pair(family, address)
        client.shutdown(socket.SHUT_WR)
        assert server.recv(1) == b''
        server.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b''
        client.close()
        server.close()
        # close() before the peer's FIN: in the mini-socket's FIN_WAIT2 until then.
        client, server = pair(family, address)
        client.close()
        assert server.recv(1) == b''
        server.close()
        # Left in FIN_WAIT2, which counts against tcp_max_tw_buckets as well.
        client, server = pair(family, address)
        client.close()
        assert server.recv(1) == b''
        kept.append(server)
print('done')
input()
",
        &[],
    );
    program.expect("done");
    let pid = program.pid();
    let metrics = daemon.until("60 entries", |metrics| {
        metrics.of(pid, ENTERED, &[]) + reset(metrics, pid) >= 60.0
    });
    let entered = 60.0 - reset(&metrics, pid);
    assert!(entered >= 55.0, "{}", metrics.shown());
    metrics.assert_of(pid, ENTERED, &[], entered);
    if started.elapsed() < Duration::from_secs(50) {
        assert_eq!(netns.sockstat("tw"), 60);
        assert_eq!(netns.ss("time-wait"), 40);
        assert_live(&daemon.scrape(), pid, 60);
    } else {
        left_out!("this machine was too slow to compare with sockstat");
    }
    metrics.assert_complete();
    program.go();
    program.finish();
}

/// Ends of which only some go through TIME_WAIT, although all leave by FIN_WAIT2 or CLOSING without
/// an error. Prints how many entries there are if nothing is aborted for late data or TCP_LINGER2.
const MIXED: &str = r"
kept = []
expected = 0
for family, address in FAMILIES:
    for _ in range(10):
        # The next request crosses the FIN, and its ACK is that of the FIN.
        client, server = pair(family, address)
        client.sendall(b'GET')
        server.recv(9)
        server.sendall(b'200')
        client.recv(9)
        server.close()
        while state(client) != 8:
            pass
        client.sendall(b'GET')
        kept.append(client)
        expected += 1
        # No FIN_WAIT2 for orphans.
        client, server = pair(family, address)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, -1)
        server.close()
        wait(lambda: state(client) in (7, 8))
        kept.append(client)
        expected += 1
        # An early answer, with and without waiting for the rest of the request.
        client, server = pair(family, address)
        client.sendall(b'POST')
        wait(lambda: server.recv(9, socket.MSG_PEEK))
        server.sendall(b'413')
        server.close()
        kept.append(client)
        client, server = pair(family, address)
        client.sendall(b'POST')
        server.sendall(b'413')
        server.shutdown(socket.SHUT_WR)
        while client.recv(9):
            pass
        client.close()
        while server.recv(9):
            pass
        server.close()
        expected += 1
    for orphan in (False, True):
        client, server = closing(family, address)
        if orphan:
            server.close()
        hear(client)
        kept += [client, server]
        expected += 2
    client, server = closing(family, address, b'unread')
    server.close()
    kept.append(client)
print(expected)
input()
";

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn ends_with_an_rst_do_not_count() {
    let netns = Netns::new();
    netns.keep_time_wait();
    let daemon = Daemon::shared();
    let mut program = netns.script(MIXED, &[]);
    let closed: u64 = program.line().parse().unwrap();
    // Data that is on its way may still end some.
    let aborted = || {
        let netstat = netns.netstat();
        let names = ["TCPAbortOnData", "TCPAbortOnLinger"];
        names.iter().map(|name| netstat[*name] as u64).sum::<u64>()
    };
    // At least those with TCP_LINGER2.
    assert!(aborted() >= 20, "{:?}", netns.netstat());
    let pid = program.pid();
    daemon.until("the entries", |metrics| {
        metrics.of(pid, ENTERED, &[]) == (closed - aborted()) as f64
    });
    println!("{closed} closed, {} of them with an RST", aborted());
    // On a slow machine, the ACK of the FIN may come alone, and the data then ends TIME_WAIT.
    let metrics = daemon.until("the kernel's number", |metrics| {
        metrics.of(pid, "socket_time_wait", &[]) == netns.sockstat("tw") as f64
    });
    metrics.assert_of(pid, ENTERED, &[], (closed - aborted()) as f64);
    metrics.assert_complete();
    program.end();
}

/// `tcp_fin_timeout` limits how long an orphan waits for the peer's FIN: above 60 seconds as a full
/// socket first, below as a timewait socket, which then ends before.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn orphans_wait_for_tcp_fin_timeout() {
    const ORPHANS: &str = r"
kept = []
for family, address in FAMILIES:
    for _ in range(10):
        client, server = pair(family, address)
        server.close()
        wait(lambda: state(client) == 8)
        kept.append(client)
print('closed')
input()
# Late data, which ends a full socket by an RST and does not reach a timewait socket that is gone.
for client in kept[::2]:
    try:
        client.send(b'late')
    except OSError:
        pass
print('sent')
input()
";
    let daemon = Daemon::shared();
    let netns = Netns::new();
    netns.sysctl("net.ipv4.tcp_fin_timeout", "1");
    let mut program = netns.script(ORPHANS, &[]);
    program.expect("closed");
    let pid = program.pid();
    let metrics = daemon.until("the entries", |metrics| {
        metrics.of(pid, ENTERED, &[]) + reset(metrics, pid) >= 20.0
    });
    let entered = 20.0 - reset(&metrics, pid);
    assert!(entered >= 15.0, "{}", metrics.shown());
    metrics.assert_of(pid, ENTERED, &[("substate", "FIN_WAIT2")], entered);
    daemon.wait("their end", |_| netns.sockstat("tw") == 0);
    let metrics = daemon.until("none", |metrics| {
        metrics.of(program.pid(), "socket_time_wait", &[]) == 0.0
    });
    let ended = metrics.of(program.pid(), "socket_time_wait_ended_total", &[]);
    assert_eq!(ended, entered, "{}", metrics.shown());
    program.go();
    program.expect("sent");
    program.end();

    netns.sysctl("net.ipv4.tcp_fin_timeout", "63");
    let mut program = netns.script(ORPHANS, &[]);
    program.expect("closed");
    daemon.scrape().assert_of(program.pid(), ENTERED, &[], 0.0);
    program.go();
    program.expect("sent");
    daemon.wait("the entries", |_| netns.sockstat("tw") == 10);
    daemon.until("the entries", |metrics| {
        metrics.of(program.pid(), ENTERED, &[]) >= 10.0
    });
    daemon.scrape().assert_of(program.pid(), ENTERED, &[], 10.0);
    program.end();
}
