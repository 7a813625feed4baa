//! Which ports in TIME_WAIT are blocked, compared with the results of connect().

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::{AVAILABLE, RATIO, USED, of, ports};
use observer_test_support::{Daemon, Metrics, Netns, Program, Shared};

const BLOCKED: &str = "socket_ephemeral_ports_blocked";

/// Accepts on the ports that it is given and closes what its peer has closed; what came in at
/// the last port only after a line on stdin.
const PEER: &str = r"
poller, listeners, connections, held = select.epoll(), {}, {}, []
for port in sys.argv[1:]:
    listener = listen(socket.AF_INET6, '::', 512, int(port))
    listeners[listener.fileno()] = listener, port == sys.argv[-1]
    poller.register(listener, select.EPOLLIN)
def serve():
    while True:
        for fd, _ in poller.poll():
            if fd in listeners:
                listener, hold = listeners[fd]
                conn, _ = listener.accept()
                connections[conn.fileno()] = conn, hold
                poller.register(conn, select.EPOLLIN)
                continue
            conn, hold = connections.pop(fd)
            poller.unregister(conn)
            conn.recv(1)
            held.append(conn) if hold else conn.close()
threading.Thread(target=serve, daemon=True).start()
print('listening')
for line in sys.stdin:
    for conn in held:
        conn.close()
    print('closed')
";

/// Reads from stdin which connections to open, and prints the results: how (`bind`: from a port
/// that it binds, `device`: bound to the loopback device), whether to keep or to close them, how
/// many, and where to.
const CALLER: &str = r"
kept = []
for line in sys.stdin:
    how, what, count, address, port = line.split()
    tally = Tally()
    for _ in range(int(count)):
        sock = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET)
        if how == 'bind':
            sock.bind((address, 0))
        if how == 'device':
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'lo')
        result = outcome(lambda: sock.connect((address, int(port))))
        tally.add(result)
        if result == 'ok' and what == 'keep':
            kept.append(sock)
        else:
            sock.close()
    print(tally)
";

/// Ports of a namespace in which few are enough.
const FEW: u64 = 8;

/// A caller with few ports, its peer, and an observer.
struct Bench {
    netns: Netns,
    daemon: Shared,
    peer: Program,
    caller: Program,
}

/// Where to and how.
#[derive(Clone, Copy, Debug)]
struct Call {
    how: &'static str,
    address: &'static str,
    port: u16,
}

impl Call {
    fn destination(&self) -> String {
        match self.address.contains(':') {
            true => format!("[{}]:{}", self.address, self.port),
            false => format!("{}:{}", self.address, self.port),
        }
    }

    fn is_loopback(&self) -> bool {
        self.how == "device" || self.address.starts_with("127.") || self.address == "::1"
    }
}

/// Whether the best hooks do not know timewait sockets either, as tests before have seen.
static NEVER_KNOWN: AtomicBool = AtomicBool::new(false);

/// Runs `test` with these hooks, unless the best are known to be no better.
fn with_hooks(hooks: &str, ports: &[u16], test: impl FnOnce(&mut Bench)) {
    if hooks != "any" && NEVER_KNOWN.load(Relaxed) {
        println!("--hooks {hooks}: the same");
        return;
    }
    let Some(mut bench) = Bench::new(ports, hooks) else {
        return;
    };
    let known = bench.daemon.scrape().by_function("time_wait");
    println!("--hooks {hooks}: timewait sockets are known: {known}");
    if hooks == "any" {
        NEVER_KNOWN.store(!known, Relaxed);
    }
    test(&mut bench);
    bench.caller.finish();
    bench.peer.finish();
}

/// Those of the daemon that these tests share.
pub fn arguments(hooks: &str) -> [&str; 4] {
    ["--top-destinations", "50", "--hooks", hooks]
}

impl Bench {
    /// The peer listens on `ports`. `None`, and said so, where ports are not observed.
    fn new(ports: &[u16], hooks: &str) -> Option<Self> {
        let netns = Netns::new();
        netns.sysctl("net.ipv4.ip_local_port_range", "40000 40007");
        netns.keep_time_wait();
        // An address of the host that does not count as loopback.
        netns.run("ip", &["address", "add", "10.9.8.7/32", "dev", "lo"]);
        netns.run(
            "ip",
            &["address", "add", "fd00::7/128", "dev", "lo", "nodad"],
        );
        let daemon = Daemon::shared_with(&arguments(hooks));
        let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
        let ports: Vec<_> = ports.iter().map(String::as_str).collect();
        let mut peer = netns.script(PEER, &ports);
        peer.expect("listening");
        let caller = netns.script(CALLER, &[]);
        needs_signal!(daemon.scrape(), "ports");
        Some(Self {
            netns,
            daemon,
            peer,
            caller,
        })
    }

    fn reuse(&self, value: u32) {
        self.netns
            .sysctl("net.ipv4.tcp_tw_reuse", &value.to_string());
    }

    /// Has the caller open connections, and asserts what becomes of them.
    fn open(&mut self, call: &Call, what: &str, count: u64, result: &str) {
        if count == 0 {
            return;
        }
        let Call { how, address, port } = call;
        self.caller
            .say(&format!("{how} {what} {count} {address} {port}"));
        let tally = self.caller.tally();
        assert_eq!(tally, [(result.to_owned(), count)].into(), "{call:?}");
    }

    /// Leaves all ports towards a destination in TIME_WAIT, or with the peer still open.
    fn fill(&mut self, call: &Call) {
        self.reuse(0);
        let mut left = FEW;
        for _ in 0..5 {
            self.open(call, "close", left, "ok");
            left = FEW - ports(&self.netns, &call.destination()).len() as u64;
            if left == 0 {
                return;
            }
        }
        panic!("{left} ports are free still: {call:?}");
    }

    /// Waits until `count` ports for each destination are in a state, as `ss` names it, and then
    /// until a clock in seconds has advanced.
    fn rest(&self, calls: &[Call], state: &str, count: u64) {
        for call in calls {
            let filter = ["-Htan", "state", state, "dst", &call.destination()];
            self.daemon.wait("the last segment", |_| {
                self.netns.run("ss", &filter).lines().count() as u64 == count
            });
        }
        std::thread::sleep(Duration::from_millis(2100));
    }

    fn of(&self, metrics: &Metrics, name: &str, call: &Call) -> f64 {
        of(metrics, &self.caller, name, &call.destination())
    }

    /// All ports are in use, `blocked` of them are blocked for connect(): the number of successful
    /// connects must match the observer's ratio, and none succeeds at a ratio of 1.
    fn assert_blocked(&mut self, call: &Call, blocked: u64) {
        let metrics = self
            .daemon
            .until(&format!("{blocked} blocked: {call:?}"), |metrics| {
                self.of(metrics, USED, call) == FEW as f64
                    && self.of(metrics, BLOCKED, call) == blocked as f64
            });
        let ratio = self.of(&metrics, RATIO, call);
        let expected = blocked as f64 / FEW as f64;
        assert!((ratio - expected).abs() < 1e-9, "{ratio} {call:?}");
        self.open(call, "keep", FEW - blocked, "ok");
        self.daemon.until(&format!("all: {call:?}"), |metrics| {
            self.of(metrics, RATIO, call) == 1.0
        });
        self.open(call, "keep", 2, "EADDRNOTAVAIL");
    }
}

/// The ratio matches the number of usable ports for every value of net.ipv4.tcp_tw_reuse.
pub fn ports_in_time_wait_are_blocked_unless_tcp_tw_reuse_allows(hooks: &str) {
    let listening: Vec<u16> = (9000..9015).collect();
    with_hooks(hooks, &listening, all_kinds);
}

fn all_kinds(bench: &mut Bench) {
    for reuse in 0..3_u16 {
        let call = |how, address, port| Call {
            how,
            address,
            port: port + 3 * reuse,
        };
        let places = ["127.0.0.1", "127.0.0.2", "::1", "10.9.8.7", "fd00::7"];
        let stamped: Vec<_> = places
            .iter()
            .map(|address| call("plain", address, 9000))
            .chain([call("device", "10.9.8.7", 9001)])
            .collect();
        let plain = ["127.0.0.1", "::1"].map(|address| call("plain", address, 9002));
        let started = Instant::now();
        bench.netns.sysctl("net.ipv4.tcp_timestamps", "1");
        stamped.iter().for_each(|call| bench.fill(call));
        // Does not matter for what has used them.
        bench.netns.sysctl("net.ipv4.tcp_timestamps", "0");
        plain.iter().for_each(|call| bench.fill(call));
        let all = [stamped, plain.to_vec()].concat();
        bench.rest(&all, "time-wait", FEW);
        bench.reuse(reuse.into());
        let mut blocked = Vec::new();
        for call in &all {
            let free = match reuse {
                0 => false,
                1 => call.port != 9002 + 3 * reuse,
                _ => call.port != 9002 + 3 * reuse && call.is_loopback(),
            };
            bench.assert_blocked(call, if free { 0 } else { FEW });
            blocked.push((call.destination(), call.how, !free));
        }
        println!(
            "tcp_tw_reuse={reuse}, {:.1?}: {blocked:?}",
            started.elapsed()
        );
    }
}

/// The kernel treats a timewait socket that waits for the peer's FIN like one in TIME_WAIT, but does not reuse its port.
pub fn ports_in_fin_wait2_are_blocked(hooks: &str) {
    with_hooks(hooks, &[9000], |bench| {
        let call = Call {
            how: "plain",
            address: "127.0.0.1",
            port: 9000,
        };
        bench.fill(&call);
        bench.rest(&[call], "fin-wait-2", FEW);
        bench.reuse(1);
        bench.assert_blocked(&call, FEW);
        bench.peer.go();
        bench.peer.expect("closed");
        bench.rest(&[call], "time-wait", FEW);
        bench.assert_blocked(&call, 0);
    });
}

/// Since 6.14, the time until a port in TIME_WAIT may be used again can be set.
pub fn tcp_tw_reuse_delay_of_the_namespace_is_used(hooks: &str) {
    with_hooks(hooks, &[9000, 9001], |bench| {
        let name = "net/ipv4/tcp_tw_reuse_delay";
        let tested = format!("test -e /proc/sys/{name} && echo there || echo absent");
        if bench.netns.run("sh", &["-c", &tested]).trim() == "absent" {
            skip!("net.ipv4.tcp_tw_reuse_delay is not there (before 6.14)");
        }
        let call = Call {
            how: "plain",
            address: "127.0.0.1",
            port: 9000,
        };
        bench.fill(&call);
        bench.rest(&[call], "time-wait", FEW);
        bench.reuse(2);
        bench.netns.sysctl("net.ipv4.tcp_tw_reuse_delay", "50000");
        bench.assert_blocked(&call, FEW);
        bench.netns.sysctl("net.ipv4.tcp_tw_reuse_delay", "1000");
        bench.assert_blocked(&call, 0);
    });
}

/// A port that bind() chose cannot be used for any destination while it is in TIME_WAIT.
pub fn bound_port_in_time_wait_is_blocked_for_all_destinations(hooks: &str) {
    with_hooks(hooks, &[9000, 9001, 9002], |bench| {
        let call = |how, port| Call {
            how,
            address: "127.0.0.1",
            port,
        };
        let bound = 5;
        bench.open(&call("bind", 9000), "close", bound, "ok");
        bench.rest(&[call("bind", 9000)], "time-wait", bound);
        // Makes no difference.
        bench.reuse(1);
        let (there, elsewhere) = (call("plain", 9000), call("plain", 9001));
        let left = FEW - bound;
        for call in [elsewhere, there] {
            bench.open(&call, "keep", 1, "ok");
            bench.daemon.until("the others", |metrics| {
                let netns = bench.netns.inode();
                bench.of(metrics, USED, &call) == 1.0
                    && metrics.sum(AVAILABLE, &[("netns", &netns)]) == left as f64
            });
            bench.open(&call, "keep", left - 1, "ok");
            bench
                .daemon
                .until("all", |metrics| bench.of(metrics, RATIO, &call) == 1.0);
            bench.open(&call, "keep", 2, "EADDRNOTAVAIL");
        }
    });
}
