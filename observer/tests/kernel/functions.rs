//! Hooks on functions and their fallbacks: counts with each. The tests in the list run once for
//! each kind of hook that this kernel supports, those of other modules too: one after the other, they share the daemon
//! of a kind.

use std::{collections::BTreeMap, time::Duration};

use observer_test_support::{Daemon, Metrics, Netns, scaled};

use crate::{
    accept::{
        waiting_threads_have_their_accepts_counted, without_files_in_the_system_enfile_is_counted,
    },
    binds::{
        a_search_for_a_port_is_a_bind_that_failed, each_failed_call_counts_once,
        each_failed_call_has_its_address,
    },
    gave_up::closed_after_a_retransmitted_syn_counts_as_gave_up,
    io_uring::accepts_of_io_uring_are_counted,
    setsockopt::the_call_by_int_0x80_is_counted,
};

const ENTERED: &str = "socket_time_wait_entered_total";
const ENDED: &str = "socket_time_wait_ended_total";
const LIVE: &str = "socket_time_wait";
const EXHAUSTED: &str = "socket_ephemeral_ports_exhausted_total";

for_each_kind_of_hook! {
    time_wait_ended_equals_entered: "time_wait";
    time_wait_ended_early_by_a_new_connection_is_counted: "time_wait";
    time_wait_overflows_equal_the_kernels_counter: "time_wait";
    ephemeral_port_exhaustion_is_counted_by_call: "port_exhausted";
    socket_received_by_scm_rights_has_a_new_owner: "fd_received";
    sockets_passed_by_another_user_stay_with_the_giver: "fd_received";
    waiting_threads_have_their_accepts_counted: "accept";
    accepts_of_io_uring_are_counted: "accept";
    without_files_in_the_system_enfile_is_counted: "fd";
    a_search_for_a_port_is_a_bind_that_failed: "bind";
    each_failed_call_counts_once: "bind";
    each_failed_call_has_its_address: "bind";
    closed_after_a_retransmitted_syn_counts_as_gave_up: "connect";
    the_call_by_int_0x80_is_counted: "setsockopt";
}

/// A client and a server in one process; the client closes first.
const SHORT: &str = r"
listener = short(*FAMILIES[int(sys.argv[2])], int(sys.argv[1]))
print('done')
input()
";

fn time_wait_ended_equals_entered(daemon: &Daemon) {
    // The fallbacks are tried with few, which end with their namespace.
    let is_best = daemon.has_best_hooks("time_wait");
    let count = if is_best { scaled(10_000, 1_000) } else { 500 };
    let netns = Netns::new();
    // As many as the memory of a small machine allows would be too few.
    netns.sysctl("net.ipv4.tcp_max_tw_buckets", "65536");
    let mut programs: Vec<_> = ["0", "1"]
        .into_iter()
        .map(|family| netns.script(SHORT, &[&(count / 2).to_string(), family]))
        .collect();
    for program in &mut programs {
        assert_eq!(program.line_within(Duration::from_secs(500)), "done");
    }
    for program in &programs {
        let entered = |metrics: &Metrics| metrics.of(program.pid(), ENTERED, &[]);
        let half = (count / 2) as f64;
        let metrics = daemon.until("all entries", |metrics| entered(metrics) >= half);
        assert_eq!(entered(&metrics), half, "{}", metrics.shown());
    }
    let pids: Vec<u32> = programs
        .iter()
        .map(observer_test_support::Program::pid)
        .collect();
    // Without hooks on functions, ends are found a little later.
    daemon.until("the kernel's number", |metrics| {
        let ours: f64 = pids.iter().map(|pid| metrics.of(*pid, LIVE, &[])).sum();
        ours == netns.sockstat("tw") as f64
    });
    let comms: Vec<String> = programs
        .iter()
        .map(observer_test_support::Program::comm)
        .collect();
    // Of both programs, whether they live or not.
    let both = |metrics: &Metrics, name: &str| -> f64 {
        comms.iter().map(|comm| metrics.by(comm, name, &[])).sum()
    };
    let inode = netns.inode();
    let drift = [("netns", inode.as_str())];
    let until = |what: &str, condition: &dyn Fn(&Metrics) -> bool| {
        daemon.until_within(Duration::from_secs(200), what, condition)
    };
    if is_best {
        // The processes end first: their sockets outlive them.
        for program in programs {
            program.end();
        }
        let metrics = until("the end of all", &|metrics| {
            both(metrics, ENDED) >= count as f64
        });
        let all = |metrics: &Metrics| {
            for comm in &comms {
                let half = (count / 2) as f64;
                let counts = [ENDED, ENTERED, LIVE].map(|name| metrics.by(comm, name, &[]));
                assert_eq!(counts, [half, half, 0.0], "{comm}");
            }
        };
        all(&metrics);
        assert_eq!(netns.sockstat("tw"), 0);
        // Their own series have ended meanwhile.
        all(&until("the end of their series", &|metrics| {
            !pids.iter().any(|&pid| metrics.shows(pid))
        }));
        let metrics = until("agreement with sockstat", &|metrics| {
            metrics.has("observer_netns_time_wait_drift_sockets", &[])
                && metrics.sum("observer_netns_time_wait_drift_sockets", &drift) == 0.0
        });
        metrics.assert_complete();
        return;
    }
    for program in &programs {
        let metrics = daemon.scrape();
        let of = |name| metrics.of(program.pid(), name, &[]);
        assert_eq!(of(LIVE), of(ENTERED) - of(ENDED));
    }
    // The kernel purges them with their namespace.
    drop(netns);
    drop(programs);
    let metrics = until("the end of all", &|metrics| {
        both(metrics, ENDED) >= count as f64
    });
    for comm in &comms {
        let counts = [ENDED, ENTERED, LIVE].map(|name| metrics.by(comm, name, &[]));
        assert_eq!(
            counts,
            [(count / 2) as f64, (count / 2) as f64, 0.0],
            "{comm}"
        );
    }
    metrics.assert_complete();
}

/// The number of sockets in TIME_WAIT is the kernel's, also when sockets leave it early.
fn time_wait_ended_early_by_a_new_connection_is_counted(daemon: &Daemon) {
    let netns = Netns::new();
    netns.keep_time_wait();
    let mut program = netns.script(
        r"
listener = listen(*FAMILIES[0])
target = listener.getsockname()
def once(port):
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.bind(('127.0.0.1', port))
    client.connect(target)
    server, _ = listener.accept()
    port = client.getsockname()[1]
    # The server keeps the TIME_WAIT, which the next SYN from the same port ends.
    server.close()
    assert client.recv(1) == b''
    # The port may be bound again once the last ACK has come.
    client.shutdown(socket.SHUT_WR)
    wait(lambda: state(client) == 7)
    client.close()
    return port
port = once(0)
for _ in range(20):
    once(port)
print('done')
input()
",
        &[],
    );
    program.expect("done");
    let metrics = daemon.until("the ends", |metrics| {
        metrics.of(program.pid(), ENDED, &[]) >= 20.0
    });
    let of = |name| metrics.of(program.pid(), name, &[]);
    assert_eq!((of(ENTERED), of(ENDED), of(LIVE)), (21.0, 20.0, 1.0));
    assert_eq!(netns.sockstat("tw"), 1);
    program.end();
}

fn time_wait_overflows_equal_the_kernels_counter(daemon: &Daemon) {
    const OVERFLOWS: &str = "socket_time_wait_overflows_total";
    if !daemon.scrape().by_function("time_wait") {
        left_out!("overflow is not seen on this kernel with these hooks");
        assert!(!daemon.scrape().has(OVERFLOWS, &[]));
        return;
    }
    let netns = Netns::new();
    netns.sysctl("net.ipv4.tcp_max_tw_buckets", "10");
    let mut program = netns.script(SHORT, &["50", "0"]);
    program.expect("done");
    let metrics = daemon.until("fifty ends", |metrics| {
        let of = |name| metrics.of(program.pid(), name, &[]);
        of(ENTERED) + of(OVERFLOWS) >= 50.0
    });
    let of = |name| metrics.of(program.pid(), name, &[]);
    let kernel = netns.netstat()["TCPTimeWaitOverflow"] as f64;
    assert!(kernel > 0.0, "the kernel had buckets enough");
    assert_eq!((of(OVERFLOWS), of(ENTERED)), (kernel, 50.0 - kernel));
    assert_eq!(of(LIVE), netns.sockstat("tw") as f64);
    metrics.assert_complete();
    program.end();
}

/// EADDRNOTAVAIL has three causes, and only one of them is that no port is free.
fn ephemeral_port_exhaustion_is_counted_by_call(daemon: &Daemon) {
    let netns = Netns::new();
    netns.sysctl("net.ipv4.ip_local_port_range", "40000 40009");
    let mut program = netns.script(
        r"
kept = []
for family, address in FAMILIES:
    listener = listen(family, address, port=1000)
    for _ in range(10):
        kept.append(connect(family, (address, 1000)))
    # No port is left towards this address.
    for _ in range(3):
        assert outcome(lambda: connect(family, (address, 1000))) == 'EADDRNOTAVAIL'
    # Another one has all of them.
    other = listen(family, address, port=1001)
    kept.append(connect(family, (address, 1001)))
    # A four-tuple that is taken.
    clash = socket.socket(family)
    clash.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    clash.bind((address, 2000))
    clash.connect((address, 1001))
    again = socket.socket(family)
    again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    again.bind((address, 2000))
    assert outcome(lambda: again.connect((address, 1001))) == 'EADDRNOTAVAIL'
    # An address that is not ours.
    foreign = '192.0.2.1' if family == socket.AF_INET else '2001:db8::1'
    assert outcome(lambda: socket.socket(family).bind((foreign, 0))) == 'EADDRNOTAVAIL'
    # A port that is taken.
    assert outcome(lambda: socket.socket(family).bind((address, 1000))) == 'EADDRINUSE'
    kept += [listener, other, clash, again]
print('connected')
input()
for sock in kept:
    reset(sock)
kept = []
for family, address in FAMILIES:
    for _ in range(10):
        holder = socket.socket(family)
        holder.bind((address, 0))
        kept.append(holder)
    for _ in range(2):
        assert outcome(lambda: socket.socket(family).bind((address, 0))) == 'EADDRINUSE'
    # UDP has ports of its own.
    socket.socket(family, socket.SOCK_DGRAM).bind((address, 0))
print('bound')
input()
",
        &[],
    );
    let pid = program.pid();
    program.expect("connected");
    let metrics = daemon.scrape();
    let of = |call| metrics.of(pid, EXHAUSTED, &[("call", call)]);
    assert_eq!(
        [of("connect"), of("bind")],
        [6.0, 0.0],
        "{}",
        metrics.shown()
    );
    let failed = [("result", "EADDRNOTAVAIL")];
    assert_eq!(metrics.of(pid, "socket_connects_total", &failed), 8.0);
    program.go();
    program.expect("bound");
    let metrics = daemon.scrape();
    let of = |call| metrics.of(pid, EXHAUSTED, &[("call", call)]);
    assert_eq!(
        [of("connect"), of("bind")],
        [6.0, 4.0],
        "{}",
        metrics.shown()
    );
    metrics.assert_complete();
    program.end();
}

fn socket_received_by_scm_rights_has_a_new_owner(daemon: &Daemon) {
    if !daemon.scrape().by_function("fd_received") {
        skip!("received descriptors are found by resynchronisation here");
    }
    let netns = Netns::new();
    let mut program = netns.script(
        r"
import array
left, right = socket.socketpair()
child = os.fork()
if child == 0:
    left.close()
    kept = []
    for _ in range(4):
        _, ancillary, _, _ = right.recvmsg(1, socket.CMSG_SPACE(4))
        kept += array.array('i', ancillary[0][2])
    right.send(b'x')
    right.recv(1)
    os._exit(0)
right.close()
clients = []
for family, address in FAMILIES:
    for _ in range(2):
        client, server = pair(family, address)
        clients.append(client)
        fds = array.array('i', [server.fileno()])
        left.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        server.close()
assert left.recv(1) == b'x'
print(child)
input()
left.send(b'x')
os.waitpid(child, 0)
",
        &[],
    );
    let child: u32 = program.line().parse().unwrap();
    let metrics = daemon.scrape();
    let established = |pid| metrics.of(pid, "socket_connections", &[("state", "ESTABLISHED")]);
    assert_eq!(
        (established(program.pid()), established(child)),
        (4.0, 4.0),
        "{}",
        metrics.shown()
    );
    metrics.assert_complete();
    program.end();
}

/// Descriptors that a service receives from any user, as D-Bus does, do not count for the service.
fn sockets_passed_by_another_user_stay_with_the_giver(daemon: &Daemon) {
    let netns = Netns::new();
    let mut program = netns.script(
        r"
import array
left, right = socket.socketpair()
child = os.fork()
if child == 0:
    left.close()
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    name(COMM + 'g')
    family, address = FAMILIES[0]
    def give(sock):
        fds = array.array('i', [sock.fileno()])
        right.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        sock.close()
    kept = []
    for _ in range(20):
        # The receiver's close() sends an RST.
        client, server = pair(family, address)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        give(client)
        assert right.recv(1) == b'x'
        server.close()
    for _ in range(10):
        client, server = pair(family, address)
        client.shutdown(socket.SHUT_WR)
        wait(lambda: state(server) == 8)
        give(server)
        assert right.recv(1) == b'x'
        kept.append(client)
    right.send(b'e')
    right.recv(1)
    os._exit(0)
right.close()
kept = []
for number in range(30):
    _, ancillary, _, _ = left.recvmsg(1, socket.CMSG_SPACE(4))
    fd = array.array('i', ancillary[0][2])[0]
    if number < 20:
        os.close(fd)
    else:
        kept.append(fd)
    left.send(b'x')
assert left.recv(1) == b'e'
print(child)
input()
left.send(b'x')
os.waitpid(child, 0)
",
        &[],
    );
    let giver: u32 = program.line().parse().unwrap();
    let metrics = daemon.scrape();
    let of = |pid| {
        let sent = metrics.of(pid, "socket_resets_total", &[("direction", "sent")]);
        let left = metrics.of(pid, "socket_connections", &[("state", "CLOSE_WAIT")]);
        (sent, left)
    };
    assert_eq!(of(program.pid()), (0.0, 0.0), "{}", metrics.shown());
    assert_eq!(of(giver), (20.0, 10.0), "{}", metrics.shown());
    metrics.assert_complete();
    program.end();
}

/// `never` leaves out what only they would show, and nothing else.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn hooks_on_system_calls_can_be_left_out() {
    // That of the tests before.
    let usual = Daemon::shared_of_kind("any").scrape();
    let daemon = Daemon::start(&["--syscall-tracepoints=never", "--tls=never"]);
    let metrics = daemon.scrape();
    let tracepoints = metrics.select("observer_hook_attached", &[("attach_type", "tracepoint")]);
    let attached = tracepoints
        .filter(|it| it.labels["hook"].starts_with("syscalls:"))
        .map(|it| it.value)
        .sum::<f64>();
    assert_eq!(attached, 0.0, "{}", metrics.shown());
    for signal in ["state", "reset_sent", "retransmit"] {
        assert!(metrics.has_signal(signal), "{signal}");
    }
    for signal in ["accept", "setsockopt", "fd"] {
        assert_eq!(
            metrics.has_signal(signal),
            usual.by_function(signal),
            "{signal}"
        );
    }
    // An alert tells by the reason what is disabled on purpose. Where hooks on functions are refused, that is the reason.
    let missing: BTreeMap<_, _> = metrics
        .select("observer_signal_missing", &[])
        .map(|it| (&*it.labels["signal"], &*it.labels["reason"]))
        .collect();
    for signal in ["tls", "quic"] {
        assert_eq!(missing.get(signal), Some(&"disabled"), "{missing:?}");
    }
    for signal in ["accept", "setsockopt", "fd"] {
        let reason = missing.get(signal);
        let is_refused = reason.is_some_and(|it| ["refused", "disabled"].contains(it));
        assert_eq!(is_refused, !metrics.has_signal(signal), "{missing:?}");
    }
    metrics.assert_complete();
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn self_test_passes_and_counts_nothing() {
    let daemon = Daemon::start(&["--self-test=yes"]);
    let log = daemon.log();
    assert!(!log.contains("self-test"), "{log}");
    let metrics = daemon.scrape();
    // Its own scrapes are connections that it accepts and closes, and that is all.
    let connects = metrics.of(daemon.pid(), "socket_connects_total", &[]);
    let refused = metrics.of(daemon.pid(), "socket_setsockopt_failures_total", &[]);
    assert_eq!((connects, refused), (0.0, 0.0), "{}", metrics.shown());
}

/// Without hooks on functions, the fallbacks are used, and the log says so.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn without_function_hooks_fallbacks_are_attached_and_logged() {
    let daemon = Daemon::start(&["--hooks", "tracepoint"]);
    let metrics = daemon.scrape();
    for signal in ["accept", "time_wait", "setsockopt", "port_exhausted"] {
        assert!(!metrics.by_function(signal), "{signal}");
        assert!(metrics.has_signal(signal));
    }
    assert!(metrics.has_signal("time_wait_end") && !metrics.has_signal("time_wait_overflow"));
    assert!(
        daemon.log().contains("using a fallback"),
        "{}",
        daemon.log()
    );
}
