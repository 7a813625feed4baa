//! Local ports in use, on the real kernel: counted until none is left, and compared with the results of connect().

mod blocked;

use std::{collections::BTreeSet, time::Duration};

use observer_test_support::{Daemon, Metrics, Netns, Program};

/// Generates a test for each function of `blocked`: where timewait sockets are known, and where they are looked for.
macro_rules! with_both {
    ($($test:ident)+) => {
        with_both!(any: $($test)+);
        with_both!(tracepoint: $($test)+);
    };
    ($hooks:ident: $($test:ident)+) => {
        mod $hooks {
            $(
                #[test]
                #[ignore = "needs root and BPF: run by cargo xtask test"]
                fn $test() {
                    super::blocked::$test(stringify!($hooks));
                }
            )+
        }
    };
}

with_both! {
    bound_port_in_time_wait_is_blocked_for_all_destinations
    ports_in_fin_wait2_are_blocked
    ports_in_time_wait_are_blocked_unless_tcp_tw_reuse_allows
    tcp_tw_reuse_delay_of_the_namespace_is_used
}

const USED: &str = "socket_ephemeral_ports_used";
const AVAILABLE: &str = "socket_ephemeral_ports_available";
const RATIO: &str = "socket_ephemeral_ports_ratio";
const CONNECTS: &str = "socket_connects_total";

const FEW_SHOWN: [&str; 2] = ["--top-destinations", "2"];

/// Ports 40000 to 40099, of which five are reserved.
fn hundred_ports() -> Netns {
    let netns = Netns::new();
    netns.sysctl("net.ipv4.ip_local_port_range", "40000 40099");
    netns.sysctl("net.ipv4.ip_local_reserved_ports", "80,40010-40014,50000");
    // On loopback, a port in TIME_WAIT may be taken again after a second.
    netns.sysctl("net.ipv4.tcp_tw_reuse", "0");
    // On a slow machine, the server sends its FIN once more, and answers the ACK for it with an
    // RST, for it has closed by then. That must not end the client's TIME_WAIT.
    netns.sysctl("net.ipv4.tcp_rfc1337", "1");
    netns
}

/// Accepts on port 9000 of every address, keeps what it accepts until the peer closes, and
/// listens on a port of the range as well.
const SERVER: &str = r"
listener = listen(socket.AF_INET6, '::', 512, 9000)
other = listen(socket.AF_INET6, '::', 1, 40050)
def serve(conn):
    while conn.recv(1):
        pass
    conn.close()
def accept():
    while True:
        conn, _ = listener.accept()
        threading.Thread(target=serve, args=(conn,), daemon=True).start()
threading.Thread(target=accept, daemon=True).start()
print('listening')
input()
";

/// Reads from stdin how many connections to open, whether to keep or to close them, and to which
/// address.
const CLIENT: &str = r"
kept = []
bound = socket.socket()
bound.bind(('127.0.0.9', 40060))
bound.connect(('127.0.0.1', 9000))
print('bound')
for line in sys.stdin:
    what, count, address = line.split()
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    tally = Tally()
    for _ in range(int(count)):
        sock = socket.socket(family)
        result = outcome(lambda: sock.connect((address, 9000)))
        tally.add(result)
        if result != 'ok' or what == 'close':
            sock.close()
        else:
            kept.append(sock)
    print(tally)
";

fn of(metrics: &Metrics, program: &Program, name: &str, destination: &str) -> f64 {
    let labels = [("destination", destination)];
    let counted = metrics.of(program.pid(), name, &labels);
    // Its name is its own, and so are the ports of its name.
    let by_name = metrics.by(&program.comm(), name, &labels);
    assert_eq!(by_name, counted, "{name}{labels:?}\n{}", metrics.shown());
    counted
}

/// Has the client open connections, and asserts what became of them.
fn open(client: &mut Program, what: &str, count: u64, address: &str, result: &str) {
    client.say(&format!("{what} {count} {address}"));
    assert_eq!(client.tally(), [(result.to_owned(), count)].into());
}

/// Ports that `ss` shows in use towards a destination, but for the one that the client bound.
fn ports(netns: &Netns, destination: &str) -> BTreeSet<u16> {
    let sockets = netns.run("ss", &["-Htan", "dst", destination]);
    sockets
        .lines()
        .map(|line| {
            let local = line.split_whitespace().nth(3).expect("a local address");
            let port = local.rsplit_once(':').expect("a port").1;
            port.parse().expect("a number")
        })
        .filter(|port| *port != 40060)
        .collect()
}

/// Makes the client open connections until the kernel has this number of ports in use. This can
/// take more connections than ports, if the kernel ends a TIME_WAIT early.
fn fill(client: &mut Program, netns: &Netns, what: &str, count: u64, address: &str) {
    let destination = match address.contains(':') {
        true => format!("[{address}]:9000"),
        false => format!("{address}:9000"),
    };
    let mut used = ports(netns, &destination);
    for _ in 0..5 {
        if used.len() as u64 == count {
            return;
        }
        open(client, what, count - used.len() as u64, address, "ok");
        used = ports(netns, &destination);
    }
    assert_eq!(used.len() as u64, count, "{used:?}");
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn ports_ratio_is_one_before_the_first_connect_fails() {
    let netns = hundred_ports();
    // That of the tests before.
    let daemon = Daemon::shared_with(&blocked::arguments("any"));
    let mut server = netns.script(SERVER, &[]);
    server.expect("listening");
    let mut client = netns.script(CLIENT, &[]);
    client.expect("bound");
    // Less five that are reserved, one of a listener and one that the client bound.
    let available = 93;
    for (address, destination) in [("127.0.0.1", "127.0.0.1:9000"), ("::1", "[::1]:9000")] {
        let closed = 40;
        open(&mut client, "close", closed, address, "ok");
        fill(&mut client, &netns, "keep", available - 1, address);
        let metrics = daemon.until("all but one", |metrics| {
            of(metrics, &client, USED, destination) >= (available - 1) as f64
        });
        needs_signal!(metrics, "ports");
        let ratio = of(&metrics, &client, RATIO, destination);
        assert!(ratio > 0.98, "{ratio}");
        fill(&mut client, &netns, "keep", available, address);
        let metrics = daemon.until("all", |metrics| {
            of(metrics, &client, RATIO, destination) >= 1.0
        });
        assert_eq!(of(&metrics, &client, USED, destination), available as f64);
        assert_eq!(of(&metrics, &client, RATIO, destination), 1.0);
        let in_time_wait = || {
            let filter = ["-Htan", "state", "time-wait", "dst", destination];
            netns.run("ss", &filter).lines().count()
        };
        let before_connects = in_time_wait();
        assert_eq!(ports(&netns, destination).len() as u64, available);
        let netns_of = metrics
            .select(USED, &[("destination", destination)])
            .next()
            .expect("the destination")
            .labels["netns"]
            .clone();
        assert_eq!(
            metrics.sum(AVAILABLE, &[("netns", &netns_of)]),
            available as f64
        );
        let failed = [("result", "EADDRNOTAVAIL")];
        let before = metrics.of(client.pid(), CONNECTS, &failed);
        assert_eq!(before, if address == "::1" { 3.0 } else { 0.0 });
        client.say(&format!("keep 3 {address}"));
        let tally = client.tally();
        // A port that leaves TIME_WAIT meanwhile can be taken.
        if in_time_wait() != before_connects {
            skip!("this machine was too slow to have all ports still in TIME_WAIT");
        }
        assert_eq!(tally, [("EADDRNOTAVAIL".to_owned(), 3)].into());
        daemon.until("the failures", |metrics| {
            metrics.of(client.pid(), CONNECTS, &failed) == before + 3.0
        });
    }
    // Elsewhere, all but one are free.
    open(&mut client, "keep", 1, "127.0.0.2", "ok");
    let metrics = daemon.until("the second destination", |metrics| {
        of(metrics, &client, USED, "127.0.0.2:9000") == 1.0
    });
    let ratio = of(&metrics, &client, RATIO, "127.0.0.2:9000");
    assert!((ratio - 1.0 / available as f64).abs() < 1e-9, "{ratio}");
    // The server's end of the connections uses none.
    assert!(!metrics.has_of(server.pid(), USED, &[]));
    assert!(!metrics.has(USED, &[("comm", &server.comm())]));

    // The client's ports are in use until their sockets have left TIME_WAIT.
    let (pid, comm) = (client.pid(), client.comm());
    client.kill();
    let left = [("comm", comm.as_str()), ("destination", "[::1]:9000")];
    let metrics = daemon.until("as many as ss shows", |metrics| {
        let used = ports(&netns, "[::1]:9000").len() as f64;
        !metrics.shows(pid) && metrics.has(USED, &left) && metrics.sum(USED, &left) == used
    });
    metrics.assert_complete();
    server.end();
}

/// A port that is taken again from TIME_WAIT is one port; older sockets are counted; a change
/// of the range is noticed.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn reused_time_wait_port_counts_once() {
    let netns = hundred_ports();
    let mut server = netns.script(SERVER, &[]);
    server.expect("listening");
    let mut client = netns.script(CLIENT, &[]);
    client.expect("bound");
    open(&mut client, "keep", 10, "127.0.0.1", "ok");
    // For the next test, too.
    let daemon = Daemon::shared_anew(&FEW_SHOWN);
    let metrics = daemon.until("older connections", |metrics| {
        of(metrics, &client, USED, "127.0.0.1:9000") == 10.0
    });
    needs_signal!(metrics, "ports");
    fill(&mut client, &netns, "close", 93, "127.0.0.1");
    let used = daemon.until("all ports", |metrics| {
        of(metrics, &client, USED, "127.0.0.1:9000") == 93.0
    });
    assert_eq!(of(&used, &client, RATIO, "127.0.0.1:9000"), 1.0);
    // Timestamps allow to take a port again a second after the last segment, or in the next
    // second (before 6.14): not while the others were still to be taken.
    daemon.wait("the last FIN", |_| netns.ss("time-wait") >= 83);
    netns.sysctl("net.ipv4.tcp_tw_reuse", "1");
    std::thread::sleep(Duration::from_millis(2500));
    open(&mut client, "keep", 20, "127.0.0.1", "ok");
    let before = used.of(client.pid(), CONNECTS, &[("result", "ok")]);
    // A walk over the sockets may miss a port that is taken again at that very moment.
    daemon.until("all connects", |metrics| {
        let used = of(metrics, &client, USED, "127.0.0.1:9000");
        assert!(used <= 93.0, "{used}");
        metrics.of(client.pid(), CONNECTS, &[("result", "ok")]) == before + 20.0 && used == 93.0
    });
    netns.sysctl("net.ipv4.ip_local_port_range", "40000 40999");
    let metrics = daemon.until("the new range", |metrics| {
        metrics.select(AVAILABLE, &[]).any(|it| it.value == 993.0)
    });
    assert_eq!(of(&metrics, &client, USED, "127.0.0.1:9000"), 93.0);
    client.finish();
    server.end();
}

/// Each process shows the destinations with most ports, and the sum of the others.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn top_destinations_are_shown_and_the_rest_summed() {
    let netns = hundred_ports();
    let mut server = netns.script(SERVER, &[]);
    server.expect("listening");
    let daemon = Daemon::shared_with(&FEW_SHOWN);
    let mut client = netns.script(CLIENT, &[]);
    client.expect("bound");
    for (count, address) in [
        (5, "127.0.0.1"),
        (20, "127.0.0.2"),
        (30, "::1"),
        (2, "127.0.0.4"),
    ] {
        open(&mut client, "keep", count, address, "ok");
    }
    let metrics = daemon.until("the rest", |metrics| {
        of(metrics, &client, USED, "other") == 7.0
            && of(metrics, &client, USED, "[::1]:9000") == 30.0
    });
    needs_signal!(metrics, "ports");
    assert_eq!(of(&metrics, &client, USED, "127.0.0.2:9000"), 20.0);
    let (pid, comm) = (client.pid().to_string(), client.comm());
    let series = |name: &str, label| metrics.select(name, &[label]).count();
    assert_eq!(
        series("socket_process_ephemeral_ports_used", ("pid", &pid)),
        3
    );
    assert_eq!(series(USED, ("comm", &comm)), 3);
    // The highest of those that are summed up.
    let ratio = of(&metrics, &client, RATIO, "other");
    assert!((ratio - 5.0 / 93.0).abs() < 1e-9, "{ratio}");
    client.finish();
    server.end();
}
