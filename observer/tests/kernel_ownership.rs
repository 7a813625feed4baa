//! Who owns a socket when it changes hands, and when processes die or take over a pid.

mod common;

use std::io::Write as _;

use common::{Daemon, Netns, Program};

const LIVE: &str = "socket_connections";
const ESTABLISHED: [(&str, &str); 1] = [("state", "ESTABLISHED")];

fn number(program: &mut Program) -> u32 {
    program.line().parse().unwrap()
}

/// The processes that `ss` says hold established sockets, with how many.
fn holders(netns: &Netns, pid: u32) -> usize {
    let holder = format!("pid={pid},");
    netns
        .run("ss", &["-Htanp", "state", "established"])
        .lines()
        .filter(|line| line.contains(&holder))
        .count()
}

#[test]
fn a_descriptor_passed_on_belongs_to_its_receiver() {
    needs_kernel!();
    let netns = Netns::new("scm");
    let daemon = Daemon::start(&[]);
    let mut program = netns.python(
        r#"
import os, socket
near, far = socket.socketpair()
child = os.fork()
if child == 0:
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
    program.expect("shared");
    let shared = daemon.scrape();
    // While both hold it, it stays where it was.
    assert_eq!(shared.of(sender, LIVE, &ESTABLISHED), 2.0);
    assert_eq!(shared.of(receiver, LIVE, &ESTABLISHED), 0.0);
    let moved = shared.sum("observer_moved_sockets_total", &[]);

    program.go();
    program.expect("passed");
    assert_eq!((holders(&netns, sender), holders(&netns, receiver)), (1, 1));
    let passed = daemon.until("the receiver", |metrics| {
        metrics.of(receiver, LIVE, &ESTABLISHED) == 1.0
            && metrics.of(sender, LIVE, &ESTABLISHED) == 1.0
            && metrics.sum("observer_moved_sockets_total", &[]) > moved
    });
    // What happened before stays with the sender.
    assert_eq!(passed.of(sender, "socket_connects_total", &[]), 1.0);
    assert_eq!(passed.of(receiver, "socket_connects_total", &[]), 0.0);

    program.go();
    program.expect("closed");
    let closed = daemon.until("the receiver's close", |metrics| {
        let close = [("from", "ESTABLISHED"), ("to", "FIN_WAIT1")];
        metrics.of(receiver, "socket_state_transitions_total", &close) == 1.0
    });
    assert_eq!(closed.of(receiver, LIVE, &ESTABLISHED), 0.0);
    assert_eq!(closed.of(sender, LIVE, &ESTABLISHED), 0.0);
    assert_eq!(closed.of(sender, LIVE, &[("state", "CLOSE_WAIT")]), 1.0);
    closed.assert_complete();
    program.go();
    program.finish();
}

#[test]
fn a_child_keeps_what_its_parent_opened() {
    needs_kernel!();
    let netns = Netns::new("fork");
    let daemon = Daemon::start(&[]);
    // The program itself has no socket; its child opens a pair and forks, and ends.
    let mut program = netns.python(
        r#"
import os, socket
go_read, go_write = os.pipe()
stop_read, stop_write = os.pipe()
made_read, made_write = os.pipe()
opener = os.fork()
if opener == 0:
    listener = socket.socket()
    listener.bind(('127.0.0.1', 0))
    listener.listen()
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    heir = os.fork()
    if heir == 0:
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
    assert_eq!(closed.of(heir, "socket_time_wait_entered_total", &[]), 1.0);
    assert_eq!(netns.ss("time-wait"), 1);
    program.go();
    program.finish();
}

#[test]
fn a_process_that_is_killed() {
    needs_kernel!();
    let netns = Netns::new("kill");
    let daemon = Daemon::start(&[]);
    let mut server = netns.python(
        r#"
import ctypes, socket
ctypes.CDLL(None).prctl(15, b'obs-survivor', 0, 0, 0)
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
import ctypes, socket, sys
ctypes.CDLL(None).prctl(15, b'obs-victim', 0, 0, 0)
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
    let before = daemon.scrape();
    assert_eq!(before.of(victim_pid, LIVE, &ESTABLISHED), 10.0);
    assert_eq!(before.of(server_pid, LIVE, &ESTABLISHED), 10.0);
    victim.kill();
    // Its ends live on in FIN_WAIT2, as the kernel's orphans.
    let killed = daemon.until("the victim's closes", |metrics| {
        let close = [("from", "ESTABLISHED"), ("to", "FIN_WAIT1")];
        let closes = metrics.sum(
            "socket_state_transitions_total",
            &[&close[..], &[("comm", "obs-victim")]].concat(),
        );
        closes == 10.0 && metrics.of(server_pid, LIVE, &[("state", "CLOSE_WAIT")]) == 10.0
    });
    assert_eq!(netns.ss("close-wait"), 10);
    assert_eq!(
        killed.sum(LIVE, &[("comm", "obs-victim"), ("state", "LISTEN")]),
        0.0
    );
    let folded = daemon.until("the victim folded", |metrics| {
        let exited = [("pid", "exited"), ("comm", "obs-victim"), ("result", "ok")];
        metrics.sum("socket_connects_total", &exited) == 10.0
            && !metrics.has("socket_connects_total", &[("pid", &victim_pid.to_string())])
    });
    assert_eq!(folded.sum(LIVE, &[("comm", "obs-victim")]), 0.0);
    folded.assert_complete();
    server.go();
    server.expect("closed");
    daemon.until("the survivor's gauges", |metrics| {
        metrics.of(server_pid, LIVE, &[("state", "CLOSE_WAIT")]) == 0.0
    });
    server.go();
    server.finish();
}

/// Makes children until one has the pid of the one before; each connects under its name.
const REUSE: &str = r#"
import ctypes, os, socket, time
prctl = ctypes.CDLL(None).prctl
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen(64)
def child(name, connects, wanted=None):
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
                prctl(15, name, 0, 0, 0)
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
pid, end = child(b'obs-reuse-a', 3)
print(pid)
input()
for name, connects in ((b'obs-reuse-b', 5), (b'obs-reuse-b', 7)):
    os.close(end)
    os.waitpid(pid, 0)
    again, end = child(name, connects, pid)
    assert again == pid
    print('again')
    input()
os.close(end)
os.waitpid(pid, 0)
print('gone')
input()
"#;

#[test]
fn a_pid_that_is_reused_is_another_process() {
    needs_kernel!();
    let netns = Netns::new("reuse");
    let daemon = Daemon::start(&[]);
    let mut program = netns.python(REUSE, &[]);
    let pid = program.line();
    // In one scrape: a process that is folded meanwhile counts once.
    let connects_of = |pids: &[&str], comm: &str| -> f64 {
        let metrics = daemon.scrape();
        let of = |pid: &&str| metrics.sum("socket_connects_total", &[("pid", pid), ("comm", comm)]);
        pids.iter().map(of).sum()
    };
    let connects = |pid: &str, comm: &str| connects_of(&[pid], comm);
    let (a, b) = ("obs-reuse-a", "obs-reuse-b");
    daemon.wait("the first process", |_| connects(&pid, a) == 3.0);
    program.go();
    program.expect("again");
    daemon.wait("the second process", |_| connects(&pid, b) == 5.0);
    // Wherever the first one is shown by now, it was not given what the second did.
    assert_eq!(connects_of(&[&pid, "exited"], a), 3.0);
    program.go();
    program.expect("again");
    // One series: same pid, same name. Its sum goes on.
    daemon.wait("the third process", |_| {
        connects_of(&[&pid, "exited"], b) == 12.0
    });
    assert!(connects(&pid, b) >= 7.0);
    program.go();
    program.expect("gone");
    daemon.wait("all three folded", |_| {
        connects("exited", a) == 3.0 && connects("exited", b) == 12.0
    });
    assert_eq!(connects(&pid, a) + connects(&pid, b), 0.0);
    daemon.scrape().assert_complete();
    program.go();
    program.finish();
}

#[test]
fn a_name_made_of_what_a_label_cannot_hold() {
    needs_kernel!();
    let netns = Netns::new("comm");
    let daemon = Daemon::start(&[]);
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
        metrics.of(program.pid(), LIVE, &[("state", "LISTEN"), ("comm", comm)]) == 1.0
    });
    assert!(
        metrics
            .text
            .contains("comm=\"a\\\"b\\\\c\\nd}\u{fffd}\u{fffd}{\""),
        "{}",
        metrics.shown()
    );
    if common::has_program("promtool") {
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
    program.go();
    program.finish();
}
