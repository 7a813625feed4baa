//! Results of a walk over connections: how long sockets have been in a state, which have a
//! descriptor, which are idle, and how many took a port.

use std::{
    collections::BTreeMap,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use observer::kernel::{Attached, Kernel, LoadOptions, monotonic_ns};
use observer_common::{CLOSE_WAIT, ESTABLISHED, SEEN_DESCRIPTOR, SEEN_PASSIVE, SocketSeen};
use observer_core::{
    btf::VMLINUX,
    contract::{Hooks, ObserveTls, SyscallTracepoints},
};
use observer_test_support::{Daemon, Netns, Program, skip};
use serde_json::Value;

use crate::api::processes;

/// Sockets of two processes in states that only the program or the peer can end.
const SERVER: &str = r"
listener = listen(*FAMILIES[0], port=9000)
queue = listen(*FAMILIES[0], port=9001)
nobody = deaf(*FAMILIES[0])
print(nobody[0].getsockname()[1])
servers = [listener.accept()[0] for _ in range(5)]
quiet = listen(*FAMILIES[0], port=9002)
print('listens')
quiet = [quiet.accept()[0] for _ in range(3)]
input()
# It reads the request of the first client, and not that of the third.
assert servers[0].recv(100) == b'request'
# Two that the client will see closed.
for _ in range(2):
    servers.pop().close()
print('closed')
input()
";

/// In SYN_SENT: 2. In CLOSE_WAIT: 2 of the client's own; and of the server 3, 2 of whose peers shut down only, and 2 of
/// whose peers have sent a request, and 2 that wait for accept(). In FIN_WAIT2: 2 with a descriptor and 3 orphans, and 2
/// orphans of the server. In ESTABLISHED and quiet: 3 of each, of which the client's have SO_KEEPALIVE, TCP_USER_TIMEOUT, and
/// neither; and both ends of 2 that fill the queue of the server's deaf listener.
const CLIENT: &str = r"
silent = ('127.0.0.1', int(sys.argv[1]))
attempts = [socket.socket() for _ in range(2)]
for attempt in attempts:
    attempt.setblocking(False)
    assert attempt.connect_ex(silent) == errno.EINPROGRESS
clients = [connect(socket.AF_INET, ('127.0.0.1', 9000)) for _ in range(5)]
queued = [connect(socket.AF_INET, ('127.0.0.1', 9001)) for _ in range(2)]
input()
quiet = [connect(socket.AF_INET, ('127.0.0.1', 9002)) for _ in range(3)]
quiet[0].setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
quiet[1].setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000)
for client in clients[0], clients[2]:
    client.send(b'request')
print('connected')
input()
for client in clients[3:]:
    assert client.recv(1) == b''
for client in clients[:2]:
    half_close(client)
for client in queued + [clients.pop(2)]:
    client.close()
print('closed')
input()
";

/// The seven numbers of a process, in the order of the API.
fn long(answer: &Value, program: &Program) -> [u64; 7] {
    let all = answer["processes"].as_array().unwrap();
    let entry = all.iter().find(|it| it["pid"] == program.pid());
    [
        "syn_sent_over_3s",
        "close_wait_over_10s",
        "close_wait_over_60s",
        "close_wait_of_servers",
        "close_wait_unanswered",
        "owned_fin_wait2",
        "unguarded",
    ]
    .map(|name| entry.map_or(0, |it| it[name].as_u64().unwrap()))
}

fn has_no_walk(daemon: &Daemon) -> bool {
    !daemon.scrape().has_signal("ports")
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn sockets_that_wait_for_long_are_counted() {
    let netns = Netns::new();
    // Beyond the length of TIME_WAIT, an orphan stays a full socket (tcp_rcv_state_process).
    netns.sysctl("net.ipv4.tcp_fin_timeout", "300");
    let daemon = Daemon::shared();
    if has_no_walk(&daemon) {
        skip!("the kernel has no iterators over maps");
    }
    let started_ns = monotonic_ns();
    let mut server = netns.script(SERVER, &[]);
    let silent = server.line();
    let began_ns = monotonic_ns();
    let mut client = netns.script(CLIENT, &[&silent]);
    server.expect("listens");
    client.go();
    client.expect("connected");
    let connected_ns = monotonic_ns();
    server.go();
    server.expect("closed");
    client.go();
    client.expect("closed");
    assert_eq!(netns.ss("syn-sent"), 2);
    assert_eq!(netns.ss("close-wait"), 7);
    // The acknowledgement of a FIN after data may be delayed.
    daemon.wait("all FINs are acknowledged", |_| {
        netns.ss("fin-wait-2") == 5 + 2
    });

    let started = Instant::now();
    loop {
        let answer = processes(&daemon);
        let walked_ns = answer["walked_at_ns"].as_u64().unwrap_or(0);
        let after = |since_ns: u64, seconds: u64| walked_ns > since_ns + seconds * 1_000_000_000;
        let (client, server) = (long(&answer, &client), long(&answer, &server));
        let seen = || format!("{client:?} {server:?}");
        // No walk counts a socket too early, for any interval.
        assert!(client[0] == 0 || after(began_ns, 3), "{}", seen());
        let over_10s = client[1] + server[1];
        assert!(over_10s == 0 || after(connected_ns, 10), "{}", seen());
        assert!(client[6] == 0 || after(began_ns, 60), "{}", seen());
        let over_60s = client[2] + server[2];
        assert!(over_60s == 0 || after(connected_ns, 60), "{}", seen());
        assert!(server[6] == 0 || after(started_ns, 60), "{}", seen());
        if (client, server) == ([2, 2, 2, 0, 0, 2, 1], [0, 3, 3, 3, 2, 0, 7]) {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(150), "{}", seen());
        thread::sleep(Duration::from_millis(200));
    }
    let metrics = daemon.scrape();
    let unguarded = |comm: &str| metrics.by(comm, "socket_unguarded_connections", &[]);
    assert_eq!(unguarded(&client.comm()), 1.0);
    assert_eq!(unguarded(&server.comm()), 7.0);
    // The descriptors are closed, and with them the sockets.
    client.go();
    client.end();
    server.go();
    server.end();
}

const PAIRS: &str = r"
listener = listen(*FAMILIES[0], port=9000)
pairs = []
for _ in range(3):
    client = connect(socket.AF_INET, ('127.0.0.1', 9000))
    pairs.append((client, listener.accept()[0]))
quiet, sends, receives = pairs
for client, server in pairs:
    client.send(b'x')
    server.recv(1)
print(*[client.getsockname()[1] for client, _ in pairs])
# Keepalive probes are no data.
quiet[0].setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
quiet[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
quiet[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
closing = connect(socket.AF_INET, ('127.0.0.1', 9000))
listener.accept()[0].close()
closing.recv(1)
def exchange():
    while True:
        sends[0].send(b'x')
        sends[1].recv(1)
        receives[1].send(b'x')
        receives[0].recv(1)
        time.sleep(0.02)
threading.Thread(target=exchange, daemon=True).start()
input()
";

/// Loads and attaches the programs without a daemon, to see the records of a walk.
pub fn attach() -> Attached {
    let options = LoadOptions {
        ring_bytes: 1 << 16,
        max_connections: 1024,
        slots: 64,
        max_sockopt_failures: 64,
        record_mask: 0,
        btf: VMLINUX.into(),
        hooks: Hooks::Any,
        syscall_tracepoints: SyscallTracepoints::Auto,
        tls: ObserveTls::Never,
        self_test: false,
        log: false,
    };
    let kernel = Kernel::examine(Path::new(VMLINUX)).unwrap();
    let loaded = kernel.load(&options).unwrap();
    Attached::new(loaded, &options).unwrap().0
}

/// Milliseconds since data was sent or received, by local port, according to `ss`.
fn idle_by_ss(netns: &Netns) -> BTreeMap<u16, u32> {
    let text = netns.run(
        "ss",
        &["-HtinO", "state", "established", "dport", "=", "9000"],
    );
    let lines = text.lines().map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let number = |name: &str| {
            let word = words.iter().find_map(|word| word.strip_prefix(name));
            // A time of 0 is left out.
            word.map_or(0, |word| word.parse::<u32>().expect("milliseconds"))
        };
        let port = words[2].rsplit(':').next().unwrap();
        let idle = number("lastsnd:").min(number("lastrcv:"));
        (port.parse().expect("a port"), idle)
    });
    lines.collect()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn time_without_data_is_that_of_ss() {
    let netns = Netns::new();
    let attached = attach();
    let mut program = netns.script(PAIRS, &[]);
    let ports = program.line();
    let ports: Vec<u16> = ports.split(' ').map(|port| port.parse().unwrap()).collect();
    let [quiet, sends, receives] = ports[..] else {
        panic!("{ports:?}")
    };
    thread::sleep(Duration::from_secs(4));
    let before = idle_by_ss(&netns);
    let mut seen: Vec<SocketSeen> = Vec::new();
    let walked = attached.walk(|socket| seen.push(socket)).unwrap();
    let after = idle_by_ss(&netns);
    if walked.is_none() {
        skip!("the kernel has no iterators over maps");
    }
    let here = |it: &&SocketSeen| it.remote_port == 9000 && it.state == ESTABLISHED;
    let idle: BTreeMap<_, _> = seen
        .iter()
        .filter(here)
        .map(|it| (it.local_port, it.idle_ms))
        .collect();
    println!("{before:?}\n{idle:?}\n{after:?}");
    // A tick of the slowest clock.
    let slack = 10;
    assert!(idle[&quiet] >= 3_500);
    assert!(before[&quiet] <= idle[&quiet] + slack && idle[&quiet] <= after[&quiet] + slack);
    for port in [sends, receives] {
        assert!(idle[&port] < 2_000, "{port}: {idle:?}");
    }
    // Each socket has a record, those that came from the listener as well.
    let passive = seen.iter().filter(|it| it.flags & SEEN_PASSIVE != 0);
    assert!(passive.filter(|it| it.state == ESTABLISHED).count() >= 3);
    let closing: Vec<_> = seen.iter().filter(|it| it.state == CLOSE_WAIT).collect();
    let [closing] = closing[..] else {
        panic!("{closing:?}")
    };
    assert_ne!(closing.flags & SEEN_DESCRIPTOR, 0);
    program.go();
    program.end();
}

const OPENER: &str = r"
listener = listen(*FAMILIES[0], port=9000)
kept = []
print('listening')
while True:
    what = input().split()
    for _ in range(int(what[1])):
        client = connect(socket.AF_INET, ('127.0.0.1', 9000))
        server = listener.accept()[0]
        if what[0] == 'keep':
            kept.append((client, server))
        else:
            client.close()
            assert server.recv(1) == b''
            server.close()
    print('opened')
";

/// The entry of the destination that the tests in `netns` connect to.
fn destination(daemon: &Daemon, netns: &Netns) -> Value {
    let answer = processes(daemon);
    let all = answer["destinations"].as_array().unwrap();
    let netns: u64 = netns.inode().parse().unwrap();
    let here = |it: &&Value| it["netns"] == netns && it["destination"] == "127.0.0.1:9000";
    all.iter().find(here).cloned().unwrap_or_default()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn destinations_say_what_blocks_their_ports() {
    let netns = Netns::new();
    netns.sysctl("net.ipv4.ip_local_port_range", "40000 40199");
    netns.keep_time_wait();
    let daemon = Daemon::shared();
    if has_no_walk(&daemon) {
        skip!("the kernel has no iterators over maps");
    }
    let mut program = netns.script(OPENER, &[]);
    program.expect("listening");
    let mut open = |what: &str, expected: &dyn Fn(&Value) -> bool| {
        program.say(what);
        program.expect("opened");
        daemon.wait(what, |daemon| expected(&destination(daemon, &netns)));
        destination(&daemon, &netns)
    };
    let numbers = |it: &Value| {
        ["used", "blocked", "established", "time_wait"].map(|name| it[name].as_u64().unwrap_or(0))
    };
    let first = open("keep 20", &|it| numbers(it) == [20, 20, 20, 0]);
    println!("{first}");
    assert_eq!(first["available"], 200);
    assert_eq!(first["idle"], 0);
    assert_eq!(first["blocked_for_ms"], 60_000);
    let before = first["opened"].as_u64().unwrap();
    let second = open("close 30", &|it| numbers(it) == [50, 50, 20, 30]);
    assert_eq!(second["opened"], before + 30);
    let third = open("keep 10", &|it| numbers(it) == [60, 60, 30, 30]);
    assert_eq!(third["opened"], before + 40);
    assert_eq!(third["holders"][0]["used"], 60);
    assert_eq!(third["holders"][0]["pid"], program.pid());
    program.kill();
}
