//! Maps that are too small: lost events are counted as lost, and all other counts are right.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use observer_common::TLS_HANDSHAKES_SHARE;
use observer_test_support::{Daemon, Metrics, Netns, Program, scaled, skip};

use crate::tls::{Files, IN_PROGRESS, NO_LINKS, ONE, SHARED, expect, observing, probed};

/// Opens the given number of pairs, and closes them after a line on stdin.
const PAIRS: &str = r#"
import socket, sys
count = int(sys.argv[1])
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen(16)
pairs = []
for _ in range(count):
    client = socket.create_connection(listener.getsockname())
    pairs.append((client, listener.accept()[0]))
print('open')
input()
for client, server in pairs:
    client.close()
    server.close()
listener.close()
print('closed')
input()
"#;

/// Forks children that have one name and connect once each; they end after a line on stdin.
const CHILDREN: &str = r#"
import os, socket, sys
count, keep = int(sys.argv[1]), sys.argv[2] == 'keep'
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen(1024)
print('ready')
input()
accepted, children = [], []
for _ in range(count):
    hold_read, hold_write = os.pipe()
    done_read, done_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        address = listener.getsockname()
        listener.close()
        name(COMM + 'c')
        os.close(hold_write)
        for _, write in children:
            os.close(write)
        for server in accepted:
            server.close()
        client = socket.create_connection(address)
        os.write(done_write, b'x')
        if keep:
            os.read(hold_read, 1)
        os._exit(0)
    os.close(hold_read)
    os.close(done_write)
    assert os.read(done_read, 1) == b'x'
    os.close(done_read)
    accepted.append(listener.accept()[0])
    if not keep:
        os.close(hold_write)
        os.waitpid(pid, 0)
        accepted.pop().close()
    else:
        children.append((pid, hold_write))
print('made')
input()
for pid, write in children:
    os.close(write)
for pid, _ in children:
    os.waitpid(pid, 0)
for server in accepted:
    server.close()
print('gone')
input()
"#;

/// Leaves a socket in TIME_WAIT in each of the given number of new network namespaces, after each line
/// on stdin. All but the last one have no process then.
const NAMESPACES: &str = r#"
import ctypes, os, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
for line in sys.stdin:
    for _ in range(int(sys.argv[1])):
        assert libc.unshare(0x40000000) == 0, os.strerror(ctypes.get_errno())
        subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
        with socket.create_server(('127.0.0.1', 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
            client.close()
            assert server.recv(1) == b''
            server.close()
    print('left')
"#;

const LIVE: &str = "socket_connections";

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_full_connection_map_is_counted_and_leaves_the_gauges_alone() {
    let netns = Netns::new();
    let connections = [("map", "connections")];
    // Sockets of other programs on this host also have entries.
    let others = Daemon::shared().scrape();
    let room = 16.0 + others.sum("observer_map_entries", &connections);
    let daemon = Daemon::start(&["--max-connections", &room.to_string()]);
    let before = daemon.scrape();
    let snmp = netns.snmp();
    let mut program = netns.python(PAIRS, &["100"]);
    program.expect("open");
    let pid = program.pid();
    assert_eq!(netns.ss("established"), 200);
    assert_eq!(netns.snmp()["ActiveOpens"] - snmp["ActiveOpens"], 100);

    let lost = [("signal", "state"), ("outcome", "lost")];
    let full = daemon.until("refusals", |metrics| {
        metrics.sum("observer_map_full_total", &connections) > 150.0
            && metrics.sum("observer_events_total", &lost) > 300.0
    });
    let entries = full.sum("observer_map_entries", &connections);
    assert!((1.0..=room).contains(&entries), "{entries}");
    assert_eq!(full.sum("observer_map_capacity", &connections), room);
    // Those without an entry are not in any gauge.
    let live = full.sum(LIVE, &[]);
    assert!(live <= room, "{live} live sockets:\n{}", full.shown());
    // Every transition is counted, if as unattributed.
    let opened = |metrics: &Metrics| {
        let step = [("from", "CLOSE"), ("to", "SYN_SENT")];
        metrics.sum("socket_state_transitions_total", &step)
    };
    assert!(opened(&full) - opened(&before) >= 100.0);
    full.assert_complete();

    program.go();
    program.expect("closed");
    let end = daemon.until("gauges of the program at zero", |metrics| {
        metrics.of(pid, LIVE, &[]) == 0.0
    });
    assert_eq!(end.by(&program.comm(), LIVE, &[]), 0.0);
    let unattributed = end.by("<unattributed>", LIVE, &[]);
    assert!(unattributed <= room, "{unattributed}:\n{}", end.shown());
    let first_closes = |metrics: &Metrics| {
        let step = [("from", "ESTABLISHED"), ("to", "FIN_WAIT1")];
        metrics.sum("socket_state_transitions_total", &step)
    };
    assert!(first_closes(&end) - first_closes(&before) >= 100.0);
    end.assert_complete();
    println!(
        "refused {}, lost {}, live at most {live}",
        end.sum("observer_map_full_total", &connections),
        end.sum("observer_events_total", &lost),
    );

    // With room again, a new connection is followed.
    program.end();
    let mut program = netns.python(PAIRS, &["1"]);
    program.expect("open");
    let pid = program.pid();
    daemon.until("the new pair", |metrics| {
        metrics.of(pid, LIVE, &[("state", "ESTABLISHED")]) == 2.0
    });
    program.go();
    program.expect("closed");
    program.end();
    assert!(daemon.stop().success());
}

/// ActiveOpens of the namespace that this process is in.
fn active_opens_here() -> f64 {
    let text = std::fs::read_to_string("/proc/net/snmp").unwrap();
    observer_test_support::counters::columns(&text, "Tcp").unwrap()["ActiveOpens"] as f64
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn with_a_full_connection_map_each_attempt_has_an_outcome() {
    let netns = Netns::new();
    let room = 16.0
        + Daemon::shared()
            .scrape()
            .sum("observer_map_entries", &[("map", "connections")]);
    let daemon = Daemon::start(&["--max-connections", &room.to_string()]);
    let mut program = netns.script(
        r"
unspec = struct.pack('H14x', socket.AF_UNSPEC)
held = [pair(*FAMILIES[0]) for _ in range(100)]
print('full')
input()
tally = Tally()
def attempt(family, target):
    client = socket.socket(family)
    tally.add(outcome(lambda: client.connect(target)))
    return client
def start(family, target):
    client = socket.socket(family)
    client.setblocking(False)
    assert client.connect_ex(target) == errno.EINPROGRESS
    poll = select.poll()
    poll.register(client, select.POLLOUT)
    return client, poll
for family, address in FAMILIES:
    listener, closed = listen(family, address), closed_port(family, address)
    for _ in range(20):
        attempt(family, listener.getsockname()).close()
        attempt(family, closed.getsockname()).close()
        # Told by a second connect().
        client, poll = start(family, closed.getsockname())
        poll.poll()
        tally.add(outcome(lambda: client.connect(closed.getsockname())))
        client.close()
        # Never asked.
        client, poll = start(family, closed.getsockname())
        poll.poll()
        client.close()
        tally.add('ECONNREFUSED')
        # Reset before the program asks.
        client, poll = start(family, listener.getsockname())
        poll.poll()
        tally.add('ok')
        client.close()
    nobody, fillers = deaf(family, address)
    tally.add('ok', 2)
    for _ in range(5):
        client, _ = start(family, nobody.getsockname())
        client.close()
        client, _ = start(family, nobody.getsockname())
        assert LIBC.connect(client.fileno(), unspec, len(unspec)) == 0
        client.close()
        tally.add('ECANCELED', 2)
    held.append((nobody, fillers))
print(tally)
input()
",
        &[],
    );
    program.expect("full");
    let entries = [("map", "connections")];
    daemon.until("a full map", |metrics| {
        metrics.sum("observer_map_full_total", &entries) > 0.0
    });
    let count = |metrics: &Metrics, name, labels: &[(&str, &str)]| metrics.sum(name, labels);
    // Those of others first and last, so that they are at least as many as the daemon sees.
    let (here, before, snmp) = (active_opens_here(), daemon.scrape(), netns.snmp());
    program.go();
    let reported = program.tally();
    let after = daemon.scrape();
    let others = active_opens_here() - here;
    let grown =
        |name, labels: &[(&str, &str)]| count(&after, name, labels) - count(&before, name, labels);
    let opened = (netns.snmp()["ActiveOpens"] - snmp["ActiveOpens"]) as f64;
    assert_eq!(
        reported.values().sum::<u64>() as f64,
        opened,
        "{reported:?}"
    );
    let outcomes = grown("observer_events_total", &[("signal", "connect")]);
    println!("{opened} attempts, {outcomes} outcomes, {others} attempts of others");
    assert!(
        (opened..=opened + others).contains(&outcomes),
        "{outcomes} of {opened}"
    );
    assert!(
        grown(
            "observer_events_total",
            &[("signal", "connect"), ("outcome", "lost")]
        ) > 0.0
    );
    for (result, number) in &reported {
        let number = *number as f64;
        let ours = grown("socket_connects_total", &[("result", result)]);
        assert!(
            (number..=number + others).contains(&ours),
            "{result}: {ours} of {number}"
        );
    }
    after.assert_complete();
    program.end();
}

/// One process takes no more than seven eighths of the map; the others' sockets are tracked.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn one_process_cannot_fill_the_connection_map() {
    let netns = Netns::new();
    let connections = [("map", "connections")];
    // Sockets of other programs on this host have entries, too.
    let others = Daemon::shared().scrape();
    let room = 16.0 * others.sum("observer_map_entries", &connections) + 512.0;
    let share = room - (room / 8.0).floor();
    let daemon = Daemon::start(&["--max-connections", &room.to_string()]);
    let mut hog = netns.script(
        r"
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
listener = listen(*FAMILIES[0])
kept = []
for _ in range(int(sys.argv[1])):
    kept.append(connect(socket.AF_INET, listener.getsockname()))
    kept.append(listener.accept()[0])
print('open')
input()
",
        &[&(share / 2.0 + 50.0).ceil().to_string()],
    );
    hog.expect("open");
    let full = daemon.scrape();
    assert!(full.sum("observer_map_full_total", &connections) > 0.0);
    let held = full.of(hog.pid(), "socket_process_open_sockets", &[]);
    assert!(held <= share && held > share - 8.0, "{held} of {share}");
    let mut other = netns.python(PAIRS, &["5"]);
    other.expect("open");
    let metrics = daemon.scrape();
    let established = [("state", "ESTABLISHED")];
    metrics.assert_of(other.pid(), LIVE, &established, 10.0);
    metrics.assert_of(other.pid(), "socket_accepts_total", &[], 5.0);
    metrics.assert_complete();
    other.go();
    other.expect("closed");
    other.end();
    hog.end();
}

/// A process's sockets in TIME_WAIT use at most seven eighths of their map.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn one_process_cannot_fill_the_map_of_time_waits() {
    const LEAVE: &str = r"
listener = short(*FAMILIES[0], int(sys.argv[1]))
print('left')
input()
";
    let netns = Netns::new();
    netns.keep_time_wait();
    let others = Daemon::shared().scrape();
    needs_signal!(others, "time_wait");
    let held = |metrics: &Metrics, map| metrics.sum("observer_map_entries", &[("map", map)]);
    let room = 512.0 + 16.0 * held(&others, "connections").max(held(&others, "time_waits"));
    let share = room - (room / 8.0).floor();
    let daemon = Daemon::start(&["--max-connections", &room.to_string()]);
    let full = |metrics: &Metrics| metrics.sum("observer_map_full_total", &[("map", "time_waits")]);
    let mut hog = netns.script(LEAVE, &[&(share + 50.0).to_string()]);
    hog.expect("left");
    let metrics = daemon.scrape();
    metrics.assert_of(hog.pid(), "socket_time_wait", &[], share);
    let refused = full(&metrics);
    assert!(refused >= 50.0, "{refused}");
    let mut other = netns.script(LEAVE, &["20"]);
    other.expect("left");
    let metrics = daemon.scrape();
    metrics.assert_of(other.pid(), "socket_time_wait", &[], 20.0);
    metrics.assert_complete();
    other.end();
    hog.end();
}

/// Connections that others have accepted and keep do not count for the listener's process.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn accepted_connections_leave_room_for_more_of_the_listener() {
    let netns = Netns::new();
    let connections = [("map", "connections")];
    let others = Daemon::shared().scrape();
    needs_signal!(others, "accept");
    let room = 16.0 * others.sum("observer_map_entries", &connections) + 512.0;
    let share = room - (room / 8.0).floor();
    let daemon = Daemon::start(&["--max-connections", &room.to_string()]);
    let mut server = netns.script(
        r"
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
listener = listen(*FAMILIES[0])
each = int(sys.argv[1])
done, told = os.pipe()
stop, end = os.pipe()
workers = []
for _ in range(2):
    worker = os.fork()
    if worker == 0:
        os.close(end)
        kept = []
        for _ in range(each):
            kept.append(listener.accept()[0])
            os.write(told, b'x')
        os.read(stop, 1)
        os._exit(0)
    workers.append(worker)
for _ in range(2 * each):
    client = connect(socket.AF_INET, listener.getsockname())
    assert os.read(done, 1) == b'x'
    # Its end is not told to the server (TCP_REPAIR), whose connection goes on.
    client.setsockopt(socket.IPPROTO_TCP, 19, 1)
    client.close()
print(*workers)
input()
client = connect(socket.AF_INET, listener.getsockname())
held, _ = listener.accept()
print('more')
input()
os.close(end)
",
        &[&(share / 2.0).ceil().to_string()],
    );
    let workers: Vec<u32> = server
        .line_within(observer_test_support::PATIENCE * 3)
        .split(' ')
        .map(|pid| pid.parse().unwrap())
        .collect();
    server.go();
    server.expect("more");
    let metrics = daemon.scrape();
    assert_eq!(metrics.sum("observer_map_full_total", &connections), 0.0);
    let established = [("state", "ESTABLISHED")];
    metrics.assert_of(server.pid(), LIVE, &established, 2.0);
    for worker in workers {
        metrics.assert_of(worker, LIVE, &established, (share / 2.0).ceil());
    }
    metrics.assert_complete();
    server.end();
}

/// Neither by listening on thousands of sockets, nor by listening and closing in a loop.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn one_process_cannot_fill_the_map_of_listeners() {
    let netns = Netns::new();
    let daemon = Daemon::start(&["--tick-interval=5s"]);
    let mut hog = netns.script(
        r"
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
def started():
    sock = socket.socket()
    sock.listen(1)
    return sock
for _ in range(4300):
    started().close()
print('closed')
input()
kept = [started() for _ in range(4300)]
print('open')
input()
",
        &[],
    );
    let listeners = [("map", "listeners")];
    hog.expect("closed");
    // Without waiting for a tick, which would read the listeners and remove those that closed.
    let full = || {
        let metrics = Metrics::parse(&daemon.get("/metrics").1).unwrap();
        metrics.sum("observer_map_full_total", &listeners)
    };
    assert_eq!(full(), 0.0);
    hog.go();
    hog.expect("open");
    let refused = full();
    assert_eq!(refused, 4300.0 - 4096.0 * 7.0 / 8.0);
    let mut other = netns.python(PAIRS, &["1"]);
    other.expect("open");
    assert_eq!(full(), refused);
    other.go();
    other.expect("closed");
    other.end();
    hog.end();
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn one_process_cannot_fill_the_map_of_setsockopt_failures() {
    const FAILURES: &str = "socket_process_setsockopt_failures_total";
    const FAIL: &str = r"
base = listen(*FAMILIES[0])
for option in range(int(sys.argv[1]), int(sys.argv[2])):
    assert LIBC.setsockopt(base.fileno(), 6, option, None, 0) == -1
print('failed')
input()
";
    let netns = Netns::new();
    let daemon = Daemon::start(&[]);
    let mut hog = netns.script(FAIL, &["1000", "10000"]);
    hog.expect("failed");
    needs_signal!(daemon.scrape(), "setsockopt");
    let mut other = netns.script(FAIL, &["2000", "2010"]);
    other.expect("failed");
    let metrics = daemon.scrape();
    let failures = [("map", "setsockopt_failures")];
    assert_eq!(metrics.sum("observer_map_full_total", &failures), 0.0);
    let shown = |pid: u32| {
        let pid = pid.to_string();
        let labels = [("pid", pid.as_str())];
        let series = metrics.select(FAILURES, &labels).count();
        (series, metrics.sum(FAILURES, &labels))
    };
    assert_eq!(shown(hog.pid()), (65, 9000.0));
    assert_eq!(shown(other.pid()), (10, 10.0));
    metrics.assert_complete();
    other.end();
    hog.end();
}

/// Every counter by name: none may ever decrease, even if processes end.
fn counters(metrics: &Metrics) -> BTreeMap<String, f64> {
    let counters = [
        "socket_connects_total",
        "socket_accepts_total",
        "socket_state_transitions_total",
        "socket_resets_total",
        "socket_time_wait_entered_total",
        "socket_conn_age_seconds_count",
    ];
    metrics
        .samples
        .iter()
        .filter(|sample| counters.contains(&sample.name.as_str()))
        .map(|sample| (format!("{} {:?}", sample.name, sample.labels), sample.value))
        .collect()
}

/// Scrapes until `condition` holds, and at each step asserts that no counter of any name went
/// down or away.
fn never_down_until(
    daemon: &Daemon,
    before: &Metrics,
    condition: impl Fn(&Metrics) -> bool,
) -> Metrics {
    let started = Instant::now();
    let mut last = counters(before);
    loop {
        let metrics = daemon.scrape();
        let now = counters(&metrics);
        for (name, value) in &last {
            let new = now.get(name).copied().unwrap_or_default();
            assert!(new >= *value, "{name} fell from {value} to {new}");
        }
        last = now;
        if condition(&metrics) {
            return metrics;
        }
        assert!(
            started.elapsed() < observer_test_support::PATIENCE * 2,
            "waited in vain:\n{}",
            metrics.shown()
        );
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// Lines of a program that forks hundreds of times.
fn patient(program: &mut Program, expected: &str) {
    assert_eq!(
        program.line_within(observer_test_support::PATIENCE * 5),
        expected
    );
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn processes_beyond_the_limits_are_counted_by_name_or_as_other() {
    let netns = Netns::new();
    let daemon = Daemon::start(&[
        "--max-processes",
        "16",
        "--max-tracked-processes",
        "256",
        "--include-comm",
        "obs-*",
    ]);
    let mut program = netns.python(CHILDREN, &["300", "keep"]);
    program.expect("ready");
    let parent = program.pid();
    let (comm, many) = (program.comm(), program.comm_of_child('c'));
    daemon.until("the parent", |metrics| {
        metrics.of(parent, LIVE, &[("state", "LISTEN")]) == 1.0
            && metrics.by(&comm, LIVE, &[("state", "LISTEN")]) == 1.0
    });
    let before = daemon.scrape();
    let snmp = netns.snmp();
    program.go();
    patient(&mut program, "made");
    assert_eq!(netns.snmp()["ActiveOpens"] - snmp["ActiveOpens"], 300);

    let ok = [("result", "ok")];
    let connects = |metrics: &Metrics| metrics.sum("socket_connects_total", &ok);
    let full = daemon.until("300 connects", |metrics| {
        connects(metrics) - connects(&before) >= 300.0
    });
    let processes = [("map", "processes")];
    let refused = full.sum("observer_map_full_total", &processes);
    assert!(refused >= 300.0 - 254.0, "{refused}");
    let lost = full.sum(
        "observer_events_total",
        &[("signal", "connect"), ("outcome", "lost")],
    );
    assert!(lost >= 300.0 - 254.0, "{lost}");
    let shown = full.sum("observer_processes", &[("state", "shown")]);
    assert!(shown <= 16.0, "{shown}");
    let labels = [("comm", many.as_str()), ("result", "ok")];
    let own: Vec<_> = full
        .select("socket_process_connects_total", &labels)
        .collect();
    assert!(own.len() <= 16, "{own:?}");
    assert!(own.iter().all(|sample| sample.value == 1.0), "{own:?}");
    // Those that have a slot are counted under their name, shown or not; those without are
    // others.
    let named = full.by(&many, "socket_connects_total", &ok);
    let other = full.by("<other>", "socket_connects_total", &ok)
        - before.by("<other>", "socket_connects_total", &ok);
    assert!(named >= 16.0, "{named}");
    assert!(named + refused >= 300.0, "{named} and {refused}");
    assert!(named <= 254.0, "{named}");
    assert!(named + other >= 300.0, "{named} and {other}");
    assert_eq!(full.by(&comm, "socket_accepts_total", &[]), 300.0);
    full.assert_complete();
    println!(
        "refused {refused}, lost {lost}, shown {}, under the name {named}, in other {other}",
        own.len()
    );

    program.go();
    patient(&mut program, "gone");
    let end = never_down_until(&daemon, &full, |metrics| {
        !metrics.shows_name(&many) && metrics.sum("observer_map_entries", &processes) < 200.0
    });
    // They have ended, and their events are neither lost nor counted again.
    assert_eq!(end.by(&many, "socket_connects_total", &ok), named);
    assert_eq!(end.by(&comm, "socket_accepts_total", &[]), 300.0);
    end.assert_complete();
    program.end();
}

/// More processes than slots, each of which makes a connection, closes it and stays.
const IDLE: &str = r"
import signal
count = int(sys.argv[1])
listener = listen(*FAMILIES[0])
target = listener.getsockname()
children = []
for _ in range(count):
    child = os.fork()
    if child == 0:
        listener.close()
        name(COMM + 'i')
        client = connect(socket.AF_INET, target)
        assert client.recv(1) == b''
        client.close()
        signal.pause()
    listener.accept()[0].close()
    children.append(child)
print('made')
input()
for child in children:
    os.kill(child, 9)
    os.waitpid(child, 0)
print('gone')
";

/// Makes a connection at each line.
const NEWCOMER: &str = r"
listener = listen(*FAMILIES[0])
print('ready')
for _ in sys.stdin:
    client = connect(socket.AF_INET, listener.getsockname())
    client.close()
    listener.accept()[0].close()
    print('made')
";

/// A user who keeps many processes takes the slots of others for some seconds only.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn idle_processes_give_their_slots_to_others() {
    let netns = Netns::new();
    let daemon = Daemon::start(&["--max-tracked-processes", "256"]);
    let before = daemon.scrape();
    let mut hoard = netns.script(IDLE, &["400"]);
    patient(&mut hoard, "made");
    let idle = hoard.comm_of_child('i');
    let mut newcomer = netns.script(NEWCOMER, &[]);
    newcomer.expect("ready");
    let comm = newcomer.comm();
    let ok = [("result", "ok")];
    let connects = |metrics: &Metrics, comm: &str| metrics.by(comm, "socket_connects_total", &ok);
    let mut made = 0.0;
    daemon.wait("the newcomer counts for itself", |daemon| {
        newcomer.go();
        newcomer.expect("made");
        made += 1.0;
        std::thread::sleep(Duration::from_millis(200));
        connects(&daemon.scrape(), &comm) > 0.0
    });
    let metrics = daemon.scrape();
    let other = connects(&metrics, "<other>") - connects(&before, "<other>");
    let of_idle = connects(&metrics, &idle);
    assert!(of_idle >= 16.0, "{of_idle}");
    let all = of_idle + connects(&metrics, &comm) + other;
    assert!(all >= 400.0 + made, "{of_idle}, {other} of {made}");
    metrics.assert_complete();
    // Those that were retired are not counted again when they end.
    hoard.go();
    patient(&mut hoard, "gone");
    let end = never_down_until(&daemon, &metrics, |metrics| {
        metrics.sum("observer_map_entries", &[("map", "processes")]) < 192.0
    });
    assert_eq!(connects(&end, &idle), of_idle);
    newcomer.finish();
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn short_lived_processes_are_counted_by_name() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let count = scaled(300, 60);
    let mut program = netns.python(CHILDREN, &[&count.to_string(), "drop"]);
    let (count, brief) = (count as f64, program.comm_of_child('c'));
    program.expect("ready");
    let before = daemon.scrape();
    program.go();
    patient(&mut program, "made");
    let connects =
        |metrics: &Metrics| metrics.by(&brief, "socket_connects_total", &[("result", "ok")]);
    let made = never_down_until(&daemon, &before, |metrics| connects(metrics) == count);
    let end = never_down_until(&daemon, &made, |metrics| {
        // Neither lost nor counted again when a process has ended.
        assert_eq!(connects(metrics), count);
        // The last connection's end is counted one counter after the other, and a scrape may come
        // in between.
        let ages = metrics.by(&brief, "socket_conn_age_seconds_count", &[]);
        assert!(ages <= count, "{ages}");
        !metrics.shows_name(&brief) && ages == count
    });
    assert_eq!(end.by(&brief, LIVE, &[]), 0.0);
    assert_eq!(
        end.sum("observer_map_full_total", &[("map", "processes")]),
        0.0
    );
    end.assert_complete();
    program.go();
    patient(&mut program, "gone");
    program.end();
}

/// Handshakes without a peer, and one with a peer while these are in progress and another after them.
const HOARD: &str = r"
many = int(sys.argv[3])
print('ready')
input()
def begin():
    waiting = trusting.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname='localhost')
    try:
        waiting.do_handshake()
    except ssl.SSLWantReadError:
        return waiting
hoard = [begin() for _ in range(many)]
print('waiting')
input()
hoard.clear()
print('freed')
input()
assert fetch(trusting)
print('done')
input()
";

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn one_process_cannot_fill_the_map_of_handshakes() {
    let Some(daemon) = observing() else {
        skip!("{NO_LINKS}")
    };
    let (files, netns) = (Files::new(), Netns::new());
    let (certificate, key) = (files.certificate(), files.key());
    let share = TLS_HANDSHAKES_SHARE as u64;
    let source = [SHARED, HOARD].concat();
    let more = (share + 100).to_string();
    let mut program = netns.script(&source, &[&certificate, &key, &more]);
    let comm = program.comm();
    program.expect("ready");
    probed(&daemon, program.pid(), "libssl");
    program.go();
    program.expect("waiting");
    let full = daemon.until("its share is in progress", |metrics| {
        metrics.by(&comm, IN_PROGRESS, &[("role", "client")]) == share as f64
    });
    let lost = [("signal", "tls"), ("outcome", "lost")];
    assert_eq!(full.sum("observer_events_total", &lost), 100.0);
    let mut other = netns.script(&[SHARED, ONE].concat(), &[&certificate, &key]);
    other.expect("ready");
    other.go();
    other.expect("done");
    for role in ["client", "server"] {
        expect(&daemon, &other.comm(), "openssl", role, [1, 0]);
    }
    // Its room is free again afterwards.
    program.go();
    program.expect("freed");
    program.go();
    program.expect("done");
    expect(&daemon, &comm, "openssl", "client", [1, share]);
    expect(&daemon, &comm, "openssl", "server", [1, 0]);
    program.end();
    other.end();
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn network_namespaces_that_are_gone_make_room_for_others() {
    needs_programs!("ip");
    const ROUND: u32 = 16;
    let map = [("map", "netns")];
    let others = Daemon::shared().scrape();
    let others =
        ["connections", "netns"].map(|it| others.sum("observer_map_entries", &[("map", it)]));
    // Of which half is enough for those of others and one round.
    let room = 4.0 * f64::from(ROUND) + 2.0 * others.iter().sum::<f64>();
    let daemon = Daemon::start(&["--max-connections", &room.to_string()]);
    let capacity = daemon.scrape().sum("observer_map_capacity", &map);
    assert_eq!(capacity, room);
    let mut program = Program::python(NAMESPACES, &[&ROUND.to_string()]);
    for _ in 0..2 * (room as u32).div_ceil(ROUND) {
        program.go();
        program.expect("left");
        daemon.until("room", |metrics| {
            metrics.sum("observer_map_entries", &map) <= room / 2.0
        });
    }
    let metrics = daemon.scrape();
    assert_eq!(metrics.sum("observer_map_full_total", &map), 0.0);
    metrics.assert_complete();
}
