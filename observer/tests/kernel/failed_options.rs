//! Failing setsockopt() calls, and the report of `observer doctor` about them: program, option, reason, and fix.

use std::{process::Command, time::Instant};

use observer_test_support::{Daemon, Netns, PATIENCE, kernel_at_least, observer};
use serde_json::Value;

/// A program calls `attempt()` and stays. `expected` are the errno and the hint, if its kernel refuses the call.
fn set(attempt: &str, expected: Option<(&str, &str)>) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("observer.sock");
    let socket = format!("--api-socket={}", socket.display());
    let daemon = Daemon::start(&[&socket, "--tick-interval=1s"]);
    let netns = Netns::new();
    let source = format!("{attempt}\nprint(outcome(attempt) == 'ok')\ninput()");
    let mut program = netns.script(&source, &[]);
    let failed = Instant::now();
    let Some((errno, hint)) = expected else {
        program.expect("True");
        println!("this kernel accepts it");
        return program.end();
    };
    program.expect("False");
    let comm = program.comm();
    let of_program = |it: &&Value| it["subject"]["comm"] == comm.as_str();
    let found = loop {
        // As the tick has it.
        daemon.scrape();
        let output = doctor(&["--json", &socket]);
        let report: Value = serde_json::from_str(&output).expect("a report");
        let mut findings = report["findings"].as_array().expect("findings").iter();
        if let Some(found) = findings.find(of_program) {
            break found.clone();
        }
        assert!(failed.elapsed() < PATIENCE, "{report:#}");
    };
    let seconds = failed.elapsed().as_secs_f64();
    let summary = found["summary"].as_str().expect("a summary");
    println!("{seconds:.1} s: {summary}");
    assert_eq!(found["id"], "setsockopt-fails");
    assert_eq!(found["evidence"]["errno"], errno);
    let facts = &found["holds_for"];
    assert_eq!(facts[0]["hint"], hint, "{found:#}");
    let text = doctor(&[&socket]);
    let words: Vec<_> = text.split_whitespace().collect();
    let words = words.join(" ");
    for part in ["fix", "check"] {
        let part = facts[0][part].as_str().expect("a text");
        assert!(words.contains(part), "{part}\n{text}");
    }
    let who = format!("NOTE setsockopt-fails {comm}");
    assert!(words.contains(&who), "{who}\n{text}");
    program.end();
}

fn doctor(arguments: &[&str]) -> String {
    let mut command = Command::new(observer());
    let output = command.arg("doctor").args(arguments).output().unwrap();
    assert_ne!(output.status.code(), Some(3));
    String::from_utf8(output.stdout).unwrap()
}

/// As Go's listeners do since 1.24, which are MPTCP ones.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn fast_open_on_an_mptcp_listener() {
    let attempt = r"
listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
listener.bind(('127.0.0.1', 0))
def attempt():
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 256)
";
    if !kernel_at_least(6, 1) {
        skip!("Debian's 5.10 has no MPTCP");
    }
    let fails = !kernel_at_least(6, 2);
    set(attempt, fails.then_some(("ENOPROTOOPT", "fastopen-mptcp")));
}

/// As janet and old versions of CPython do.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn reuseport_on_a_unix_socket() {
    let attempt = r"
listener = socket.socket(socket.AF_UNIX)
def attempt():
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
";
    // Debian's 6.1 has the change, too.
    let fails = kernel_at_least(6, 1);
    set(
        attempt,
        fails.then_some(("EOPNOTSUPP", "reuseport-not-internet")),
    );
}
