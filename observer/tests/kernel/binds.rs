//! Calls of bind() and listen() that fail: each counts once, with the errno that it returned to the
//! program, and no other call counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::TcpListener,
    os::fd::AsRawFd as _,
};

use io_uring::{IoUring, opcode, types::Fd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrLike as _, socket};
use observer_test_support::{Daemon, Metrics, Netns};
use serde_json::Value;

use crate::io_uring::call;

const FAILED: &str = "socket_binds_failed_total";

/// The failed calls of a name in this network namespace, as `observer doctor` has them: the call, address, port and errno, and
/// how many there were.
fn recorded(daemon: &Daemon, comm: &str, netns: u64) -> BTreeMap<String, u64> {
    let (status, body) = daemon.get("/api/v1/doctor");
    assert_eq!(status, 200, "{body}");
    let report: Value = serde_json::from_str(&body).unwrap();
    let notes = report["findings"].as_array().unwrap().iter();
    let of_name = |it: &&Value| it["id"] == "binds-fail" && it["subject"]["comm"] == comm;
    let calls = notes.filter(of_name).flat_map(|it| {
        let calls = it["evidence"]["calls"].as_array().unwrap();
        println!("{}", it["summary"].as_str().unwrap());
        calls.iter()
    });
    let here = calls.filter(|it| it["netns"] == netns);
    here.map(|it| {
        let text = |key: &str| it[key].as_str().unwrap().to_owned();
        let [call, address, errno] = ["call", "address", "errno"].map(text);
        let count = it["count"].as_u64().unwrap();
        (format!("{call} {address} {} {errno}", it["port"]), count)
    })
    .collect()
}

/// What observer counted for a process, as `call:errno`.
fn failures(metrics: &Metrics, pid: u32) -> BTreeMap<String, u64> {
    metrics.counted(pid, FAILED, key)
}

fn key(labels: &BTreeMap<String, String>) -> String {
    format!("{}:{}", labels["call"], labels["errno"])
}

/// Calls that fail with each errno that needs no security module, and calls that do not count.
const CALLS: &str = r"
LIBC.bind.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
tally, kept = Tally(), []
def bind(sock, address):
    kept.append(sock)
    result = outcome(lambda: sock.bind(address))
    if result != 'ok':
        tally.add('bind:' + result)
    return result
def listens(sock):
    result = outcome(lambda: sock.listen())
    if result != 'ok':
        tally.add('listen:' + result)
    return result
def raw(sock, address, length):
    assert LIBC.bind(sock.fileno(), address, length) == -1
    return errno.errorcode[ctypes.get_errno()]
def reusing(family):
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sock
for family, address in FAMILIES:
    listener = listen(family, address)
    taken = listener.getsockname()[:2]
    for _ in range(5):
        assert bind(socket.socket(family), taken) == 'EADDRINUSE'
    foreign = '192.0.2.1' if family == socket.AF_INET else '2001:db8::1'
    for _ in range(3):
        assert bind(socket.socket(family), (foreign, 0)) == 'EADDRNOTAVAIL'
    # A port that is reserved for others, for as long as root's privileges are laid down.
    os.seteuid(65534)
    for _ in range(2):
        assert bind(socket.socket(family), (address, 80)) == 'EACCES'
    os.seteuid(0)
    # Twice, and as if it were connected.
    assert bind(listener, (address, 0)) == 'EINVAL'
    client, server = pair(family, address)
    kept += [client, server]
    assert listens(client) == 'EINVAL'
    # Two may bind a port, and one of them may listen.
    first, second = reusing(family), reusing(family)
    assert bind(first, (address, 0)) == 'ok'
    assert bind(second, first.getsockname()[:2]) == 'ok'
    assert listens(first) == 'ok'
    for _ in range(4):
        assert listens(second) == 'EADDRINUSE'
    # Addresses that are none.
    sock = socket.socket(family)
    kept.append(sock)
    tally.add('bind:' + raw(sock, 1, 28))
    tally.add('bind:' + raw(sock, ctypes.addressof(ctypes.create_string_buffer(300)), 300))
    unknown = ctypes.create_string_buffer(struct.pack('H26x', socket.AF_UNIX))
    tally.add('bind:' + raw(sock, ctypes.addressof(unknown), 28))
link_local = ('fe80::1', 0, 0, 9999)
assert bind(socket.socket(socket.AF_INET6), link_local) == 'ENODEV'
# Not TCP, or no sockets.
for family, address in FAMILIES:
    datagram = socket.socket(family, socket.SOCK_DGRAM)
    datagram.bind((address, 0))
    other = socket.socket(family, socket.SOCK_DGRAM)
    assert outcome(lambda: other.bind(datagram.getsockname())) == 'EADDRINUSE'
    assert outcome(lambda: datagram.listen()) == errno.errorcode[errno.EOPNOTSUPP]
name = '\0observer-' + str(os.getpid())
one, other = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
one.bind(name)
assert outcome(lambda: other.bind(name)) == 'EADDRINUSE'
assert outcome(lambda: other.listen()) == 'EINVAL'
address = ctypes.create_string_buffer(16)
ends = os.pipe()
for number, expected in ((ends[0], errno.ENOTSOCK), (-1, errno.EBADF), (999, errno.EBADF)):
    assert LIBC.bind(number, ctypes.addressof(address), 16) == -1
    assert ctypes.get_errno() == expected
    assert LIBC.listen(number, 1) == -1 and ctypes.get_errno() == expected
# A subflow's failures are its parent's.
MPTCP = 262
try:
    parent = socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP)
except OSError:
    parent = None
if parent:
    holder = listen(*FAMILIES[0])
    assert bind(parent, holder.getsockname()) == 'EADDRINUSE'
    kept.append(holder)
print(tally)
input()
";

pub fn each_failed_call_counts_once(daemon: &Daemon) {
    let netns = Netns::new();
    let mut program = netns.script(CALLS, &[]);
    let reported = program.tally();
    println!("reported {reported:?}");
    let pid = program.pid();
    let metrics = daemon.scrape();
    assert_eq!(failures(&metrics, pid), reported, "{}", metrics.shown());
    let in_use = reported["bind:EADDRINUSE"];
    assert!(in_use == 10 || in_use == 11, "{reported:?}");
    let expected = [
        ("bind:EADDRNOTAVAIL", 6),
        ("bind:EACCES", 4),
        ("bind:EINVAL", 4),
        ("bind:EFAULT", 2),
        ("bind:EAFNOSUPPORT", 2),
        ("bind:ENODEV", 1),
        ("listen:EADDRINUSE", 8),
        ("listen:EINVAL", 2),
    ];
    for (name, count) in expected {
        assert_eq!(reported.get(name), Some(&count), "{name}: {reported:?}");
    }
    assert_eq!(reported.len(), expected.len() + 1, "{reported:?}");
    let seen = metrics.sum("observer_events_seen_total", &[("signal", "bind")]);
    assert!(seen >= reported.values().sum::<u64>() as f64);
    // None of these was a search for a port.
    let exhausted = metrics.of(pid, "socket_ephemeral_ports_exhausted_total", &[]);
    assert_eq!(exhausted, 0.0, "{}", metrics.shown());
    metrics.assert_complete();
    program.end();
}

/// Records have the addresses that were asked for, also where the kernel has not stored them in the socket.
pub fn each_failed_call_has_its_address(daemon: &Daemon) {
    let netns = Netns::new();
    let mut program = netns.script(
        r"
LIBC.bind.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
V4, V6 = socket.AF_INET, socket.AF_INET6
kept = []
def fails(call, family, *address):
    sock = socket.socket(family)
    kept.append(sock)
    for _ in range(2):
        assert outcome(lambda: sock.bind(address)) == call
def raw(family, content, length, expected):
    address = ctypes.create_string_buffer(content, 64)
    sock = socket.socket(family)
    kept.append(sock)
    for _ in range(2):
        assert LIBC.bind(sock.fileno(), ctypes.addressof(address), length) == -1
        assert ctypes.get_errno() == expected
kept += [listen(V4, '0.0.0.0', port=8080), listen(V6, '::1', port=8081)]
fails('EADDRINUSE', V4, '0.0.0.0', 8080)
fails('EADDRINUSE', V4, '127.0.0.9', 8080)
fails('EADDRINUSE', V6, '::', 8080)
fails('EADDRINUSE', V6, '::1', 8081)
fails('EADDRINUSE', V6, '::ffff:127.0.0.1', 8080)
fails('EADDRNOTAVAIL', V4, '192.0.2.1', 0)
# listen(): two may bind the port.
first, second = socket.socket(), socket.socket()
for sock in (first, second):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(('127.0.0.1', 9000))
first.listen()
for _ in range(2):
    assert outcome(lambda: second.listen()) == 'EADDRINUSE'
# An IPv4 address for IPv6, one that is too short, one of another family, and none.
v4 = struct.pack('=H', V4) + struct.pack('!H4s', 7000, bytes([127, 0, 0, 1]))
raw(V6, v4, 16, errno.EINVAL)
raw(V4, v4, 8, errno.EINVAL)
raw(V4, struct.pack('=H', socket.AF_UNIX) + v4[2:], 16, errno.EAFNOSUPPORT)
sock = socket.socket()
for _ in range(2):
    assert LIBC.bind(sock.fileno(), 1, 16) == -1
print('failed')
input()
",
        &[],
    );
    program.expect("failed");
    let metrics = daemon.scrape();
    let expected = [
        ("bind 0.0.0.0 8080 EADDRINUSE", 2),
        ("bind 127.0.0.9 8080 EADDRINUSE", 2),
        ("bind :: 8080 EADDRINUSE", 2),
        ("bind ::1 8081 EADDRINUSE", 2),
        ("bind 127.0.0.1 8080 EADDRINUSE", 2),
        ("bind 192.0.2.1 0 EADDRNOTAVAIL", 2),
        ("listen 127.0.0.1 9000 EADDRINUSE", 2),
        ("bind 127.0.0.1 7000 EINVAL", 2),
    ];
    let expected = expected.map(|(call, count)| (call.to_owned(), count));
    let failed: u64 = failures(&metrics, program.pid()).values().sum();
    assert_eq!(failed, 22, "{}", metrics.shown());
    // The daemon reads records every 100 ms, and the table takes them at the next tick.
    let (comm, inode) = (program.comm(), netns.inode().parse().unwrap());
    daemon.wait("all addresses", |daemon| {
        let found = recorded(daemon, &comm, inode);
        found.values().sum::<u64>() == 16
    });
    assert_eq!(recorded(daemon, &comm, inode), expected.into());
    program.end();
}

/// All ports of the range are taken: bind() to any port fails, which is both a failed bind and a
/// search that found no port.
pub fn a_search_for_a_port_is_a_bind_that_failed(daemon: &Daemon) {
    let netns = Netns::new();
    netns.sysctl("net.ipv4.ip_local_port_range", "40000 40009");
    let mut program = netns.script(
        r"
kept = []
for family, address in FAMILIES:
    for _ in range(10):
        holder = socket.socket(family)
        holder.bind((address, 0))
        kept.append(holder)
    for _ in range(3):
        assert outcome(lambda: socket.socket(family).bind((address, 0))) == 'EADDRINUSE'
    # listen() looks for a port, too.
    for _ in range(2):
        assert outcome(lambda: socket.socket(family).listen()) == 'EADDRINUSE'
print('bound')
input()
",
        &[],
    );
    program.expect("bound");
    let metrics = daemon.scrape();
    let failed = [("bind:EADDRINUSE", 6), ("listen:EADDRINUSE", 4)];
    assert_eq!(
        failures(&metrics, program.pid()),
        failed.map(|(name, n)| (name.to_owned(), n)).into(),
        "{}",
        metrics.shown()
    );
    let searches = [("call", "bind")];
    let exhausted = "socket_ephemeral_ports_exhausted_total";
    metrics.assert_of(program.pid(), exhausted, &searches, 10.0);
    metrics.assert_complete();
    program.end();
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn calls_of_io_uring_are_counted_where_functions_are_hooked() {
    let mut ring = match IoUring::new(4) {
        Ok(ring) => ring,
        Err(error) => {
            skip!("no io_uring on this kernel: {error}");
        }
    };
    let daemon = Daemon::shared();
    let holder = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = holder.local_addr().expect("an address").port();
    let taken = SockaddrIn::new(127, 0, 0, 1, port);
    let flags = SockFlag::empty();
    let stream = || socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("a socket");
    let (client, datagram) = (
        stream(),
        socket(AddressFamily::Inet, SockType::Datagram, flags, None).expect("a socket"),
    );
    let connected = std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let bind = opcode::Bind::new(Fd(client.as_raw_fd()), taken.as_ptr(), taken.len()).build();
    let result = call(&mut ring, &bind);
    if result == -libc::EINVAL {
        skip!("no bind through io_uring on this kernel (6.11)");
    }
    assert_eq!(
        result,
        -libc::EADDRINUSE,
        "{}",
        io::Error::from_raw_os_error(-result)
    );
    assert_eq!(call(&mut ring, &bind), -libc::EADDRINUSE);
    let listen = |fd| opcode::Listen::new(Fd(fd), 1).build();
    let refused = call(&mut ring, &listen(connected.as_raw_fd()));
    assert_eq!(refused, -libc::EINVAL);
    // Not TCP.
    let refused = call(&mut ring, &listen(datagram.as_raw_fd()));
    assert_eq!(refused, -libc::EOPNOTSUPP);
    // Successes.
    let any = SockaddrIn::new(127, 0, 0, 1, 0);
    let bind = opcode::Bind::new(Fd(client.as_raw_fd()), any.as_ptr(), any.len()).build();
    assert_eq!(call(&mut ring, &bind), 0);
    assert_eq!(call(&mut ring, &listen(client.as_raw_fd())), 0);
    let metrics = daemon.scrape();
    let comm = std::fs::read_to_string("/proc/self/comm").expect("a name");
    let ours = [("comm", comm.trim_end())];
    let count = |metrics: &Metrics, label: &str| -> f64 {
        let all = metrics.select(FAILED, &ours);
        let same = all.filter(|sample| key(&sample.labels) == label);
        same.map(|sample| sample.value).sum()
    };
    let labels: BTreeSet<_> = metrics
        .select(FAILED, &ours)
        .map(|it| key(&it.labels))
        .collect();
    let counted = labels.into_iter().map(|label| {
        let since = count(&metrics, &label) - count(&daemon.before, &label);
        (label, since as u64)
    });
    let counted: BTreeMap<String, u64> = counted.filter(|(_, count)| *count > 0).collect();
    if metrics.by_function("bind") {
        let expected = [("bind:EADDRINUSE", 2), ("listen:EINVAL", 1)];
        let expected = expected.map(|(name, n)| (name.to_owned(), n));
        assert_eq!(counted, expected.into(), "{}", metrics.shown());
    } else {
        println!("bind and listen through io_uring are not counted with these hooks");
        assert!(counted.is_empty(), "{counted:?}");
    }
    metrics.assert_complete();
}
