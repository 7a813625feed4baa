//! Results of connection attempts: each attempt has exactly one, the one that the program got,
//! whether by connect(), SO_ERROR or a second connect().

use std::collections::BTreeMap;

use observer_test_support::{Daemon, Metrics, Netns, scaled};

const CONNECTS: &str = "socket_connects_total";

/// Failures before a SYN, which the state machine does not show.
const BEFORE_SYN: [&str; 4] = ["EHOSTUNREACH", "ENETUNREACH", "EACCES", "EINVAL"];

/// What observer counted for a process, by result.
fn outcomes(metrics: &Metrics, pid: u32) -> BTreeMap<String, u64> {
    metrics.counted(pid, CONNECTS, |labels| labels["result"].clone())
}

/// Runs a script that prints the results that it got, and compares.
fn compare(netns: &Netns, daemon: &Daemon, source: &str) -> BTreeMap<String, u64> {
    let mut program = netns.script(source, &[]);
    let mut reported = program.tally();
    let metrics = daemon.scrape();
    if metrics.hook_types("connect").is_empty() {
        left_out!("{BEFORE_SYN:?}, because the return of connect() is not seen");
        reported.retain(|result, _| !BEFORE_SYN.contains(&result.as_str()));
    }
    assert_eq!(
        outcomes(&metrics, program.pid()),
        reported,
        "{}",
        metrics.shown()
    );
    metrics.assert_complete();
    program.end();
    reported
}

/// Routes that refuse, for IPv4 and IPv6.
fn add_routes(netns: &Netns) {
    for (kind, v4, v6) in [
        ("unreachable", "198.51.100.0/25", "2001:db8:1::/64"),
        ("prohibit", "198.51.100.128/25", "2001:db8:2::/64"),
        ("blackhole", "203.0.113.0/24", "2001:db8:3::/64"),
    ] {
        netns.run("ip", &["route", "add", kind, v4]);
        netns.run("ip", &["-6", "route", "add", kind, v6]);
    }
}

const ROUTES: &str = r"
ROUTES = (
    (socket.AF_INET, ('198.51.100.1', '198.51.100.129', '203.0.113.1', '192.0.2.1')),
    (socket.AF_INET6, ('2001:db8:1::1', '2001:db8:2::1', '2001:db8:3::1', '2001:db8:4::1')),
)
";

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn blocking_connects_count_by_result() {
    let netns = Netns::new();
    netns.sysctl("net.ipv4.tcp_syn_retries", "1");
    add_routes(&netns);
    let daemon = Daemon::shared();
    let reported = compare(
        &netns,
        &daemon,
        &[
            ROUTES,
            r"
tally = Tally()
def attempt(family, target, option=None):
    client = socket.socket(family)
    if option:
        client.setsockopt(*option)
    tally.add(outcome(lambda: client.connect(target)))
    return client
threads = []
for family, address in FAMILIES:
    listener = listen(family, address)
    for _ in range(20):
        attempt(family, listener.getsockname()).close()
        listener.accept()[0].close()
    closed = closed_port(family, address)
    for _ in range(5):
        attempt(family, closed.getsockname()).close()
    # A socket that tries again.
    client = socket.socket(family)
    for _ in range(3):
        tally.add(outcome(lambda: client.connect(closed.getsockname())))
    tally.add(outcome(lambda: client.connect(listener.getsockname())))
    nobody = deaf(family, address)
    timeout = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000)
    for option in (None, None, timeout):
        thread = threading.Thread(
            target=attempt, args=(family, nobody[0].getsockname(), option))
        thread.start()
        threads.append((thread, nobody))
    tally.add('ok', 2)
for family, targets in ROUTES:
    for target in targets:
        for _ in range(2):
            attempt(family, (target, 80)).close()
for thread, _ in threads:
    thread.join()
print(tally)
input()
",
        ]
        .concat(),
    );
    println!("reported {reported:?}");
    for (result, count) in [
        ("ok", 2 * (20 + 1 + 2)),
        ("ECONNREFUSED", 2 * 8),
        ("ETIMEDOUT", 2 * 3),
    ] {
        assert_eq!(reported[result], count, "{reported:?}");
    }
    let refused = BEFORE_SYN.map(|name| reported.get(name).copied().unwrap_or(0));
    let refused: u64 = refused.iter().sum();
    assert!(refused == 16 || refused == 0, "{reported:?}");
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn connects_without_a_free_port_count_as_eaddrnotavail() {
    let netns = Netns::new();
    netns.sysctl("net.ipv4.ip_local_port_range", "40000 40007");
    let daemon = Daemon::shared();
    let reported = compare(
        &netns,
        &daemon,
        r"
tally = Tally()
keep = []
for family, address in FAMILIES:
    # Outside the range, so that it leaves all of it to the clients.
    listener = listen(family, address, port=8080)
    for _ in range(12):
        client = socket.socket(family)
        tally.add(outcome(lambda: client.connect((address, 8080))))
        keep.append(client)
    # Non-blocking fails as fast.
    client = socket.socket(family)
    client.setblocking(False)
    tally.add(outcome(lambda: client.connect((address, 8080))))
    keep.append(listener)
print(tally)
input()
",
    );
    let expected = [("ok", 16), ("EADDRNOTAVAIL", 10)];
    assert_eq!(
        reported,
        expected.map(|(name, n)| (name.to_owned(), n)).into()
    );
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn non_blocking_connects_count_by_result() {
    let netns = Netns::new();
    add_routes(&netns);
    let daemon = Daemon::shared();
    let reported = compare(
        &netns,
        &daemon,
        &[
            ROUTES,
            r"
tally = Tally()
def start(family, target):
    client = socket.socket(family)
    client.setblocking(False)
    assert client.connect_ex(target) == errno.EINPROGRESS
    return client
def settle(client):
    poll = select.poll()
    poll.register(client, select.POLLOUT)
    poll.poll()
    return client
def error(client):
    number = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    tally.add(errno.errorcode[number] if number else 'ok')
for (family, address), (_, routes) in zip(FAMILIES, ROUTES):
    listener = listen(family, address)
    open_, closed = listener.getsockname(), closed_port(family, address).getsockname()
    for _ in range(10):
        # Told by SO_ERROR.
        client = settle(start(family, open_))
        error(client)
        assert client.connect_ex(open_) == 0
        assert client.connect_ex(open_) == errno.EISCONN
        client.close()
        client = settle(start(family, closed))
        error(client)
        client.close()
        # Told by a second connect().
        client = settle(start(family, closed))
        tally.add(outcome(lambda: client.connect(closed)))
        client.close()
        # Never asked.
        settle(start(family, closed)).close()
        tally.add('ECONNREFUSED')
        settle(start(family, open_)).close()
        tally.add('ok')
    # Told by SO_ERROR, then the socket is used again. The first call only says that the
    # earlier attempt was aborted.
    client = settle(start(family, closed))
    error(client)
    assert client.connect_ex(closed) == errno.ECONNABORTED
    assert client.connect_ex(closed) == errno.EINPROGRESS
    error(settle(client))
    assert client.connect_ex((routes[0], 80)) == errno.ECONNABORTED
    tally.add(outcome(lambda: client.connect((routes[0], 80))))
    client.close()
    # Closed before there is an outcome.
    nobody, fillers = deaf(family, address)
    tally.add('ok', 2)
    for _ in range(10):
        client = start(family, nobody.getsockname())
        assert client.connect_ex(nobody.getsockname()) == errno.EALREADY
        client.close()
        tally.add('ECANCELED')
print(tally)
input()
",
        ]
        .concat(),
    );
    println!("reported {reported:?}");
    assert_eq!(reported["ECANCELED"], 20);
    assert_eq!(reported["ok"], 44);
    assert_eq!(reported["ECONNREFUSED"], 64);
}

/// Of a router that answers while connect() still has the socket locked: the socket stays in SYN_SENT, and SO_ERROR clears
/// the error before close().
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn icmp_errors_during_connect_are_those_that_the_program_gets() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let reported = compare(
        &netns,
        &daemon,
        r#"
import subprocess
router = subprocess.Popen(['unshare', '--net', 'sleep', '60'])
own = os.readlink('/proc/self/ns/net')
while os.readlink(f'/proc/{router.pid}/ns/net') == own:
    time.sleep(0.01)
subprocess.run(['sh', '-ec', """
    ip link add v0 type veth peer name v1 netns $0
    ip addr add 10.9.0.1/24 dev v0
    ip link set v0 up
    ip route add 198.51.100.0/24 via 10.9.0.2
    exec nsenter --net=/proc/$0/ns/net sh -ec '
        ip addr add 10.9.0.2/24 dev v1
        ip link set v1 up
        echo 1 >/proc/sys/net/ipv4/ip_forward
        echo 0 >/proc/sys/net/ipv4/icmp_ratelimit
        ip route add unreachable 198.51.100.0/24'
""", str(router.pid)], check=True)
tally = Tally()
SYN_SENT, locked = 2, 0
for i in range(40):
    client = socket.socket()
    client.setblocking(False)
    assert client.connect_ex(('198.51.100.1', 80)) == errno.EINPROGRESS
    poll = select.poll()
    poll.register(client, select.POLLOUT)
    poll.poll(5000)
    locked += client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == SYN_SENT
    if i % 2:
        tally.add(errno.errorcode[client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)])
    else:
        # Never asked.
        tally.add('EHOSTUNREACH')
    client.close()
router.kill()
assert locked, 'each answer came later'
print(tally)
input()
"#,
    );
    assert_eq!(reported, [("EHOSTUNREACH".to_owned(), 40)].into());
}

/// Killed while connect() waits: the attempt still has an outcome.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn connects_of_a_killed_process_have_a_result() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut server = netns.script("deaf_servers()", &[]);
    let ports = server.line();
    let mut client = netns.script(
        r"
for (family, address), port in zip(FAMILIES, sys.argv[1].split()):
    target = (address, int(port))
    for _ in range(3):
        threading.Thread(target=lambda f=family, t=target: connect(f, t)).start()
print('connecting')
",
        &[&ports],
    );
    client.expect("connecting");
    daemon.until("attempts", |metrics| {
        let pending = [("state", "SYN_SENT")];
        metrics.of(client.pid(), "socket_connections", &pending) == 6.0
    });
    let (pid, comm) = (client.pid(), client.comm());
    client.kill();
    let killed = |metrics: &Metrics| {
        // On a slow machine, SYNs are sent again meanwhile.
        let ended = ["ECANCELED", "gave_up"];
        let ended = ended.map(|result| metrics.by(&comm, CONNECTS, &[("result", result)]));
        let all = metrics.by(&comm, CONNECTS, &[]);
        assert_eq!((all, ended.iter().sum()), (6.0, 6.0), "{}", metrics.shown());
        metrics.assert_complete();
    };
    killed(&daemon.until("outcomes", |metrics| {
        metrics.by(&comm, CONNECTS, &[]) >= 6.0
    }));
    // The same when its own series have ended.
    killed(&daemon.until("the end of its series", |metrics| !metrics.shows(pid)));
    server.end();
}

/// 2,000 connections, if the machine is fast, each closed as soon as it is open.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn short_connections_count_as_ok() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let each = scaled(1000, 100);
    let reported = compare(
        &netns,
        &daemon,
        &r"
tally = Tally()
for family, address in FAMILIES:
    listener = listen(family, address)
    def serve():
        for _ in range(EACH):
            listener.accept()[0].close()
    server = threading.Thread(target=serve)
    server.start()
    for i in range(EACH):
        client = socket.socket(family)
        client.setblocking(i % 2 == 0)
        status = client.connect_ex(listener.getsockname())
        assert status in (0, errno.EINPROGRESS), status
        tally.add('ok')
        if status:
            select.select([], [client], [])
        client.close()
    server.join()
    listener.close()
print(tally)
input()
"
        .replace("EACH", &each.to_string()),
    );
    assert_eq!(reported, [("ok".to_owned(), 2 * each)].into());
}

/// connect() of sockets that are not TCP: Unix, UDP.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn connects_of_unix_and_udp_sockets_are_not_counted() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let reported = compare(
        &netns,
        &daemon,
        r"
tally = Tally()
name = '\0observer-' + str(os.getpid())
assert outcome(lambda: socket.socket(socket.AF_UNIX).connect(name)) == 'ECONNREFUSED'
assert outcome(lambda: socket.socket(socket.AF_UNIX).connect('/nowhere')) == 'ENOENT'
listener = socket.socket(socket.AF_UNIX)
listener.bind(name)
listener.listen()
assert outcome(lambda: socket.socket(socket.AF_UNIX).connect(name)) == 'ok'
for family, address in FAMILIES:
    datagram = socket.socket(family, socket.SOCK_DGRAM)
    assert outcome(lambda: datagram.connect((address, 9))) == 'ok'
unreachable = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
assert outcome(lambda: unreachable.connect(('192.0.2.1', 9))) == 'ENETUNREACH'
# So that there is a process to look at.
closed = closed_port(*FAMILIES[0])
tally.add(outcome(lambda: connect(socket.AF_INET, closed.getsockname())))
print(tally)
input()
",
    );
    assert_eq!(reported, [("ECONNREFUSED".to_owned(), 1)].into());
}
