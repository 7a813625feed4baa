//! Rare cases in which counts were wrong once.

use observer_test_support::{Daemon, Metrics, Netns, Program};

/// A connection attempt that is ended with connect(AF_UNSPEC) has a result.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn connect_given_up_with_af_unspec_counts_as_ecanceled() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    // An unanswered SYN: the listener's queue is full.
    let mut program = netns.python(
        r#"
import ctypes, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen(0)
fill = []
for _ in range(3):
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex(listener.getsockname())
    fill.append(s)
given_up = socket.socket()
given_up.setblocking(False)
for _ in range(5):
    assert given_up.connect_ex(listener.getsockname()) == 115
    assert libc.connect(given_up.fileno(), struct.pack('H14x', socket.AF_UNSPEC), 16) == 0
given_up.close()
print('done')
input()
"#,
        &[],
    );
    program.expect("done");
    let pid = program.pid();
    let metrics = daemon.until("five outcomes", |metrics| {
        metrics.of(pid, "socket_connects_total", &[("result", "ECANCELED")]) == 5.0
    });
    metrics.assert_complete();
    program.end();
}

/// An MPTCP listener that a forked child keeps: the MPTCP socket has an owner but is in no gauge.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn mptcp_listener_moves_to_a_forked_child() {
    let netns = Netns::new();
    let mut program = netns.python(
        r#"
import os, socket
try:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
except OSError as error:
    print(f'skip {error}')
    input()
    raise SystemExit
listener.bind(('127.0.0.1', 0))
listener.listen()
print('listening')
input()
go, wait = os.pipe()[::-1]
child = os.fork()
if child == 0:
    os.read(wait, 1)
    listener.close()
    os.read(wait, 1)
    os._exit(0)
listener.close()
print(child)
input()
os.write(go, b'x')
print('closed')
input()
os.write(go, b'x')
os.waitpid(child, 0)
"#,
        &[],
    );
    let daemon = Daemon::start(&[]);
    let first = program.line();
    if let Some(reason) = first.strip_prefix("skip ") {
        skip!("no MPTCP on this kernel: {reason}");
    }
    let parent = program.pid();
    let listen = [("state", "LISTEN")];
    daemon.until("the listener", |metrics| {
        metrics.of(parent, "socket_connections", &listen) == 1.0
    });
    program.go();
    let child: u32 = program.line().parse().unwrap();
    let metrics = daemon.until("the child to be found", |metrics| {
        metrics.of(child, "socket_connections", &listen) == 1.0
            && metrics.of(parent, "socket_connections", &listen) == 0.0
    });
    // Both have one name.
    assert_eq!(
        metrics.by(&program.comm(), "socket_connections", &listen),
        1.0
    );
    program.go();
    program.expect("closed");
    let metrics = daemon.until("nobody listening", |metrics| {
        metrics.of(child, "socket_connections", &[]) == 0.0
    });
    assert_eq!(metrics.of(child, "socket_process_open_sockets", &[]), 0.0);
    metrics.assert_complete();
    program.end();
}

/// A received RST that might have been our own abort stays counted when a later socket at
/// the same address sends one: counters do not go down.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn received_resets_never_decrease() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut program = netns.python(
        r#"
import socket, struct
linger = struct.pack('ii', 1, 0)
def pair():
    listener = socket.socket()
    listener.bind(('127.0.0.1', 0))
    listener.listen()
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    listener.close()
    return client, server
for _ in range(20):
    client, server = pair()
    client.shutdown(socket.SHUT_RDWR)
    assert server.recv(1) == b''
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    server.close()
    client.close()
print('received')
input()
for _ in range(200):
    client, server = pair()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    client.close()
    server.close()
print('more')
input()
"#,
        &[],
    );
    program.expect("received");
    let pid = program.pid();
    // In FIN_WAIT1 or FIN_WAIT2, as the ACK of the FIN goes.
    let received = [("direction", "received")];
    let of = |metrics: &observer_test_support::Metrics| {
        metrics.of(pid, "socket_resets_total", &received)
    };
    daemon.until("twenty", |metrics| of(metrics) == 20.0);
    program.go();
    program.expect("more");
    // Each of those was received by the other end.
    let metrics = daemon.scrape();
    assert_eq!(of(&metrics), 220.0, "{}", metrics.shown());
    metrics.assert_complete();
    program.end();
}

/// Sockets in TIME_WAIT of a namespace that has no processes do not reduce the numbers of others.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn time_wait_in_a_namespace_without_processes() {
    const SCRIPT: &str = r#"
import socket, sys
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen()
for _ in range(int(sys.argv[1])):
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    client.close()
    assert server.recv(1) == b''
    server.close()
print('done')
input()
"#;
    let daemon = Daemon::start(&[]);
    let mut here = Program::python(SCRIPT, &["50"]);
    here.expect("done");
    let netns = Netns::new();
    let mut there = netns.python(SCRIPT, &["300"]);
    there.expect("done");
    there.go();
    let gone = there.pid();
    there.finish();
    let pid = here.pid();
    // Several reconciliations see no process in the namespace.
    let reconciled =
        |metrics: &Metrics| metrics.sum("observer_job_runs_total", &[("task", "reconcile")]);
    let before = reconciled(&daemon.scrape());
    let metrics = daemon.until("reconciliations", |metrics| {
        reconciled(metrics) > before + 3.0
    });
    metrics.assert_of(pid, "socket_time_wait", &[], 50.0);
    assert_eq!(metrics.by(&here.comm(), "socket_time_wait", &[]), 50.0);
    assert!(!metrics.shows(gone), "{}", metrics.shown());
    here.end();
}
