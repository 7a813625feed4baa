//! Failing setsockopt() calls, and the report of `observer doctor` about them: program, option, reason, and fix.

use std::{fs, process::Command, time::Instant};

use observer_test_support::{
    Daemon, Netns, PATIENCE, Program, kernel_at_least, new_comm, observer,
    packaged::{self, GO_LISTENER},
};
use serde_json::Value;
use tempfile::TempDir;

/// A daemon that `observer doctor` asks, and programs.
struct Observed {
    directory: TempDir,
    daemon: Daemon,
    netns: Netns,
}

impl Observed {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = api_socket(&directory);
        Self {
            daemon: Daemon::start(&[&socket, "--tick-interval=1s"]),
            directory,
            netns: Netns::new(),
        }
    }

    /// A program that calls `attempt()`, prints whether that succeeds, and stays.
    fn script(&self, attempt: &str) -> Program {
        let source = format!("{attempt}\nprint(outcome(attempt) == 'ok')\ninput()");
        self.netns.script(&source, &[])
    }

    fn doctor(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(observer());
        command
            .args(["doctor", &api_socket(&self.directory)])
            .args(arguments);
        let output = command.output().unwrap();
        assert_ne!(output.status.code(), Some(3));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits for the report about a program, which must have the errno and the hint.
    fn expect(&self, program: &Program, errno: &str, hint: &str) {
        let failed = Instant::now();
        let comm = program.comm();
        let of_program = |it: &&Value| it["subject"]["comm"] == comm.as_str();
        let found = loop {
            // As the tick has it.
            self.daemon.scrape();
            let report: Value = serde_json::from_str(&self.doctor(&["--json"])).expect("a report");
            let mut findings = report["findings"].as_array().expect("findings").iter();
            if let Some(found) = findings.find(of_program) {
                break found.clone();
            }
            assert!(failed.elapsed() < PATIENCE, "{report:#}");
        };
        let seconds = failed.elapsed().as_secs_f64();
        println!(
            "{seconds:.1} s: {}",
            found["summary"].as_str().expect("a summary")
        );
        assert_eq!(found["id"], "setsockopt-fails");
        assert_eq!(found["evidence"]["errno"], errno);
        let facts = &found["holds_for"];
        assert_eq!(facts[0]["hint"], hint, "{found:#}");
        let text = self.doctor(&[]);
        let words: Vec<_> = text.split_whitespace().collect();
        let words = words.join(" ");
        for part in ["fix", "check"] {
            let part = facts[0][part].as_str().expect("a text");
            assert!(words.contains(part), "{part}\n{text}");
        }
        let who = format!("NOTE setsockopt-fails {comm}");
        assert!(words.contains(&who), "{who}\n{text}");
    }
}

fn api_socket(directory: &TempDir) -> String {
    let file = directory.path().join("observer.sock");
    format!("--api-socket={}", file.display())
}

/// A program makes the call. `expected` are the errno and the hint, if its kernel refuses it.
fn set(attempt: &str, expected: Option<(&str, &str)>) {
    let observed = Observed::new();
    let mut program = observed.script(attempt);
    match expected {
        Some((errno, hint)) => {
            program.expect("False");
            observed.expect(&program, errno, hint);
        }
        None => {
            program.expect("True");
            println!("this kernel accepts it");
        }
    }
    program.end();
}

/// What fails where an MPTCP listener takes no Fast Open; nothing if it does. `Err` on kernels without such sockets.
fn fast_open_on_mptcp() -> Result<Option<(&'static str, &'static str)>, &'static str> {
    if !kernel_at_least(6, 1) {
        return Err("Debian's 5.10 has no MPTCP");
    }
    let fails = !kernel_at_least(6, 2);
    Ok(fails.then_some(("ENOPROTOOPT", "fastopen-mptcp")))
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn fast_open_on_an_mptcp_listener() {
    let attempt = r"
listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
listener.bind(('127.0.0.1', 0))
def attempt():
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 256)
";
    match fast_open_on_mptcp() {
        Ok(expected) => set(attempt, expected),
        Err(why) => skip!("{why}"),
    }
}

/// Go's listeners are MPTCP sockets since 1.24. If ListenConfig.Control returns the error, Go makes a TCP socket instead;
/// if it does not, the listener has no Fast Open.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn fast_open_on_a_listener_of_go() {
    let expected = match fast_open_on_mptcp() {
        Ok(expected) => expected,
        Err(why) => skip!("{why}"),
    };
    let (folder, script, version) = GO_LISTENER;
    let file = match packaged::program(folder, script, version) {
        Ok(file) => file,
        Err(why) => skip!("Go {version}: {why}"),
    };
    let observed = Observed::new();
    let start = |arguments: &[&str], debug: &str| {
        let comm = new_comm();
        let named = observed.directory.path().join(&comm);
        fs::copy(&file, &named).unwrap();
        let mut command = observed.netns.command(named);
        command.args(arguments).env("GODEBUG", debug);
        Program::spawn_as(&comm, &mut command)
    };
    for (arguments, listens) in [(&[][..], ["tcp ok", "tcp"]), (&["ignore"], ["", "mptcp"])] {
        let mut program = start(arguments, "");
        let [again, protocol] = match expected {
            Some((errno, hint)) => {
                program.expect(&format!("mptcp {errno}"));
                observed.expect(&program, errno, hint);
                listens
            }
            None => {
                program.expect("mptcp ok");
                ["", "mptcp"]
            }
        };
        if !again.is_empty() {
            program.expect(again);
        }
        program.expect(&format!("listening {protocol}"));
        program.end();
    }
    // The fix.
    let mut program = start(&[], "multipathtcp=0");
    program.expect("tcp ok");
    program.expect("listening tcp");
    program.end();
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
