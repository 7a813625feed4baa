//! The daemon as a program: instances side by side, signals, privileges, its HTTP pages.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    net::TcpStream,
    os::unix::process::ExitStatusExt as _,
    time::{Duration, Instant},
};

use observer_test_support::{Daemon, Metrics, Netns, Program, http};

/// Connects as many times as each line says.
const CONNECTS: &str = r#"
import socket, sys
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen()
while True:
    print('ready')
    if not sys.stdin.readline():
        break
    for _ in range(int(sys.argv[1])):
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        client.close()
        server.close()
    for _ in range(3):
        try:
            socket.create_connection(('127.0.0.1', 1))
        except ConnectionRefusedError:
            pass
"#;

/// Ids of the BPF programs that a process has descriptors of.
fn programs_of(pid: u32) -> BTreeSet<u32> {
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))
        .unwrap()
        .flatten()
    {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let id = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
        ids.extend(id.map(|id| id.trim().parse::<u32>().unwrap()));
    }
    ids
}

/// Waits until the kernel has none of `programs` any more.
fn wait_until_unloaded(programs: &BTreeSet<u32>) {
    let started = Instant::now();
    loop {
        let left: Vec<u32> = aya::programs::loaded_programs()
            .flatten()
            .map(|program| program.id())
            .filter(|id| programs.contains(id))
            .collect();
        if left.is_empty() {
            return;
        }
        assert!(
            started.elapsed() < observer_test_support::PATIENCE,
            "still loaded: {left:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Metrics that change between two scrapes, or appear at the next tick.
const OF_THE_MOMENT: [&str; 4] = [
    "socket_time_wait_ended_total",
    "socket_listen_overflows_total",
    "socket_process_listen_overflows_total",
    "socket_listen_drops_total",
];

/// Everything counted for a program, by process and by name.
fn counted(metrics: &Metrics, program: &Program) -> BTreeMap<String, f64> {
    let (pid, comm) = (program.pid().to_string(), program.comm());
    metrics
        .samples
        .iter()
        .filter(|sample| {
            let label = |name| sample.labels.get(name);
            label("comm") == Some(&comm) && label("pid").is_none_or(|it| *it == pid)
        })
        .filter(|sample| sample.name.ends_with("_total") || sample.name.ends_with("_connections"))
        .filter(|sample| !OF_THE_MOMENT.contains(&sample.name.as_str()))
        .map(|sample| (format!("{} {:?}", sample.name, sample.labels), sample.value))
        .collect()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn two_instances_count_the_same() {
    let netns = Netns::new();
    let (one, two) = (Daemon::start(&[]), Daemon::start(&[]));
    let mut program = netns.python(CONNECTS, &["50"]);
    program.expect("ready");
    program.go();
    program.expect("ready");
    let pid = program.pid();
    let done = |metrics: &Metrics| {
        let last = [("from", "LAST_ACK"), ("to", "CLOSE")];
        metrics.of(pid, "socket_state_transitions_total", &last) == 50.0
    };
    let (first, second) = (one.until("50 ends", done), two.until("50 ends", done));
    let counted = (counted(&first, &program), counted(&second, &program));
    assert_eq!(counted.0, counted.1);
    for (family, least) in [("socket_", 10), ("socket_process_", 4)] {
        let of = counted.0.keys().filter(|name| name.starts_with(family));
        assert!(of.count() > least, "{:?}", counted.0);
    }
    let refused = [("result", "ECONNREFUSED")];
    assert_eq!(first.of(pid, "socket_connects_total", &refused), 3.0);
    first.assert_complete();
    second.assert_complete();

    // One stops, the other keeps counting.
    assert!(one.stop().success());
    program.go();
    program.expect("ready");
    two.until("100 connects", |metrics| {
        metrics.of(pid, "socket_connects_total", &[("result", "ok")]) == 100.0
    });
    program.finish();
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn killed_or_stopped_daemon_leaves_no_program_loaded() {
    let daemon = Daemon::start(&[]);
    let programs = programs_of(daemon.pid());
    assert!(programs.len() >= 8, "{programs:?}");
    let loaded: BTreeSet<u32> = aya::programs::loaded_programs()
        .flatten()
        .map(|program| program.id())
        .collect();
    assert!(loaded.is_superset(&programs));
    daemon.signal("KILL");
    assert_eq!(daemon.wait_for_end().signal(), Some(libc::SIGKILL));
    wait_until_unloaded(&programs);

    // Another one works, and stops on SIGTERM.
    let netns = Netns::new();
    let daemon = Daemon::start(&[]);
    let programs = programs_of(daemon.pid());
    let mut program = netns.python(CONNECTS, &["5"]);
    program.expect("ready");
    program.go();
    program.expect("ready");
    daemon.until("5 connects", |metrics| {
        metrics.of(program.pid(), "socket_connects_total", &[("result", "ok")]) == 5.0
    });
    let started = Instant::now();
    assert_eq!(daemon.stop().code(), Some(0));
    let took = started.elapsed();
    println!("stopped in {took:?}");
    assert!(took < observer_test_support::PATIENCE / 6, "{took:?}");
    wait_until_unloaded(&programs);
    program.finish();

    let daemon = Daemon::start(&[]);
    daemon.signal("INT");
    assert_eq!(daemon.wait_for_end().code(), Some(0));
}

/// A client that does not read holds up the end, but only once.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_second_signal_ends_it_at_once() {
    let daemon = Daemon::start(&[]);
    let programs = programs_of(daemon.pid());
    let mut client = TcpStream::connect(daemon.address).expect("it listens");
    let question = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(500);
    client.write_all(question.as_bytes()).expect("it reads");
    let of_daemon = format!("sport = :{}", daemon.address.port());
    daemon.wait("more than fits is to be sent", |_| {
        let sockets = observer_test_support::run("ss", &["-Htn", &of_daemon]);
        let unsent = |line: &str| line.split_whitespace().nth(2)?.parse::<u32>().ok();
        sockets.lines().filter_map(unsent).any(|it| it > 100_000)
    });
    daemon.signal("TERM");
    daemon.wait("it is stopping", |daemon| {
        daemon.log().contains("SIGTERM: stopping")
    });
    daemon.signal("INT");
    assert_eq!(daemon.wait_for_end().code(), Some(128 + libc::SIGINT));
    wait_until_unloaded(&programs);
    drop(client);
}

/// SIGHUP while the hooks are being attached, as from a service manager that assumes the daemon to
/// be running: it is handled once the daemon runs, and does not end it.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn sighup_during_the_start_is_answered() {
    let mut early = false;
    let daemon = Daemon::start_while(&[], |pid, log| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let caught = status
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask & 1 << (libc::SIGHUP - 1) != 0);
        if caught && !early {
            assert!(!log.contains("serving metrics"), "{log}");
            let pid = nix::unistd::Pid::from_raw(pid as i32);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
            early = true;
        }
    });
    daemon.wait("the settings", |daemon| {
        daemon.log().contains("SIGHUP: settings read")
    });
    assert!(daemon.stop().success());
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn sighup_reads_the_file_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("observer.toml");
    fs::write(&file, "log-level = \"info\"\n").unwrap();
    let daemon = Daemon::start(&["--config", file.to_str().unwrap()]);
    let hup = |text: &str, expected: &[&str]| {
        let before = daemon.log().len();
        fs::write(&file, text).unwrap();
        daemon.signal("HUP");
        daemon.wait(&format!("{expected:?}"), |daemon| {
            let log = daemon.log();
            expected.iter().all(|text| log[before..].contains(text))
        });
        daemon.log()[before..].to_owned()
    };
    assert!(!daemon.log().contains("DEBUG"));
    const SELECTED: &str = "applied the new settings";
    hup("log-level = \"debug\"\n", &["DEBUG", SELECTED]);

    hup(
        "log-level = \"info\"\nexclude-comm = [\"obs-hidden\"]\n",
        &[SELECTED],
    );
    let netns = Netns::new();
    let source = |name: &str| format!("name('{name}')\n{CONNECTS}");
    let settled = daemon.log().len();
    let mut hidden = netns.python(&source("obs-hidden"), &["5"]);
    let mut seen = netns.python(&source("obs-seen"), &["5"]);
    for program in [&mut hidden, &mut seen] {
        program.expect("ready");
        program.go();
        program.expect("ready");
    }
    let metrics = daemon.until("the one not excluded", |metrics| {
        let ok = [("result", "ok")];
        metrics.by("obs-seen", "socket_connects_total", &ok) == 5.0
            && metrics.of(seen.pid(), "socket_connects_total", &ok) == 5.0
    });
    assert!(
        metrics.samples.iter().all(|sample| sample
            .labels
            .get("comm")
            .is_none_or(|comm| comm != "obs-hidden")),
        "{}",
        metrics.shown()
    );
    assert!(!metrics.shows(hidden.pid()));
    assert!(metrics.by("<other>", "socket_connects_total", &[("result", "ok")]) >= 5.0);
    assert!(!daemon.log()[settled..].contains("DEBUG"));

    // A filter also applies to running processes: earlier counts remain with their name, and later
    // ones count for it or not, according to the filter.
    let ok = [("result", "ok")];
    let counts = |metrics: &Metrics| {
        ["obs-seen", "<other>"].map(|name| metrics.by(name, "socket_connects_total", &ok))
    };
    let [_, others] = counts(&daemon.scrape());
    let mut connect = |expected: [f64; 2], shown: f64| {
        // From the next tick on.
        daemon.until("the selection", |metrics| {
            metrics.shows(seen.pid()) == (shown > 0.0)
        });
        seen.go();
        seen.expect("ready");
        daemon.until("five connects", |metrics| {
            counts(metrics) == expected
                && metrics.of(seen.pid(), "socket_connects_total", &ok) == shown
        });
    };
    hup(
        "log-level = \"info\"\nexclude-comm = [\"obs-*\"]\n",
        &[SELECTED],
    );
    connect([5.0, others + 5.0], 0.0);
    hup(
        "log-level = \"info\"\nexclude-comm = [\"obs-hidden\"]\n",
        &[SELECTED],
    );
    // Its own series has all that it ever did.
    connect([10.0, others + 5.0], 15.0);

    let log = hup(
        "listen = \"127.0.0.1:9\"\nring-bytes = 4096\nexclude-comm = [\"obs-hidden\"]\n",
        &["need a restart"],
    );
    assert!(log.contains("ring-bytes"), "{log}");
    assert!(log.contains("WARN"), "{log}");

    let log = hup(
        "log-level = \"debug\"\nlisten = no\n",
        &["keeping the settings"],
    );
    assert!(
        log.contains("ERROR") && log.contains("observer.toml"),
        "{log}"
    );
    assert!(!log.contains("DEBUG"), "{log}");
    assert_eq!(daemon.get("/healthz").0, 200);
    hidden.finish();
    seen.finish();
    assert!(daemon.stop().success());
}

fn status(task: &str, field: &str) -> String {
    let text = fs::read_to_string(format!("{task}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.unwrap().trim_start_matches(':').trim().to_owned()
}

/// CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_BPF (`linux/capability.h`).
const KEPT: u64 = 1 << 2 | 1 << 19 | 1 << 39;

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn capabilities_are_dropped_and_everything_still_works() {
    let daemon = Daemon::start(&["--user", "65534"]);
    let tasks = format!("/proc/{}/task", daemon.pid());
    let tasks: Vec<String> = fs::read_dir(tasks)
        .unwrap()
        .map(|task| task.unwrap().path().to_str().unwrap().to_owned())
        .collect();
    assert!(tasks.len() > 2, "{tasks:?}");
    let mut http_threads = 0;
    for task in &tasks {
        let expected = if status(task, "Name") == "http" {
            http_threads += 1;
            0
        } else {
            KEPT
        };
        for field in ["CapEff", "CapPrm"] {
            let held = u64::from_str_radix(&status(task, field), 16).unwrap();
            assert_eq!(held, expected, "{field} of {task} is {held:x}");
        }
        for field in ["CapInh", "CapAmb"] {
            let held = u64::from_str_radix(&status(task, field), 16).unwrap();
            assert_eq!(held, 0, "{field} of {task}");
        }
        assert_eq!(status(task, "NoNewPrivs"), "1", "{task}");
        assert_eq!(status(task, "Seccomp"), "2", "{task}");
        for field in ["Uid", "Gid"] {
            let ids = status(task, field);
            assert!(ids.split_whitespace().all(|id| id == "65534"), "{ids}");
        }
        assert_eq!(status(task, "Groups"), "", "{task}");
    }
    assert_eq!(http_threads, 2);

    // Maps, iterators and other users' descriptors can still be read.
    let netns = Netns::new();
    let mut program = netns.python(
        r#"
import os, socket
os.setgid(65534)
os.setuid(65534)
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen()
client = socket.socket()
client.connect(listener.getsockname())
server, _ = listener.accept()
print('open')
input()
if os.fork():
    os._exit(0)
print(os.getpid())
input()
"#,
        &[],
    );
    program.expect("open");
    let pid = program.pid();
    let metrics = daemon.until("the descriptors of another user's process", |metrics| {
        metrics.of(pid, "socket_process_open_fds", &[]) >= 6.0
            && metrics.of(pid, "socket_process_max_fds", &[]) > 0.0
    });
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert_eq!(metrics.of(pid, "socket_process_open_fds", &[]), fds as f64);
    let before = metrics.sum("observer_moved_sockets_total", &[]);
    program.go();
    let heir: u32 = program.line().parse().unwrap();
    let metrics = daemon.until("the heir of the sockets", |metrics| {
        metrics.of(heir, "socket_connections", &[]) == 3.0
            && metrics.sum("observer_moved_sockets_total", &[]) >= before + 3.0
    });
    for job in [
        "tick",
        "fds",
        "listeners",
        "ports",
        "namespaces",
        "reconcile",
        "resync",
    ] {
        let of_job = [("task", job)];
        assert!(
            metrics.sum("observer_job_runs_total", &of_job) > 0.0,
            "{job}"
        );
        assert_eq!(
            metrics.sum("observer_job_failures_total", &of_job),
            0.0,
            "{job}"
        );
    }
    assert!(daemon.log().contains("kept CAP_BPF"), "{}", daemon.log());
    program.end();

    let keeping = Daemon::start(&["--keep-capabilities"]);
    let task = format!("/proc/{}", keeping.pid());
    for field in ["CapEff", "Uid", "Seccomp"] {
        assert_eq!(status(&task, field), status("/proc/self", field), "{field}");
    }
}

/// Without CAP_SETUID it cannot become another user, and does not continue as root.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_daemon_that_cannot_drop_privileges_ends() {
    let mut command = std::process::Command::new(observer_test_support::observer());
    command.args([
        "run",
        "--listen=127.0.0.1:0",
        "--self-test=no",
        "--user=65534",
    ]);
    let output = std::thread::spawn(move || {
        // The bounding set belongs to the thread, and child processes inherit it.
        caps::drop(None, caps::CapSet::Bounding, caps::Capability::CAP_SETUID).unwrap();
        command.output().unwrap()
    });
    let output = output.join().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot become the user 65534"), "{said}");
    assert!(!said.contains("serving metrics"), "{said}");
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_private_pid_namespace_is_refused() {
    let observer = observer_test_support::observer();
    let unshared = |args: &[&str]| {
        let mut command = std::process::Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
        command.arg(&observer).args(args).output().unwrap()
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let output = unshared(&["run", "--listen=127.0.0.1:0"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("in a pid namespace other than the host's"),
        "{said}"
    );
    assert!(said.contains("--allow-private-namespaces"), "{said}");

    let output = unshared(&["check"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("its pid namespace is not the host's"),
        "{said}"
    );

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("observer.toml");
    fs::write(&file, "allow-private-namespaces = true\n").unwrap();
    let file = format!("--config={}", file.display());
    let output = unshared(&["tail", "--duration=100ms", &file]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("in a pid namespace other than the host's"),
        "{said}"
    );
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn http_pages() {
    let daemon = Daemon::shared();
    assert_eq!(daemon.get("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(daemon.get("/readyz"), (200, "ready\n".to_owned()));
    let (status, page) = daemon.get("/");
    assert_eq!(status, 200);
    assert!(
        page.contains("/metrics") && page.contains("inet_sock_set_state"),
        "{page}"
    );
    let (status, body) = daemon.get("/nothing");
    assert_eq!(status, 404);
    assert!(body.contains("/metrics"), "{body}");
    let ask = |method, path| http::ask(daemon.address, method, path).unwrap();
    for path in ["/metrics", "/", "/healthz"] {
        let reply = ask("HEAD", path);
        assert_eq!((reply.status, reply.body.as_str()), (200, ""), "{path}");
        assert!(reply.head.contains("content-type: text/"), "{reply:?}");
    }
    assert_eq!(ask("POST", "/metrics").status, 405);
    let head = ask("GET", "/metrics").head;
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
}
