//! What connections wait for: at walks while they exist, and when they end.

mod by_ss;
mod shown;

use std::{collections::BTreeMap, thread, time::Duration};

use observer::kernel::monotonic_ns;
use observer_common::{SEEN_PASSIVE, STALL_NAMES, SocketSeen, TURN_NAMES};
use observer_core::walk::wait_name;
use observer_test_support::{Daemon, Netns, Program, holds_in_time, left_out, skip};

use crate::walk::attach;

/// A link to another namespace whose far end stops answering when the program requests it.
const LINK: &str = r"
import subprocess
def ip(*arguments):
    return subprocess.run(['ip', *arguments], capture_output=True).returncode == 0
def far_end():
    '''A listener behind a link, or None where the kernel has none.'''
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.unshare(0x40000000) if hasattr(os, 'unshare') else LIBC.unshare(0x40000000)
        name(COMM + 'f')
        os.write(told, b'u')
        wait(lambda: any(each == 'v1' for _, each in socket.if_nameindex()))
        ip('link', 'set', 'lo', 'up')
        ip('link', 'set', 'v1', 'up')
        ip('addr', 'add', '10.8.0.2/24', 'dev', 'v1')
        listener = listen(socket.AF_INET, '10.8.0.2', port=80)
        os.write(told, b'l')
        held = []
        while True:
            held.append(listener.accept()[0])
    os.read(ready, 1)
    if not ip('link', 'add', 'v0', 'type', 'veth', 'peer', 'name', 'v1', 'netns', str(child)):
        os.kill(child, 9)
        return None
    ip('link', 'set', 'v0', 'up')
    ip('addr', 'add', '10.8.0.1/24', 'dev', 'v0')
    os.read(ready, 1)
    return child
def silence():
    # No frame has the right address any more.
    ip('neigh', 'replace', '10.8.0.2', 'lladdr', '02:00:00:00:00:99', 'dev', 'v0', 'nud', 'permanent')
";

/// One connection for each kind of wait; prints the case and the client's port.
const LIVING: &str = r"
def now():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
listener = listen(*FAMILIES[0], port=9000)
deaf = listen(*FAMILIES[0], port=9001)
kept = []
def opened(case, port=9000, receive_buffer=None):
    if receive_buffer:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client = connect(socket.AF_INET, ('127.0.0.1', port))
    server = listener.accept()[0] if port == 9000 else None
    kept.extend([client, server])
    print(case, client.getsockname()[1])
    # More than a jiffy.
    time.sleep(0.03)
    return client, server
def exchange(client, server, pause):
    client.send(b'q' * 100)
    server.recv(1000)
    time.sleep(pause)
    server.send(b'a' * 1000)
    time.sleep(pause)
    client.recv(2000)
far = far_end()
if far:
    lost = connect(socket.AF_INET, ('10.8.0.2', 80))
    silence()
print(now())
exchange(*opened('idle_fast'), 0)
exchange(*opened('idle_slow'), 0.03)
client, server = opened('unread')
exchange(client, server, 0)
server.send(b'a' * 5000)
client, server = opened('first_byte')
client.send(b'q' * 500)
server.recv(1000)
# With the handshake, as requests come.
client = connect(socket.AF_INET, ('127.0.0.1', 9000))
client.send(b'q')
server = listener.accept()[0]
server.recv(10)
kept.extend([client, server])
print('at_once', client.getsockname()[1])
client, _ = opened('unaccepted', port=9001)
client.send(b'q')
opened('unused')
client, server = opened('second')
exchange(client, server, 0.03)
client.send(b'q')
server.recv(10)
client, server = opened('second_fast')
exchange(client, server, 0)
exchange(client, server, 0)
client.send(b'q')
server.recv(10)
client, server = opened('eof_unread')
server.send(b'a' * 1000)
server.shutdown(socket.SHUT_WR)
client, server = opened('eof')
server.shutdown(socket.SHUT_WR)
client, server = opened('keepalive')
client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
exchange(client, server, 0.03)
trickled, trickle = opened('trickle')
slow, fast = opened('slow_reader')
client, server = opened('window', receive_buffer=8192)
client.setblocking(False)
try:
    while True:
        client.send(b'q' * 65536)
except BlockingIOError:
    pass
if far:
    lost.send(b'q')
    print('lost', lost.getsockname()[1])
def trickles():
    while True:
        trickle.send(b'a' * 10)
        fast.send(b'a' * 100)
        slow.recv(10)
        time.sleep(0.05)
threading.Thread(target=trickles, daemon=True).start()
wait(lambda: not far or struct.unpack_from('I', tcp_info(lost), 100)[0] > 0)
print('ready', now())
input()
if far:
    os.kill(far, 9)
";

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn each_living_connection_waits_for_what_it_should() {
    let netns = Netns::new();
    let attached = attach();
    let mut program = netns.script(&[LINK, LIVING].concat(), &[]);
    let mut seen: Vec<SocketSeen> = Vec::new();
    let mut walk = || {
        seen.clear();
        let walked = attached.walk(|socket| seen.push(socket)).unwrap();
        walked.map(|_| seen.clone())
    };
    let began: u64 = program.line().parse().expect("a time");
    let mut ports = BTreeMap::new();
    let ready = loop {
        let line = program.line();
        let (case, number) = line.split_once(' ').expect("two words");
        let number: u64 = number.parse().expect("a number");
        if case == "ready" {
            break number;
        }
        ports.insert(case.to_owned(), number as u16);
    };
    let ms = |ns: u64| (ns / 1_000_000) as u32;
    // The first walk notes how far programs have read.
    if walk().is_none() {
        skip!("the kernel has no iterators over maps");
    }
    let noted = monotonic_ns();
    thread::sleep(Duration::from_secs(3));
    let before = by_ss::connections(&netns);
    let walked = monotonic_ns();
    let seen = walk().unwrap();
    let after = monotonic_ns();
    let both = by_ss::Walk {
        seen: &seen,
        before,
        after: by_ss::connections(&netns),
        least_ms: ms(walked - ready),
        busy: &[ports["trickle"], ports["slow_reader"]],
    };
    if !ports.contains_key("lost") {
        left_out!("no veth on this kernel");
    }
    // A tick of the slowest clock, and the first retransmission.
    let (least, most) = (ms(walked - ready) - 20, ms(after - began) + 20);
    // The waits of the client and the server.
    let cases = [
        ("idle_fast", "nobody", "nobody"),
        ("idle_slow", "nobody", "nobody"),
        ("unread", "program_read", "nobody"),
        ("first_byte", "peer_first_byte", "program"),
        ("at_once", "peer_first_byte", "program"),
        ("unaccepted", "peer_first_byte", "program_accept"),
        ("unused", "unused", "unused"),
        ("second", "peer", "program"),
        ("second_fast", "peer", "program"),
        ("eof_unread", "program_read", ""),
        ("eof", "program_eof", ""),
        ("keepalive", "nobody", "nobody"),
        ("window", "peer_window", "program_read"),
        ("lost", "peer_ack", ""),
    ];
    for (case, client, server) in cases {
        let Some(port) = ports.get(case) else {
            continue;
        };
        for (expected, is_server) in [(client, false), (server, true)] {
            if expected.is_empty() {
                continue;
            }
            let found = seen.iter().find(|it| {
                let is_passive = it.flags & SEEN_PASSIVE != 0;
                let client_port = if is_passive {
                    it.remote_port
                } else {
                    it.local_port
                };
                is_passive == is_server && client_port == *port
            });
            let found = found.unwrap_or_else(|| panic!("{case}: {seen:#?}"));
            let shown = format!("{case}, server {is_server}: {found:?}");
            // The last request and its answer may fall into one jiffy with the reading of them.
            let either = case == "second_fast" && wait_name(found.waits_for) == "nobody";
            assert!(wait_name(found.waits_for) == expected || either, "{shown}");
            let range = least..=most;
            assert!(range.contains(&found.waited_ms), "{range:?} {shown}");
        }
    }
    let reads = |case: &str| {
        let found = seen.iter().find(|it| it.local_port == ports[case]);
        let found = found.expect(case);
        assert_eq!(wait_name(found.waits_for), "program_read", "{found:?}");
        found.waited_ms
    };
    // More arrives all the time.
    let unread = reads("trickle");
    assert!(unread >= ms(walked - noted) - 20, "{unread}");
    let slow = reads("slow_reader");
    assert!(slow < 1500, "{slow}");
    let agreed = by_ss::compare(&both);
    println!("as by ss: {agreed:?}");
    let waits = STALL_NAMES.into_iter().chain(TURN_NAMES);
    for wait in waits.filter(|it| *it != "peer_ack" || ports.contains_key("lost")) {
        assert!(agreed.contains_key(wait), "{wait}: {agreed:?}");
    }
    program.go();
    program.end();
}

/// Sends to a server that never answers, once or for each line.
const ONLY_SENDS: &str = r"
listener = listen(*FAMILIES[0], port=9000)
clients = [connect(socket.AF_INET, ('127.0.0.1', 9000)) for _ in range(2)]
kept = [listener.accept()[0] for _ in clients]
def send(client, server):
    client.send(b'log')
    server.recv(10)
for client, server in zip(clients, kept):
    send(client, server)
print(*[client.getsockname()[1] for client in clients])
for line in sys.stdin:
    send(clients[1], kept[1])
    print('sent')
";

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_program_that_sends_on_does_not_wait_for_an_answer() {
    let netns = Netns::new();
    let attached = attach();
    let mut program = netns.script(ONLY_SENDS, &[]);
    let ports: Vec<u16> = program
        .line()
        .split(' ')
        .map(|it| it.parse().expect("a port"))
        .collect();
    let waits = || {
        let mut seen: Vec<SocketSeen> = Vec::new();
        attached.walk(|socket| seen.push(socket)).unwrap()?;
        let of = |port: &u16| {
            let found = seen.iter().find(|it| it.local_port == *port);
            wait_name(
                found
                    .unwrap_or_else(|| panic!("{port}: {seen:#?}"))
                    .waits_for,
            )
        };
        Some(ports.iter().map(of).collect::<Vec<_>>())
    };
    // A request that is sent in parts, as headers and a body.
    if waits().is_none() {
        skip!("the kernel has no iterators over maps");
    }
    program.go();
    program.expect("sent");
    assert_eq!(waits().unwrap(), ["peer_first_byte"; 2]);
    thread::sleep(Duration::from_millis(3_200));
    assert_eq!(waits().unwrap(), ["peer_first_byte"; 2]);
    program.go();
    program.expect("sent");
    assert_eq!(waits().unwrap(), ["peer_first_byte", "nobody"]);
    program.end();
}

/// Connections older than the observer.
const OLDER: &str = r"
listener = listen(*FAMILIES[0], port=9000)
kept = []
for asks in (False, True):
    client = connect(socket.AF_INET, ('127.0.0.1', 9000))
    server = listener.accept()[0]
    kept.append((client, server))
    time.sleep(0.15)
    client.send(b'q')
    server.recv(10)
    time.sleep(0.15)
    server.send(b'a')
    client.recv(10)
    time.sleep(0.15)
    if asks:
        client.send(b'q')
        server.recv(10)
    print(client.getsockname()[1])
input()
";

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_connection_that_is_older_has_a_role() {
    let netns = Netns::new();
    let mut program = netns.script(OLDER, &[]);
    let [idle, asks] = [(); 2].map(|()| program.line().parse::<u16>().expect("a port"));
    let attached = attach();
    attached.resync().unwrap();
    let mut seen: Vec<SocketSeen> = Vec::new();
    if attached.walk(|socket| seen.push(socket)).unwrap().is_none() {
        skip!("the kernel has no iterators over maps");
    }
    let what = |local, remote| {
        let found = seen
            .iter()
            .find(|it| (it.local_port, it.remote_port) == (local, remote));
        wait_name(
            found
                .unwrap_or_else(|| panic!("{local} {remote}: {seen:#?}"))
                .waits_for,
        )
    };
    assert_eq!([what(idle, 9000), what(9000, idle)], ["nobody", "nobody"]);
    assert_eq!([what(asks, 9000), what(9000, asks)], ["peer", "program"]);
    program.go();
    program.end();
}

/// Connections that end after a wait of a second or more, or without one. Prints a line when all
/// are open, and when all have ended.
const ENDING: &str = r"
WAIT = 1.4
listener = listen(*FAMILIES[0], port=9000)
def opened(receive_buffer=None):
    if receive_buffer:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client = connect(socket.AF_INET, ('127.0.0.1', 9000))
    server = listener.accept()[0]
    time.sleep(0.03)
    return client, server
def exchange(client, server):
    client.send(b'q')
    server.recv(10)
    server.send(b'a')
    client.recv(10)
    time.sleep(0.03)
def ask(client, server):
    client.send(b'q')
    server.recv(10)
far = far_end()
if far:
    lost = connect(socket.AF_INET, ('10.8.0.2', 80))
    lost.setsockopt(socket.IPPROTO_TCP, 18, 2500)
    silence()
print('far' if far else 'near')
gives_up, first_byte, peer_closes, peer_resets, unread, idle, idle_closed, late, half_closed, trickled, again = [opened() for _ in range(11)]
window = opened(8192)
for pair in (gives_up, idle, idle_closed):
    exchange(*pair)
for pair in (gives_up, first_byte, peer_closes, peer_resets, late, again):
    ask(*pair)
for pair in (unread, half_closed):
    pair[1].send(b'a')
def trickles():
    while True:
        try:
            trickled[1].send(b'a')
        except OSError:
            return
        time.sleep(0.02)
threading.Thread(target=trickles, daemon=True).start()
window[0].setblocking(False)
try:
    while True:
        window[0].send(b'q' * 65536)
except BlockingIOError:
    pass
if far:
    lost.send(b'q')
print('waiting')
input()
# The socket is used again, and waits again.
again[1].close()
LIBC.connect(again[0].fileno(), struct.pack('H14x', socket.AF_UNSPEC), 16)
again[0].connect(('127.0.0.1', 9000))
accepted = listener.accept()[0]
time.sleep(0.03)
ask(again[0], accepted)
time.sleep(WAIT)
again[0].close()
gives_up[0].close()
first_byte[0].close()
peer_closes[1].close()
peer_closes[0].recv(10)
peer_closes[0].close()
peer_resets[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
peer_resets[1].close()
unread[0].close()
# Goes on to read afterwards, with a FIN of its own.
half_closed[0].shutdown(socket.SHUT_WR)
half_closed[0].recv(10)
half_closed[0].close()
trickled[0].close()
idle[0].close()
idle_closed[1].close()
idle_closed[0].recv(10)
idle_closed[0].close()
late[1].send(b'a')
late[0].recv(10)
late[0].close()
window[0].close()
window[1].close()
# One that is short waits for nothing.
young = opened()
ask(*young)
young[0].close()
if far:
    lost.settimeout(30)
    try:
        lost.recv(1)
    except TimeoutError as error:
        assert error.errno == errno.ETIMEDOUT, error
    lost.close()
print('ended')
input()
if far:
    os.kill(far, 9)
";

fn ended(daemon: &Daemon, program: &Program) -> BTreeMap<String, (f64, f64)> {
    let metrics = daemon.scrape();
    let comm = program.comm();
    let mut all = BTreeMap::new();
    for (family, reasons) in [
        ("read", &["timeout", "peer_closed", "reset", "unread"][..]),
        ("write", &["window", "ack"]),
    ] {
        for reason in reasons {
            let of = |part: &str| {
                let family = format!("socket_{family}_stall_seconds_{part}");
                metrics.by(&comm, &family, &[("reason", reason)])
            };
            all.insert((*reason).to_owned(), (of("count"), of("sum")));
        }
    }
    all
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn waits_that_end_with_the_connection_are_counted_by_reason() {
    let netns = Netns::new();
    let daemon = Daemon::start(&["--stall-after=1s"]);
    let mut program = netns.script(&[LINK, ENDING].concat(), &[]);
    let far = program.line() == "far";
    if !far {
        left_out!("no veth on this kernel");
    }
    program.expect("waiting");
    // A walk has recorded unread data: `unread`, `half_closed`, `trickled`, and the server of `window`.
    let comm = program.comm();
    let walked = daemon.scrape().has_signal("ports");
    if walked {
        daemon.until("unread data", |metrics| {
            let reason = [("reason", "program_read")];
            metrics.by(&comm, "socket_stalled_connections", &reason) == 4.0
        });
    } else {
        left_out!("the kernel has no iterators over maps");
        thread::sleep(Duration::from_millis(1400));
    }
    program.go();
    program.expect("ended");
    // Both ends are of one process. The server of `window` has not read, either.
    let expected = [
        // Of `again`, the second.
        ("timeout", 3.0),
        // Of `again`, the first.
        ("peer_closed", 2.0),
        ("reset", 1.0),
        // For `trickled`, a walk shows it.
        ("unread", if walked { 3.0 } else { 2.0 }),
        ("window", 1.0),
        ("ack", f64::from(u8::from(far))),
    ];
    let mut found = BTreeMap::new();
    let all_are_there = holds_in_time(|| {
        found = ended(&daemon, &program);
        let count: f64 = found.values().map(|(count, _)| count).sum();
        count >= expected.iter().map(|(_, count)| count).sum()
    });
    println!("{found:?}");
    assert!(all_are_there);
    for (reason, count) in expected {
        let (found, sum) = found[reason];
        assert_eq!(found, count, "{reason}");
        assert!(
            sum >= 1.3 * count && sum < 60.0 * count.max(0.01),
            "{reason}: {sum}"
        );
    }
    program.go();
    program.end();
}
