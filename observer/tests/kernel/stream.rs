//! The stream of records: logged by the daemon, printed by `observer tail`; and the
//! reports of `observer check` and `--bpf-stats`.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use observer_test_support::{Daemon, Netns, Program, spawn};
use serde_json::Value;

/// Makes the number of connections in each line and lets a connect and a bind fail, then prints a line.
const ON_DEMAND: &str = r#"
import ctypes, socket, sys
ctypes.CDLL(None).prctl(15, b'obs-stream', 0, 0, 0)
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen()
print('ready')
for line in sys.stdin:
    for _ in range(int(sys.argv[1])):
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        client.close()
        server.close()
    try:
        socket.create_connection(('127.0.0.1', 1))
    except ConnectionRefusedError:
        pass
    try:
        socket.socket().bind(listener.getsockname())
    except OSError:
        pass
    print('done')
"#;

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn statistics_of_the_programs() {
    let netns = Netns::new();
    let daemon = Daemon::start(&["--bpf-stats"]);
    let mut program = netns.python(ON_DEMAND, &["20"]);
    program.expect("ready");
    program.go();
    program.expect("done");
    let state = [("program", "state_tp_btf")];
    let metrics = daemon.until("run-time statistics", |metrics| {
        metrics.sum("observer_bpf_runs_total", &state) > 100.0
    });
    let seconds = metrics.sum("observer_bpf_run_seconds_total", &state);
    let runs = metrics.sum("observer_bpf_runs_total", &state);
    println!("{:.0} ns per transition", seconds / runs * 1e9);
    assert!(seconds > 0.0);
    // A connection has seven transitions of these two sockets and a refused one has two.
    assert!(runs >= 20.0 * 7.0 + 2.0, "{runs}");
    program.finish();
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn failures_are_logged_as_json() {
    let netns = Netns::new();
    let daemon = Daemon::start(&["--log-events", "--log-format", "json"]);
    let mut program = netns.python(ON_DEMAND, &["2"]);
    program.expect("ready");
    program.go();
    program.expect("done");
    let pid = u64::from(program.pid());
    let events = |log: &str| -> Vec<Value> {
        log.lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("each line is JSON"))
            .filter(|line| line["target"] == "observer::event")
            .map(|line| {
                let record = line["record"].as_str().expect("a record");
                serde_json::from_str(record).expect("it is JSON")
            })
            .filter(|event: &Value| event["pid"] == pid)
            .collect()
    };
    let binds = daemon.scrape().observes("bind");
    let last = if binds {
        "bind_failed"
    } else {
        "connect_failed"
    };
    daemon.wait("the last failure", |daemon| {
        let mut events = events(&daemon.log()).into_iter();
        events.any(|event| event["event"] == last)
    });
    let events = events(&daemon.log());
    let failed: Vec<_> = events
        .iter()
        .filter(|event| event["event"] == "connect_failed")
        .collect();
    assert_eq!(failed.len(), 1, "{events:?}");
    assert_eq!(failed[0]["comm"], "obs-stream");
    assert_eq!(failed[0]["errno"], "ECONNREFUSED");
    assert_eq!(failed[0]["remote_port"], 1);
    assert_eq!(failed[0]["remote_address"], "127.0.0.1");
    if let Some(failed) = events.iter().find(|event| event["event"] == "bind_failed") {
        assert_eq!(failed["call"], "bind", "{failed}");
        assert_eq!(failed["errno"], "EADDRINUSE", "{failed}");
        assert_eq!(failed["local_address"], "127.0.0.1", "{failed}");
        assert!(failed["local_port"].as_u64().unwrap() > 1_023, "{failed}");
        assert_eq!(failed["netns"].to_string(), netns.inode(), "{failed}");
    } else {
        assert!(!binds, "{events:?}");
    }
    // Connections that end in order are not logged.
    assert!(
        events.iter().all(|event| event["event"] != "time_wait"
            && (event["event"] != "close" || !event["errno"].is_null())),
        "{events:?}"
    );
    program.finish();
}

/// A running `observer tail`.
pub struct Tail {
    child: Child,
    lines: Receiver<String>,
}

impl Tail {
    pub fn start(args: &[&str]) -> Self {
        let mut command = Command::new(observer_test_support::observer());
        command
            .arg("tail")
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = spawn(&mut command).unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    /// Makes `program` open connections until this has printed a record, that is until its hooks are attached.
    pub fn first_line(&mut self, program: &mut Program) -> String {
        for _ in 0..600 {
            program.go();
            program.expect("done");
            if let Ok(line) = self
                .lines
                .recv_timeout(std::time::Duration::from_millis(200))
            {
                return line;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("tail ended: {status}");
            }
        }
        panic!("tail prints nothing");
    }

    /// Goes on making connections until it ends; returns the rest of its lines, and its
    /// standard error.
    pub fn end(mut self, program: &mut Program) -> (Vec<String>, String) {
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            program.go();
            program.expect("done");
        };
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        assert_eq!(status.code(), Some(0), "{said}");
        (self.lines.iter().collect(), said)
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn tail_prints_a_connection_as_json() {
    let netns = Netns::new();
    let mut program = netns.python(ON_DEMAND, &["1"]);
    program.expect("ready");
    let pid = program.pid().to_string();
    let mut tail = Tail::start(&["--json", "--kind", "close", "--pid", &pid, "--count", "6"]);
    let mut lines = vec![tail.first_line(&mut program)];
    let (rest, said) = tail.end(&mut program);
    lines.extend(rest);
    assert_eq!(lines.len(), 6, "{lines:?}");
    assert!(said.contains("6 records shown, 0 missed"), "{said}");
    for line in &lines {
        let close: Value = serde_json::from_str(line).unwrap();
        assert_eq!(close["event"], "close", "{line}");
        assert_eq!(close["pid"], program.pid(), "{line}");
        assert_eq!(close["comm"], "obs-stream", "{line}");
        assert_eq!(close["state_to"], "CLOSE", "{line}");
        assert_eq!(close["local_address"], "127.0.0.1", "{line}");
        if close["flags"].to_string().contains("seeded") {
            // It was there before the hooks.
            continue;
        }
        assert!(
            close["states"]["ESTABLISHED"].as_f64().unwrap() > 0.0,
            "{line}"
        );
        assert!(close["age_seconds"].as_f64().unwrap() > 0.0, "{line}");
    }
    // Both ends of a connection, though maybe not of the first and the last.
    let flags = |line: &str| {
        let close: Value = serde_json::from_str(line).unwrap();
        close["flags"].to_string()
    };
    assert!(
        lines.iter().any(|line| flags(line).contains("active")),
        "{lines:?}"
    );
    assert!(
        lines.iter().any(|line| flags(line).contains("passive")),
        "{lines:?}"
    );
    program.finish();
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn tail_prints_aligned_columns() {
    let netns = Netns::new();
    let mut program = netns.python(ON_DEMAND, &["3"]);
    program.expect("ready");
    // Other tests use the same name.
    let pid = program.pid().to_string();
    // Those of a round, after which a bind fails, and more.
    let kinds = ["--kind", "close,bind-failed", "--count", "16"];
    let of_program = ["--comm", "obs-str*", "--pid", &pid];
    let mut tail = Tail::start(&[of_program, kinds].concat());
    let header = tail.first_line(&mut program);
    assert!(header.starts_with("TIME"), "{header}");
    let mut lines = vec![tail.first_line(&mut program)];
    let (rest, _) = tail.end(&mut program);
    lines.extend(rest);
    assert_eq!(lines.len(), 16, "{lines:?}");
    let bind = lines.iter().find(|line| line.contains(" bind-failed "));
    match bind {
        Some(line) => {
            let why = line.rsplit_once("  ").unwrap().1;
            assert!(why.starts_with("bind() to 127.0.0.1:"), "{line}");
            assert!(why.ends_with(" failed: EADDRINUSE"), "{line}");
        }
        None => left_out!("bind() is not observed"),
    }
    let column = |line: &str, what: &str| {
        let at = line.find(what)?;
        Some(line[..at].chars().count())
    };
    for line in &lines {
        // The number ends where its heading does.
        let time = "12:34:56.789".len();
        let end = column(&line[time..], &pid).map(|start| time + start + pid.len());
        assert_eq!(
            end,
            column(&header, "PID").map(|start| start + 3),
            "{line}\n{header}"
        );
        assert_eq!(
            column(line, "obs-stream"),
            column(&header, "COMM"),
            "{line}\n{header}"
        );
        let address = column(line, "127.0.0.1:");
        assert_eq!(address, column(&header, "LOCAL"), "{line}\n{header}");
    }
    program.finish();
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn tail_says_what_it_missed() {
    let netns = Netns::new();
    let mut program = netns.python(ON_DEMAND, &["2000"]);
    program.expect("ready");
    let args = ["--states", "--json", "--ring-bytes", "4096", "--pid"];
    let pid = program.pid().to_string();
    let mut tail = Tail::start(&[&args[..], &[&pid, "--duration", "3s"]].concat());
    tail.first_line(&mut program);
    let (_, said) = tail.end(&mut program);
    let last = said.lines().last().expect("a tally");
    let missed = last
        .split(", ")
        .find_map(|part| part.strip_suffix(" missed (ring full)"));
    let missed: u64 = missed.expect("the number missed").parse().unwrap();
    println!("{last}");
    assert!(missed > 0, "{said}");
    program.finish();
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn tail_stops_after_its_duration() {
    let output = Command::new(observer_test_support::observer())
        .args([
            "tail",
            "--json",
            "--duration",
            "300ms",
            "--comm",
            "nobody-has-this",
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn check_reports_as_json() {
    let output = Command::new(observer_test_support::observer())
        .args(["check", "--json"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    let code = output.status.code().unwrap();
    assert_eq!(report["exit_code"], code);
    let release = observer_test_support::run("uname", &["-r"]);
    assert_eq!(report["kernel_release"], release.trim());
    let verdicts = report["verdicts"].as_array().unwrap();
    let attached = |verdict: &&Value| verdict["status"] == "attached";
    println!(
        "{} of {} attached, {}",
        verdicts.iter().filter(attached).count(),
        verdicts.len(),
        report["conclusion"]
    );
    let signals = |of: &dyn Fn(&&Value) -> bool| -> std::collections::BTreeSet<String> {
        let of = verdicts.iter().filter(of);
        of.map(|verdict| verdict["signal"].to_string()).collect()
    };
    if signals(&attached) == signals(&|_| true)
        && report["absent_fields"].as_array().unwrap().is_empty()
    {
        assert_eq!(code, 0, "{text}");
    } else {
        assert_eq!(code, 1, "{text}");
    }
    let output = Command::new(observer_test_support::observer())
        .arg("check")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(code));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("inet_sock_set_state"), "{text}");
}
