//! Errors that end established connections: each counts once, for the side whose calls fail with it.
//! A connection that the program closed counts for no process.

use std::collections::BTreeMap;

use observer_test_support::{Daemon, Metrics, Netns, Program};

const ERRORS: &str = "socket_connection_errors_total";

/// What observer counted for a process, by errno.
fn errors(metrics: &Metrics, pid: u32) -> BTreeMap<String, u64> {
    metrics.counted(pid, ERRORS, |labels| labels["errno"].clone())
}

/// Reads which errors a program got, and compares.
fn compare(daemon: &Daemon, mut program: Program) -> BTreeMap<String, u64> {
    let reported = program.tally();
    compare_with(daemon, program, reported)
}

fn compare_with(
    daemon: &Daemon,
    program: Program,
    reported: BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    println!("reported {reported:?}");
    let total = reported.values().sum::<u64>() as f64;
    let metrics = daemon.until("all errors", |metrics| {
        metrics.of(program.pid(), ERRORS, &[]) >= total
    });
    assert_eq!(
        errors(&metrics, program.pid()),
        reported,
        "{}",
        metrics.shown()
    );
    metrics.assert_complete();
    program.end();
    reported
}

fn expect(reported: &BTreeMap<String, u64>, expected: &[(&str, u64)]) {
    let expected = expected.iter().map(|(name, n)| ((*name).to_owned(), *n));
    assert_eq!(*reported, expected.collect());
}

/// RSTs of the peer, and each way to close, which is no error of the side that closes. One process
/// has both ends, so that one that is wrongly counted shows.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn resets_count_for_the_side_that_receives_them() {
    let netns = Netns::new();
    // Beyond a minute, an orphan stays in FIN_WAIT2 itself.
    netns.sysctl("net.ipv4.tcp_fin_timeout", "120");
    let daemon = Daemon::shared();
    let reported = compare(
        &daemon,
        netns.script(
            r"
tally = Tally()
unspec = struct.pack('H14x', socket.AF_UNSPEC)
for family, address in FAMILIES:
    for _ in range(5):
        # Orderly, from either side.
        client, server = pair(family, address)
        client.close()
        assert server.recv(1) == b''
        server.close()
        # SO_LINGER 0.
        client, server = pair(family, address)
        reset(server)
        tally.add(outcome(lambda: client.recv(1)))
        client.close()
        # Unread data.
        client, server = pair(family, address)
        client.sendall(b'x')
        assert server.recv(1, socket.MSG_PEEK) == b'x'
        server.close()
        tally.add(outcome(lambda: client.recv(1)))
        client.close()
        # connect(AF_UNSPEC), and the socket connects again.
        listener = listen(family, address)
        client = connect(family, listener.getsockname())
        server, _ = listener.accept()
        assert LIBC.connect(client.fileno(), unspec, len(unspec)) == 0
        tally.add(outcome(lambda: server.recv(1)))
        server.close()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        client.close()
        server.close()
        # In CLOSE_WAIT.
        client, server = pair(family, address)
        half_close(server)
        assert client.recv(1) == b''
        reset(server)
        wait(lambda: state(client) == 7)
        tally.add(outcome(lambda: client.send(b'x')))
        client.close()
        # In FIN_WAIT2, of a socket that nobody can ask any more.
        client, server = pair(family, address)
        port = client.getsockname()[1]
        client.close()
        assert server.recv(1) == b''
        reset(server)
        wait(lambda: 5 not in states_of(port))
        tally.add('ECONNRESET')
    # An attempt that is refused was never a connection.
    closed = closed_port(family, address)
    assert outcome(lambda: connect(family, closed.getsockname())) == 'ECONNREFUSED'
print(tally)
input()
",
            &[],
        ),
    );
    expect(&reported, &[("ECONNRESET", 40), ("EPIPE", 10)]);
}

/// Connections whose peers stop answering, because a filter drops what arrives. Half of those with
/// data in flight are to an address that becomes unreachable.
const SILENT: &str = r"
SO_ATTACH_FILTER, BUSY, IDLE = 26, 4, 2
nothing = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0))
program = struct.pack('HP', 1, ctypes.addressof(nothing))
busy, idle, servers = [], [], []
for family, silent, gone in (
    (socket.AF_INET, '127.0.0.1', '10.77.0.1'),
    (socket.AF_INET6, '::1', 'fd77::1'),
):
    for address in (silent, gone):
        listener = listen(family, address)
        for i in range(BUSY + IDLE if address == silent else BUSY):
            client = socket.socket(family)
            client.bind((silent, 0))
            client.connect(listener.getsockname())
            servers.append(listener.accept()[0])
            if i < BUSY:
                timeout = 1200 if address == silent else 5000
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout)
                busy.append(client)
            else:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1)
                idle.append(client)
        servers.append(listener)
print('connected')
input()
for server in servers:
    server.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
for client in idle:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
for client in busy:
    client.sendall(b'x')
print('sent')
tally = Tally()
for client in busy + idle:
    tally.add(outcome(lambda: client.recv(1)))
print(tally)
input()
";

/// Data that is never acknowledged, probes that are never answered, and a removed route. One daemon
/// is older than the connections, the other finds them.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn timeouts_and_unreachable_peers_are_counted() {
    for older in [true, false] {
        let netns = Netns::new();
        let gone = [("-4", "10.77.0.1/32"), ("-6", "fd77::1/128")];
        for (option, address) in gone {
            netns.run("ip", &[option, "addr", "add", address, "dev", "lo"]);
        }
        let before = older.then(Daemon::shared);
        let mut program = netns.script(SILENT, &[]);
        program.expect("connected");
        let daemon = before.unwrap_or_else(|| Daemon::shared_anew(&[]));
        let established = [("state", "ESTABLISHED")];
        daemon.until("the connections", |metrics| {
            metrics.of(program.pid(), "socket_connections", &established) == 40.0
        });
        let resets = netns.snmp()["OutRsts"];
        program.go();
        program.expect("sent");
        for (option, address) in gone {
            netns.run("ip", &[option, "addr", "del", address, "dev", "lo"]);
            netns.run("ip", &[option, "route", "add", "unreachable", address]);
        }
        let reported = program.tally();
        // Keepalive sends one; who waits for an ACK does not.
        assert_eq!(netns.snmp()["OutRsts"] - resets, 4);
        let reported = compare_with(&daemon, program, reported);
        expect(&reported, &[("EHOSTUNREACH", 8), ("ETIMEDOUT", 12)]);
    }
}

/// `ss -K`.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn connections_killed_by_ss_are_counted() {
    needs_programs!("ss");
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut program = netns.script(
        r"
pairs = [pair(family, address) for family, address in FAMILIES]
print(*[client.getsockname()[1] for client, _ in pairs])
input()
tally = Tally()
for client, server in pairs:
    tally.add(outcome(lambda: client.recv(1)))
    tally.add(outcome(lambda: server.recv(1)))
print(tally)
input()
",
        &[],
    );
    let ports = program.line();
    for port in ports.split(' ') {
        netns.run("ss", &["-Kt", &format!("( sport = :{port} )")]);
    }
    if netns.ss("established") != 0 {
        skip!("this kernel has no way to close other programs' sockets");
    }
    program.go();
    let reported = compare(&daemon, program);
    expect(&reported, &[("ECONNABORTED", 2), ("ECONNRESET", 2)]);
}

/// An error that does not end the connection, and that is still set when the connection is closed normally.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn icmp_error_that_a_connection_survives_is_not_counted() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut program = netns.script(
        r"
IP_RECVERR, ETH_P_IP = 11, 0x0800
client, server = pair(*FAMILIES[0])
client.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
tap.bind(('lo', ETH_P_IP))
client.sendall(b'x')
def sent():
    while True:
        packet = tap.recv(100)
        if packet[9] == socket.IPPROTO_TCP and len(packet) >= 41 and packet[-1:] == b'x':
            return packet
packet = sent()
assert server.recv(1) == b'x'
# What was acknowledged is no longer believed to have met an obstacle; what comes next is.
header = bytearray(packet[:28])
sequence = struct.unpack_from('!I', packet, 24)[0]
struct.pack_into('!I', header, 24, (sequence + 1) & 0xffffffff)
message = bytearray(struct.pack('!BBHI', 3, 1, 0, 0) + header)
total = sum(struct.unpack(f'!{len(message) // 2}H', message))
total = (total & 0xffff) + (total >> 16)
struct.pack_into('!H', message, 2, ~((total & 0xffff) + (total >> 16)) & 0xffff)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
raw.sendto(message, ('127.0.0.1', 0))
poll = select.poll()
poll.register(client, 0)
assert poll.poll(), 'no error'
assert state(client) == 1
port = client.getsockname()[1]
client.close()
assert server.recv(1) == b''
server.close()
wait(lambda: states_of(port) == [6])
# So that there is something to wait for.
client, server = pair(*FAMILIES[0])
reset(server)
print(Tally({outcome(lambda: client.recv(1)): 1}))
input()
",
        &[],
    );
    let pid = program.pid();
    let reported = program.tally();
    expect(&reported, &[("ECONNRESET", 1)]);
    let metrics = daemon.until("the RST", |metrics| metrics.of(pid, ERRORS, &[]) >= 1.0);
    assert_eq!(errors(&metrics, pid), reported, "{}", metrics.shown());
    // Nor does it hide that the connection went through TIME_WAIT.
    let entered = metrics.of(pid, "socket_time_wait_entered_total", &[]);
    assert_eq!(entered, 1.0, "{}", metrics.shown());
    metrics.assert_complete();
    program.end();
}
