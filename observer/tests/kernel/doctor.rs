//! `observer doctor`: with a daemon, without one, and for a user who may not ask.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use ::observer::client::{self, ClientError};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use observer_test_support::{Daemon, Netns, PATIENCE, holds_in_time, observer, spawn};
use serde_json::Value;

/// Every attempt to connect is refused, and an option fails that Unix sockets do not have.
const PROGRAM: &str = r"
other = socket.socket(socket.AF_UNIX)
assert outcome(lambda: other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)) != 'ok'
holder = closed_port(*FAMILIES[0])
import select, sys
print('ready', flush=True)
while not select.select([sys.stdin], [], [], 0.1)[0]:
    assert outcome(lambda: connect(socket.AF_INET, holder.getsockname())) == 'ECONNREFUSED'
";

fn doctor(arguments: &[&str]) -> Output {
    let mut command = Command::new(observer());
    command.arg("doctor").args(arguments).output().unwrap()
}

/// A command in a mount namespace with an empty /run.
fn without_daemon(command: &[&str]) -> Command {
    let mut unshare = Command::new("unshare");
    let script = "mount -t tmpfs tmpfs /run && exec \"$@\"";
    unshare.args(["--mount", "sh", "-c", script, "sh"]);
    unshare.args(command);
    unshare
}

/// A copy of the program that every user can reach.
fn for_everyone(directory: &Path) -> String {
    let copy = directory.join("observer");
    fs::copy(observer(), &copy).unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    copy.to_str().unwrap().to_owned()
}

fn report(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(&text).unwrap_or_else(|it| panic!("{it}\n{text}\n{error}"))
}

fn find(report: &Value, what: impl Fn(&Value) -> bool) -> Option<&Value> {
    report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|it| what(it))
}

fn socket_of(directory: &Path) -> String {
    format!("--api-socket={}", directory.join("observer.sock").display())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_running_daemon_is_asked() {
    let netns = Netns::new();
    let directory = tempfile::tempdir().unwrap();
    let socket = socket_of(directory.path());
    let daemon = Daemon::start(&[&socket]);
    let mut program = netns.script(PROGRAM, &[]);
    assert_eq!(program.line(), "ready");
    let pid = program.pid();
    let started = Instant::now();
    let (output, report) = loop {
        let output = doctor(&["--json", &socket]);
        let report = report(&output);
        let of_program = |it: &Value| it["subject"]["pid"] == pid && it["id"] == "connect-failures";
        if find(&report, of_program).is_some() {
            break (output, report);
        }
        assert!(started.elapsed() < PATIENCE, "{report:#}");
    };
    // No connect of it succeeds.
    assert_eq!(output.status.code(), Some(2));
    let failures = find(&report, |it| it["subject"]["pid"] == pid).unwrap();
    assert_eq!(failures["severity"], "fail");
    assert_eq!(failures["anomaly"], "connect_failures");
    let summary = failures["summary"].as_str().unwrap();
    assert!(
        summary.contains("cannot connect") && summary.contains("refused"),
        "{summary}"
    );
    let option = find(&report, |it| {
        it["id"] == "setsockopt-fails" && it["evidence"]["family"] == "unix"
    });
    let option = option.unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!(option["severity"], "note");
    let facts = option["holds_for"].as_array().unwrap();
    assert!(!facts.is_empty(), "{option:#}");
    let settings = report["settings"].as_array().unwrap();
    assert!(
        settings.iter().any(|it| it["name"] == "net.core.somaxconn"),
        "{report:#}"
    );

    let text = doctor(&[&socket]);
    let text = String::from_utf8(text.stdout).unwrap();
    let expected = "FAIL  connect-failures  ";
    assert!(text.contains(expected) && text.contains("Cause"), "{text}");

    let refused = Command::new(for_everyone(directory.path()))
        .args(["doctor", &socket])
        .uid(65_534)
        .gid(65_534)
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(3));
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("sudo") && error.contains("group"), "{error}");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    program.finish();
    assert!(daemon.stop().success());
    let gone = doctor(&[&socket]);
    assert_eq!(gone.status.code(), Some(3));
}

/// With a private /run, so that it finds no daemon of the host.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn without_a_daemon_it_looks_for_itself_and_leaves_nothing() {
    let netns = Netns::new();
    let mut program = netns.script(PROGRAM, &[]);
    assert_eq!(program.line(), "ready");
    let directory = tempfile::tempdir().unwrap();
    let program_path = observer().to_str().unwrap().to_owned();
    let output = without_daemon(&[&program_path, "doctor", "--json", "--for=30s"])
        .env("TMPDIR", directory.path())
        .output()
        .unwrap();
    let report = report(&output);
    let pid = program.pid();
    let found = find(&report, |it| it["subject"]["pid"] == pid);
    assert!(found.is_some(), "{report:#}");
    assert_eq!(output.status.code(), Some(2));
    let left = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 0, "files are left");
    program.finish();

    let copy = for_everyone(directory.path());
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let denied = without_daemon(&["setpriv", user[0], user[1], user[2], &copy, "doctor"]);
    let denied = { denied }.arg("--for=1s").output().unwrap();
    assert_eq!(denied.status.code(), Some(3));
    let error = String::from_utf8(denied.stderr).unwrap();
    assert!(error.contains("observer says"), "{error}");
}

/// Whatever ends it: the daemon that it started ends, too, and a signal that it can handle leaves no files.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn it_leaves_no_daemon_when_it_is_killed() {
    let program = observer().to_str().unwrap().to_owned();
    for (signal, leaves) in [(Signal::SIGTERM, 0), (Signal::SIGKILL, 1)] {
        let directory = tempfile::tempdir().unwrap();
        let mut doctor = without_daemon(&[&program, "doctor", "--for=1h"])
            .env("TMPDIR", directory.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let made = || fs::read_dir(directory.path()).unwrap().next();
        let socket = || Some(made()?.unwrap().path().join("observer.sock"));
        let answers = || {
            let socket = socket()?;
            client::get(&socket, "/api/v1/anomalies").ok()?;
            Some(socket)
        };
        assert!(holds_in_time(|| answers().is_some()), "no daemon");
        let socket = answers().unwrap();
        kill(Pid::from_raw(doctor.id().cast_signed()), signal).unwrap();
        doctor.wait().unwrap();
        let is_gone = || {
            let answer = client::get(&socket, "/api/v1/anomalies");
            matches!(answer, Err(ClientError::NoDaemon(_)))
        };
        assert!(holds_in_time(is_gone), "the daemon goes on");
        assert_eq!(made().iter().count(), leaves, "{signal}");
    }
}

/// Connects twice a second and closes nothing, with a hard limit that is above the soft one.
const LEAK: &str = r"
listener = listen(*FAMILIES[0])
kept = []
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))
print('ready', flush=True)
while not select.select([sys.stdin], [], [], 0.5)[0]:
    try:
        kept.append(connect(socket.AF_INET, listener.getsockname()))
    except OSError as error:
        assert error.errno == errno.EMFILE
    if len(kept) == 64:
        print('more than before', flush=True)
";

/// The leak leads to the failures, and the command that the note gives ends them.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn what_follows_and_what_raises_the_limit() {
    let netns = Netns::new();
    let directory = tempfile::tempdir().unwrap();
    let socket = socket_of(directory.path());
    let _daemon = Daemon::start(&[&socket]);
    let mut program = netns.script(LEAK, &[]);
    program.expect("ready");
    let pid = program.pid();
    let is_out = |it: &Value| {
        it["id"] == "fd-exhaustion" && it["subject"]["pid"] == pid && it["severity"] == "fail"
    };
    let mut last = Value::Null;
    let found = holds_in_time(|| {
        last = report(&doctor(&["--json", &socket]));
        find(&last, is_out).is_some()
    });
    assert!(found, "{last:#}");
    let found = find(&last, is_out).unwrap();
    assert_eq!(found["follows_from"]["id"], "fd-leak", "{found:#}");
    assert_eq!(found["follows_from"]["subject"]["pid"], pid);
    let note = found["notes"][0]
        .as_str()
        .unwrap_or_else(|| panic!("{found:#}"));
    assert!(note.contains("is 64, and may be raised to 4096"), "{note}");
    let command = note.split('`').nth(1).unwrap();
    assert!(command.starts_with("prlimit "), "{note}");
    let status = Command::new("sh").args(["-c", command]).status().unwrap();
    assert!(status.success());
    program.expect("more than before");
    program.end();
}

/// The report of a daemon, once a finding of it is `what`.
fn until(socket: &str, what: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let report = report(&doctor(&["--json", socket]));
        if let Some(found) = find(&report, &what) {
            return found.clone();
        }
        assert!(started.elapsed() < PATIENCE, "{report:#}");
        sleep(Duration::from_millis(200));
    }
}

/// No detector raises a client with a closed port among its destinations, or an option without effect.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn what_is_odd_is_a_note() {
    let netns = Netns::new();
    netns.sysctl("net.ipv4.tcp_fastopen", "1");
    let directory = tempfile::tempdir().unwrap();
    let socket = socket_of(directory.path());
    let daemon = Daemon::start(&[&socket]);
    let mut program = netns.script(
        r"
import select, sys
server = socket.create_server(('127.0.0.1', 0))
server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
holder = closed_port(*FAMILIES[0])
for _ in range(12):
    assert outcome(lambda: socket.socket().bind(server.getsockname())) == 'EADDRINUSE'
print(server.getsockname()[1], flush=True)
while not select.select([sys.stdin], [], [], 0.02)[0]:
    for _ in range(3):
        assert outcome(lambda: connect(socket.AF_INET, server.getsockname())) == 'ok'
        server.accept()[0].close()
    assert outcome(lambda: connect(socket.AF_INET, holder.getsockname())) == 'ECONNREFUSED'
",
        &[],
    );
    let port = program.line();
    let inode: u64 = netns.inode().parse().unwrap();
    let comm = program.comm();
    let stray = until(&socket, |it| {
        it["id"] == "closed-ports"
            && it["subject"]["netns"] == inode
            && it["evidence"]["programs"][0]["comm"] == comm
    });
    assert_eq!(stray["severity"], "note");
    assert_eq!(stray["subject"]["address"], "127.0.0.1");
    assert_eq!(stray["evidence"]["ports"], 1);
    assert_eq!(stray["holds_for"][0]["hint"], "closed-ports");
    let address = format!("127.0.0.1:{port}");
    let is_fast_open =
        |it: &Value| it["id"] == "fastopen-without-effect" && it["subject"]["address"] == address;
    let fast_open = until(&socket, is_fast_open);
    let fact = fast_open["holds_for"][0]["hint"].as_str();
    assert_eq!(fact, Some("fastopen-listener"), "{fast_open:#}");
    println!("{}\n{}", stray["summary"], fast_open["summary"]);
    if daemon.scrape().observes("bind") {
        let binds = until(&socket, |it| {
            it["id"] == "binds-fail" && it["subject"]["comm"] == comm
        });
        assert_eq!(binds["evidence"]["errnos"]["EADDRINUSE"], 12, "{binds:#}");
        println!("{}", binds["summary"]);
    }
    // With the sysctl it has an effect.
    netns.sysctl("net.ipv4.tcp_fastopen", "3");
    let started = Instant::now();
    while find(&report(&doctor(&["--json", &socket])), is_fast_open).is_some() {
        assert!(started.elapsed() < PATIENCE);
        sleep(Duration::from_millis(200));
    }
    program.finish();
    assert!(daemon.stop().success());
}

/// Runs until the program has ended, which it does because its port is taken.
fn fails_to_start(netns: &Netns, program: &str, arguments: &[&str]) {
    let mut command = netns.command(program);
    command.args(arguments).stdout(Stdio::null());
    let output = command.stderr(Stdio::piped()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains("Address already in use"),
        "{error}"
    );
}

/// The programs that could not start have ended, and are told who has their port.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_port_that_is_taken_has_a_holder() {
    needs_programs!("nginx");
    let netns = Netns::new();
    let directory = tempfile::tempdir().unwrap();
    let socket = socket_of(directory.path());
    let daemon = Daemon::start(&[&socket]);
    if !daemon.scrape().observes("bind") {
        skip!("failed binds are not observed");
    }
    let server = ["-m", "http.server", "8080"];
    let mut holder = netns.command("python3");
    let mut holder = spawn(
        holder
            .args(server)
            .stderr(Stdio::null())
            .stdout(Stdio::null()),
    )
    .unwrap();
    let listens = || netns.run("ss", &["-Hltn"]).contains(":8080");
    assert!(holds_in_time(listens), "http.server does not listen");
    for _ in 0..3 {
        fails_to_start(&netns, "python3", &server);
    }
    let config = directory.path().join("nginx.conf");
    let text = format!(
        "daemon off; pid {0}/pid; error_log stderr; events {{}}\n\
         http {{ access_log off; client_body_temp_path {0}/a; proxy_temp_path {0}/b;\n\
         fastcgi_temp_path {0}/c; uwsgi_temp_path {0}/d; scgi_temp_path {0}/e;\n\
         server {{ listen 8080; listen [::]:8080; return 200 ok; }} }}\n",
        directory.path().display()
    );
    fs::write(&config, text).unwrap();
    fails_to_start(&netns, "nginx", &["-c", config.to_str().unwrap()]);

    let inode: u64 = netns.inode().parse().unwrap();
    let of = |comm: &str, count: u64| {
        let note = until(&socket, |it| {
            let calls = &it["evidence"]["calls"];
            let here = |it: &Value| it["netns"] == inode && it["count"] == count;
            it["id"] == "binds-fail"
                && it["subject"]["comm"] == comm
                && calls.as_array().unwrap().iter().any(here)
        });
        println!("{}", note["summary"].as_str().unwrap());
        note
    };
    let pid = holder.id();
    // nginx tries each address five times within two seconds.
    for (comm, count) in [("python3", 3), ("nginx", 5)] {
        let note = of(comm, count);
        assert_eq!(note["severity"], "note");
        assert_eq!(note["holds_for"][0]["hint"], "port-taken");
        let calls = note["evidence"]["calls"].as_array().unwrap();
        let at = |it: &&Value| it["netns"] == inode && it["address"] == "0.0.0.0";
        let call = calls.iter().find(at).unwrap();
        assert_eq!(call["errno"], "EADDRINUSE", "{note:#}");
        assert_eq!(call["port"], 8_080, "{note:#}");
        assert_eq!(call["count"], count, "{note:#}");
        assert_eq!(call["listening"][0]["pid"], pid, "{note:#}");
        let summary = note["summary"].as_str().unwrap();
        let expected = format!(", where python3 (pid {pid}");
        assert!(summary.contains("0.0.0.0:8080 ("), "{summary}");
        assert!(summary.contains(&expected), "{summary}");
    }
    println!("{}", String::from_utf8(doctor(&[&socket]).stdout).unwrap());
    holder.kill().unwrap();
    holder.wait().unwrap();
    // Then nothing holds it.
    let note = until(&socket, |it| {
        it["id"] == "binds-fail"
            && it["subject"]["comm"] == "nginx"
            && it["evidence"]["calls"][0]["listening"] == serde_json::json!([])
    });
    let cause = note["causes"][0].as_str().unwrap();
    assert!(cause.contains("nothing that is known listens"), "{cause}");
    assert!(daemon.stop().success());
}
