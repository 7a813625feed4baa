//! The owner of a socket that is passed on or inherited, and processes that end, reuse a pid or
//! change their names.

use std::io::Write as _;

use observer_test_support::{Daemon, Metrics, Netns, Program, scaled};

const LIVE: &str = "socket_connections";
const ESTABLISHED: [(&str, &str); 1] = [("state", "ESTABLISHED")];

fn number(program: &mut Program) -> u32 {
    program.line().parse().unwrap()
}

/// The processes with established sockets according to `ss`, with their numbers.
fn holders(netns: &Netns, pid: u32) -> usize {
    let holder = format!("pid={pid},");
    netns
        .run("ss", &["-Htanp", "state", "established"])
        .lines()
        .filter(|line| line.contains(&holder))
        .count()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn socket_passed_by_scm_rights_moves_on_close() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut program = netns.python(
        r#"
import os, socket
near, far = socket.socketpair()
child = os.fork()
if child == 0:
    name(COMM + 'r')
    near.close()
    _, descriptors, _, _ = socket.recv_fds(far, 1, 1)
    far.send(b'x')
    far.recv(1)
    os.close(descriptors[0])
    far.send(b'x')
    far.recv(1)
    os._exit(0)
far.close()
print(child)
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen()
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
socket.send_fds(near, [b'x'], [client.fileno()])
assert near.recv(1) == b'x'
print('shared')
input()
client.close()
print('passed')
input()
near.send(b'x')
assert near.recv(1) == b'x'
print('closed')
input()
near.send(b'x')
os.waitpid(child, 0)
"#,
        &[],
    );
    let (sender, receiver) = (program.pid(), number(&mut program));
    let heir = program.comm_of_child('r');
    program.expect("shared");
    let shared = daemon.scrape();
    // While both hold it, it stays where it was, unless its reception is seen.
    let is_seen = shared.by_function("fd_received");
    let received = f64::from(is_seen);
    assert_eq!(shared.of(sender, LIVE, &ESTABLISHED), 2.0 - received);
    assert_eq!(shared.of(receiver, LIVE, &ESTABLISHED), received);
    let moved = shared.sum("observer_moved_sockets_total", &[]);

    program.go();
    program.expect("passed");
    assert_eq!((holders(&netns, sender), holders(&netns, receiver)), (1, 1));
    let passed = daemon.until("the receiver", |metrics| {
        metrics.of(receiver, LIVE, &ESTABLISHED) == 1.0
            && metrics.of(sender, LIVE, &ESTABLISHED) == 1.0
            && (is_seen || metrics.sum("observer_moved_sockets_total", &[]) > moved)
    });
    // Earlier events remain counted for the sender.
    assert_eq!(passed.of(sender, "socket_connects_total", &[]), 1.0);
    assert_eq!(passed.of(receiver, "socket_connects_total", &[]), 0.0);

    program.go();
    program.expect("closed");
    let closed = daemon.until("the receiver's close", |metrics| {
        let close = [("from", "ESTABLISHED"), ("to", "FIN_WAIT1")];
        metrics.by(&heir, "socket_state_transitions_total", &close) == 1.0
    });
    assert_eq!(closed.of(receiver, LIVE, &ESTABLISHED), 0.0);
    assert_eq!(closed.of(sender, LIVE, &ESTABLISHED), 0.0);
    assert_eq!(closed.of(sender, LIVE, &[("state", "CLOSE_WAIT")]), 1.0);
    closed.assert_complete();
    program.end();
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn sockets_move_to_a_forked_child() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    // The program itself has no socket; its child opens a pair and forks, and ends.
    let mut program = netns.python(
        r#"
import os, socket
go_read, go_write = os.pipe()
stop_read, stop_write = os.pipe()
made_read, made_write = os.pipe()
opener = os.fork()
if opener == 0:
    name(COMM + 'o')
    listener = socket.socket()
    listener.bind(('127.0.0.1', 0))
    listener.listen()
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    heir = os.fork()
    if heir == 0:
        name(COMM + 'h')
        os.read(stop_read, 1)
        client.close()
        server.close()
        listener.close()
        os.write(made_write, b'closed')
        os.read(stop_read, 1)
        os._exit(0)
    os.write(made_write, b'%d' % heir)
    os.read(go_read, 1)
    os._exit(0)
heir = int(os.read(made_read, 16))
print(opener)
print(heir)
input()
os.write(go_write, b'x')
os.waitpid(opener, 0)
print('alone')
input()
os.write(stop_write, b'x')
assert os.read(made_read, 16) == b'closed'
print('closed')
input()
os.write(stop_write, b'x')
"#,
        &[],
    );
    let (opener, heir) = (number(&mut program), number(&mut program));
    let shared = daemon.scrape();
    assert_eq!(shared.of(opener, LIVE, &ESTABLISHED), 2.0);
    assert_eq!(shared.of(heir, LIVE, &[]), 0.0);

    program.go();
    program.expect("alone");
    assert_eq!((holders(&netns, opener), holders(&netns, heir)), (0, 2));
    let alone = daemon.until("the heir", |metrics| {
        metrics.of(heir, LIVE, &[]) == 3.0 && metrics.of(opener, LIVE, &[]) == 0.0
    });
    assert_eq!(alone.of(heir, LIVE, &ESTABLISHED), 2.0);
    assert_eq!(alone.of(heir, LIVE, &[("state", "LISTEN")]), 1.0);
    alone.assert_complete();

    program.go();
    program.expect("closed");
    let closed = daemon.until("gauges at zero", |metrics| {
        metrics.of(heir, LIVE, &[]) == 0.0
            && metrics.of(heir, "socket_process_open_sockets", &[]) == 0.0
    });
    // They count for the child that closed them, not for the one that opened them.
    let entered = ['h', 'o'].map(|child| {
        let comm = program.comm_of_child(child);
        closed.by(&comm, "socket_time_wait_entered_total", &[])
    });
    assert_eq!(entered, [1.0, 0.0]);
    assert_eq!(netns.ss("time-wait"), 1);
    program.end();
}

/// A process connects sockets that another one has connected before and a third one has open, while one
/// walk over open files follows the other. By pid, the walk visits the third one first, and the one that
/// connected before last: between the visits of the two others, the owner changes, so it confirms none.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn sockets_connected_again_during_walks_stay_with_who_connected() {
    let netns = Netns::new();
    let daemon = Daemon::start(&["--resync-interval", "10ms"]);
    let count = scaled(600, 60);
    let mut program = netns.script(
        r"
unspec = struct.pack('H14x', socket.AF_UNSPEC)
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
count = int(sys.argv[1])
listener = listen(*FAMILIES[0], 4096)
pairs = [socket.socketpair() for _ in range(2)]
def receive(near):
    return [socket.socket(fileno=socket.recv_fds(near, 1, 1)[1][0]) for _ in range(count)]
stop, end = os.pipe()
second = os.fork()
if second == 0:
    name(COMM + 's')
    os.close(end)
    clients = receive(pairs[0][0])
    pairs[0][0].recv(1)
    for client in clients:
        client.connect(listener.getsockname())
        time.sleep(0.005)
    pairs[0][0].send(b'x')
    os.read(stop, 1)
    os._exit(0)
last = os.fork()
if last == 0:
    name(COMM + 'l')
    os.close(end)
    clients = [connect(socket.AF_INET, listener.getsockname()) for _ in range(count)]
    for client in clients:
        assert LIBC.connect(client.fileno(), unspec, len(unspec)) == 0
        for _, far in pairs:
            socket.send_fds(far, [b'x'], [client.fileno()])
    os.read(stop, 1)
    os._exit(0)
assert os.getpid() < second < last
kept = receive(pairs[1][0])
pairs[0][1].send(b'x')
assert pairs[0][1].recv(1) == b'x'
print(second)
input()
os.close(end)
",
        &[&count.to_string()],
    );
    let second = number(&mut program);
    let metrics = daemon.scrape();
    metrics.assert_of(second, LIVE, &ESTABLISHED, count as f64);
    metrics.assert_complete();
    program.end();
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn connections_of_a_killed_process() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut server = netns.python(
        r#"
import socket
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen()
print(listener.getsockname()[1])
accepted = [listener.accept()[0] for _ in range(10)]
print('accepted')
input()
for one in accepted:
    one.close()
print('closed')
input()
"#,
        &[],
    );
    let port = server.line();
    let mut victim = netns.python(
        r#"
import socket, sys
clients = [socket.create_connection(('127.0.0.1', int(sys.argv[1]))) for _ in range(10)]
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen()
print('open')
input()
"#,
        &[&port],
    );
    victim.expect("open");
    server.expect("accepted");
    let (victim_pid, server_pid) = (victim.pid(), server.pid());
    let comm = victim.comm();
    let before = daemon.scrape();
    assert_eq!(before.of(victim_pid, LIVE, &ESTABLISHED), 10.0);
    assert_eq!(before.of(server_pid, LIVE, &ESTABLISHED), 10.0);
    victim.kill();
    // Its ends live on in FIN_WAIT2, as the kernel's orphans.
    let killed = daemon.until("the victim's closes", |metrics| {
        let close = [("from", "ESTABLISHED"), ("to", "FIN_WAIT1")];
        let closes = metrics.by(&comm, "socket_state_transitions_total", &close);
        closes == 10.0 && metrics.of(server_pid, LIVE, &[("state", "CLOSE_WAIT")]) == 10.0
    });
    assert_eq!(netns.ss("close-wait"), 10);
    assert_eq!(killed.by(&comm, LIVE, &[("state", "LISTEN")]), 0.0);
    let gone = daemon.until("the end of the victim's series", |metrics| {
        let ok = [("result", "ok")];
        assert_eq!(metrics.by(&comm, "socket_connects_total", &ok), 10.0);
        !metrics.shows(victim_pid)
    });
    assert_eq!(gone.by(&comm, LIVE, &[]), 0.0);
    gone.assert_complete();
    server.go();
    server.expect("closed");
    daemon.until("the survivor's gauges", |metrics| {
        metrics.of(server_pid, LIVE, &[("state", "CLOSE_WAIT")]) == 0.0
    });
    server.end();
}

/// Makes children until one has the pid of the one before; each connects under its name.
const REUSE: &str = r#"
import os, socket, time
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen(64)
def child(comm, connects, wanted=None):
    while True:
        go_read, go_write = os.pipe()
        done_read, done_write = os.pipe()
        if wanted:
            with open('/proc/sys/kernel/ns_last_pid', 'w') as last:
                last.write(str(wanted - 1))
        pid = os.fork()
        if pid == 0:
            os.close(go_write)
            if os.read(go_read, 1):
                name(comm)
                for _ in range(connects):
                    socket.create_connection(listener.getsockname()).close()
                os.write(done_write, b'x')
                os.read(go_read, 1)
            os._exit(0)
        os.close(go_read)
        if wanted is None or pid == wanted:
            os.write(go_write, b'x')
            assert os.read(done_read, 1) == b'x'
            return pid, go_write
        os.close(go_write)
        os.waitpid(pid, 0)
        # Somebody else has it, for a moment as a rule.
        os.close(done_read)
        os.close(done_write)
        time.sleep(0.01)
pid, end = child(COMM + 'a', 3)
print(pid)
input()
for connects in (5, 7):
    os.close(end)
    os.waitpid(pid, 0)
    again, end = child(COMM + 'b', connects, pid)
    assert again == pid
    print('again')
    input()
os.close(end)
os.waitpid(pid, 0)
print('gone')
input()
"#;

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn reused_pid_is_another_process() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut program = netns.python(REUSE, &[]);
    let pid = number(&mut program);
    let [a, b] = ['a', 'b'].map(|child| program.comm_of_child(child));
    const CONNECTS: &str = "socket_connects_total";
    // By name, and by process under each name: a process's series begins with its own counts.
    let counts = |metrics: &Metrics| {
        let of = |comm: &str| metrics.of(pid, CONNECTS, &[("comm", comm)]);
        let by = |comm: &str| metrics.by(comm, CONNECTS, &[]);
        ([by(&a), by(&b)], [of(&a), of(&b)])
    };
    let until = |what: &str, expected: ([f64; 2], [f64; 2])| {
        daemon.until(what, |metrics| counts(metrics) == expected)
    };
    until("the first process", ([3.0, 0.0], [3.0, 0.0]));
    program.go();
    program.expect("again");
    until("the second process", ([3.0, 5.0], [0.0, 5.0]));
    program.go();
    program.expect("again");
    // Same pid, same name, and yet another process.
    until("the third process", ([3.0, 12.0], [0.0, 7.0]));
    program.go();
    program.expect("gone");
    let metrics = until("the end of all three", ([3.0, 12.0], [0.0, 0.0]));
    metrics.assert_complete();
    program.end();
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn comm_with_quotes_and_control_characters_is_escaped() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut program = netns.python(
        r#"
import ctypes, socket
ctypes.CDLL(None).prctl(15, b'a"b\\c\nd}\xff\x07{', 0, 0, 0)
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen()
print('open')
input()
"#,
        &[],
    );
    program.expect("open");
    let comm = "a\"b\\c\nd}\u{fffd}\u{fffd}{";
    let metrics = daemon.until("the listener", |metrics| {
        let labels = [("state", "LISTEN"), ("comm", comm)];
        metrics.of(program.pid(), LIVE, &labels) == 1.0
            && metrics.by(comm, LIVE, &[("state", "LISTEN")]) == 1.0
    });
    assert!(
        metrics
            .text
            .contains("comm=\"a\\\"b\\\\c\\nd}\u{fffd}\u{fffd}{\""),
        "{}",
        metrics.shown()
    );
    if observer_test_support::has_program("promtool") {
        let mut check = std::process::Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = check.stdin.take().unwrap();
        stdin.write_all(metrics.text.as_bytes()).unwrap();
        drop(stdin);
        let output = check.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert_eq!(said, "");
    }
    let (status, page) = daemon.get("/");
    assert_eq!(status, 200);
    assert!(!page.contains("a\"b"), "the page quotes nothing:\n{page}");
    program.end();
}

/// Names in angle brackets are the observer's own: no process can take one.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn comm_in_angle_brackets_is_escaped() {
    let netns = Netns::new();
    let daemon = Daemon::start(&[]);
    let mut program = netns.script(
        r"
for comm in ('<other>', '<unattributed>', r'\other'):
    if os.fork() == 0:
        name(comm)
        for family, address in FAMILIES:
            closed = closed_port(family, address)
            assert outcome(lambda: connect(family, closed.getsockname())) == 'ECONNREFUSED'
        os.write(1, b'done\n')
        os.read(0, 1)
        os._exit(0)
os.wait()
os.wait()
os.wait()
",
        &[],
    );
    for _ in 0..3 {
        program.expect("done");
    }
    let metrics = daemon.scrape();
    let refused = [("result", "ECONNREFUSED")];
    for comm in ["\\<other>", "\\<unattributed>", "\\\\other"] {
        let counted = metrics.by(comm, "socket_connects_total", &refused);
        assert_eq!(counted, 2.0, "{comm}\n{}", metrics.shown());
    }
    assert_eq!(
        metrics.by("<unattributed>", "socket_connects_total", &refused),
        0.0
    );
    metrics.assert_complete();
    for _ in 0..3 {
        program.go();
    }
    program.finish();
}

/// A program that changes its name, as execve() does: earlier counts stay with the old name, later
/// ones count for the new name, and its live sockets move to the new name.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn renamed_program_counts_for_its_new_name() {
    let daemon = Daemon::shared();
    let netns = Netns::new();
    let mut program = netns.script(
        r"
kept = [pair(*FAMILIES[0]) for _ in range(3)]
print('first')
input()
name(COMM + 'x')
print('renamed')
input()
kept += [pair(*FAMILIES[0]) for _ in range(2)]
print('second')
input()
",
        &[],
    );
    program.expect("first");
    let (old, new) = (program.comm(), program.comm_of_child('x'));
    let pid = program.pid().to_string();
    let ok = [("result", "ok")];
    let connects = |metrics: &Metrics| {
        let of_name = |comm: &str| metrics.by(comm, "socket_connects_total", &ok);
        let of_pid = [("pid", pid.as_str()), ok[0]];
        let process = metrics.sum("socket_process_connects_total", &of_pid);
        [of_name(&old), of_name(&new), process]
    };
    let live = |metrics: &Metrics| [&old, &new].map(|comm| metrics.by(comm, LIVE, &ESTABLISHED));
    let before = daemon.until("three connects", |metrics| connects(metrics)[0] == 3.0);
    assert_eq!(
        (connects(&before), live(&before)),
        ([3.0, 0.0, 3.0], [6.0, 0.0])
    );
    program.go();
    program.expect("renamed");
    // The identity of a process is read every few seconds.
    let renamed = daemon.until("the new name", |metrics| metrics.shows_name(&new));
    assert_eq!(
        (connects(&renamed), live(&renamed)),
        ([3.0, 0.0, 3.0], [0.0, 6.0])
    );
    assert!(!renamed.shows_name(&old));
    program.go();
    program.expect("second");
    let after = daemon.until("two more", |metrics| connects(metrics)[1] == 2.0);
    assert_eq!(
        (connects(&after), live(&after)),
        ([3.0, 2.0, 5.0], [0.0, 10.0])
    );
    program.end();
    let gone = daemon.until("its end", |metrics| !metrics.shows_name(&new));
    assert_eq!(connects(&gone), [3.0, 2.0, 0.0]);
}
