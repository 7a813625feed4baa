//! TIME_WAIT, on the real kernel: entries inferred from the state machine, compared with
//! the number of timewait sockets that the kernel and `ss` report.

use std::time::{Duration, Instant};

use observer_test_support::{Daemon, Metrics, Netns};

const ENTERED: &str = "socket_time_wait_entered_total";

/// Serves HTTP/1.0 on both families: one request per connection. Who closes first is told
/// by the first argument.
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

/// 1,000 short connections, closed first by `closer`.
fn short_connections(closer: &str) {
    const EACH: u64 = 500;
    let netns = Netns::new();
    netns.keep_time_wait();
    let daemon = Daemon::start(&[]);
    let started = Instant::now();
    let count = EACH.to_string();
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
    let total = 2 * EACH;
    let metrics = daemon.until("1000 entries", |metrics| {
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
    // None has left yet, however slow the machine: they stay for 60 seconds.
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
    let daemon = Daemon::start(&[]);
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
    let daemon = Daemon::start(&[]);
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
        metrics.of(pid, ENTERED, &[]) >= 60.0
    });
    assert_eq!(metrics.of(pid, ENTERED, &[]), 60.0, "{}", metrics.shown());
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
