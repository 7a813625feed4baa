//! Error messages of the command line: needs no privileges, attaches nothing.

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
};

use caps::{CapSet, Capability};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Exit status and standard error.
fn outcome(command: &mut Command) -> (Option<i32>, String) {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().expect("observer can be started");
    // One that starts where it should not would never end.
    let pid = Pid::from_raw(child.id() as i32);
    let (done, ended) = mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        let late =
            ended.recv_timeout(observer_test_support::PATIENCE) == Err(RecvTimeoutError::Timeout);
        if late {
            let _ = kill(pid, Signal::SIGKILL);
        }
        late
    });
    let output = child.wait_with_output().expect("it can be waited for");
    drop(done);
    let late = watch.join().expect("the watch does not panic");
    assert!(
        !late,
        "it runs: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

fn run(args: &[&str]) -> (Option<i32>, String) {
    outcome(
        Command::new(observer_test_support::observer())
            .arg("run")
            .args(args),
    )
}

#[test]
fn a_report_that_cannot_be_written_is_an_error() {
    for arguments in [&["check"][..], &["check", "--json"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full");
        let mut command = Command::new(observer_test_support::observer());
        command.args(arguments).stdout(full.expect("/dev/full"));
        let output = command
            .stderr(Stdio::piped())
            .output()
            .expect("observer can be started");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("cannot print the report"), "{said}");
    }
}

#[test]
fn misuse_ends_with_2() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["--nonsense"], &["--nonsense", "Usage"]),
        (&["--listen", "here"], &["--listen", "here"]),
        (
            &["--ring-bytes", "5000"],
            &["5000", "power of two", "4KiB", "8KiB"],
        ),
        (&["--ring-bytes", "16"], &["minimum"]),
        (&["--ring-bytes", "64kb"], &["unknown unit"]),
        (&["--ring-bytes", "2GiB"], &["maximum is 1GiB"]),
        (&["--max-connections", "15"], &["range of 16 to 16777216"]),
        (&["--max-tracked-processes", "many"], &["whole number"]),
        (&["--tick-interval", "0s"], &["zero"]),
        (&["--tick-interval", "1ms"], &["range of 10ms to 24h"]),
        (&["--resync-interval", "10"], &["500ms, 15s or 1m"]),
        (&["--log-level", "inof"], &["inof", "trace"]),
        (&["--log-format", "xml"], &["xml", "json"]),
        (&["--include-comm", ""], &["empty pattern"]),
        (&["--bpf-stats=perhaps"], &["perhaps"]),
        (&["--config"], &["--config"]),
    ];
    for (args, expected) in cases {
        let (code, said) = run(args);
        assert_eq!(code, Some(2), "{args:?}: {said}");
        for text in *expected {
            assert!(
                said.contains(text),
                "{args:?} does not say {text:?}: {said}"
            );
        }
    }
    let mut by_variable = Command::new(observer_test_support::observer());
    let (code, said) = outcome(by_variable.arg("run").env("OBSERVER_RING_BYTES", "5000"));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("power of two"), "{said}");
    let (code, said) = outcome(Command::new(observer_test_support::observer()).arg("walk"));
    assert_eq!(code, Some(2), "{said}");
    let (code, said) =
        outcome(Command::new(observer_test_support::observer()).args(["tail", "--kind", "odd"]));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("reset-sent"), "{said}");
    // Only a host without a daemon is observed.
    let mut doctor = Command::new(observer_test_support::observer());
    let (code, said) = outcome(doctor.args(["doctor", "--for=1s", "--api-socket=/run/a.sock"]));
    assert_eq!(code, Some(2), "{said}");
    for option in ["--for", "--api-socket"] {
        assert!(said.contains(option), "{said}");
    }
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("observer.toml");
    fs::write(&path, text).unwrap();
    (directory, path)
}

#[test]
fn a_bad_file_ends_with_1_and_is_named_with_line_and_key() {
    let cases: &[(&str, &[&str])] = &[
        (
            "log-level = \"info\"\nlisten = 9963\n",
            &["line 2", "listen"],
        ),
        ("log-level = \"info\"\n\nlisten = \n", &["line 3"]),
        (
            "ring-bytes = 5000\n",
            &["line 1", "ring-bytes", "power of two"],
        ),
        (
            "max-tracked-processes = 1\n",
            &["max-tracked-processes", "range of 16 to 65536"],
        ),
        (
            "tick-interval = 5\n",
            &["tick-interval", "duration such as"],
        ),
        (
            "lisen = \"127.0.0.1:1\"\n",
            &["lisen", "did you mean `listen`?"],
        ),
        (
            "ring_bytes = 4096\n",
            &["ring_bytes", "did you mean `ring-bytes`?"],
        ),
        (
            "[server]\nlisten = \"x\"\n",
            &["the only section is [thresholds]"],
        ),
        (
            "log-level = \"info\"\nlog-level = \"warn\"\n",
            &["line 2", "duplicate"],
        ),
        ("log-events = \"yes\"\n", &["log-events"]),
        (
            "[thresholds]\nrst-share = 20\n",
            &["line 2", "rst-share", "above 0 and up to 1"],
        ),
        (
            "[thresholds]\nlisten-full = nan\n",
            &["line 2", "listen-full", "above 0 and up to 1"],
        ),
    ];
    for (text, expected) in cases {
        let (_directory, path) = file(text);
        for (command, expected_code) in [("run", 1), ("check", 2)] {
            let mut observer = Command::new(observer_test_support::observer());
            let (code, said) = outcome(observer.arg(command).arg("--config").arg(&path));
            assert_eq!(code, Some(expected_code), "{command} {text:?}: {said}");
            for text in expected.iter().chain(&[path.to_str().unwrap()]) {
                assert!(said.contains(text), "does not say {text:?}: {said}");
            }
        }
    }
    let (code, said) = run(&["--config", "/nonexistent/observer.toml"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("/nonexistent/observer.toml"), "{said}");
    assert!(said.contains("No such file"), "{said}");
}

#[test]
fn an_address_in_use_ends_with_1_before_anything_is_attached() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, said) = run(&["--listen", &address]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&address) && said.contains("in use"), "{said}");
    // Neither privileges were asked for nor hooks tried.
    assert!(
        !said.contains("capabilities") && !said.contains("attach"),
        "{said}"
    );
    let (code, said) = run(&["--listen", "192.0.2.1:9963"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("192.0.2.1:9963"), "{said}");
}

/// A copy that other users can reach.
fn copy_for_all() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let everybody = fs::Permissions::from_mode(0o755);
    fs::set_permissions(directory.path(), everybody).unwrap();
    let path = directory.path().join("observer");
    // By another process: one that is forked meanwhile would keep the file open for writing,
    // and it could not be executed then.
    let mut copy = Command::new("cp");
    assert!(
        copy.args([observer_test_support::observer(), path.clone()])
            .status()
            .unwrap()
            .success()
    );
    (directory, path)
}

fn assert_missing(code: Option<i32>, said: &str, missing: &str) {
    assert_eq!(code, Some(1), "{said}");
    let expected = format!("missing capabilities: {missing}\n");
    assert!(said.contains(&expected), "{said}");
    assert!(said.contains("setcap cap_bpf,cap_perfmon,"), "{said}");
    assert!(said.contains("AmbientCapabilities=CAP_BPF"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn another_user_is_told_which_capabilities_are_missing() {
    if !nix::unistd::geteuid().is_root() {
        observer_test_support::skip!("needs root to become another user");
    }
    let (_directory, observer) = copy_for_all();
    for args in [&["run", "--listen", "127.0.0.1:0"][..], &["tail"]] {
        let mut command = Command::new(&observer);
        let (code, said) = outcome(command.args(args).uid(65534).gid(65534));
        assert_missing(code, &said, "CAP_BPF, CAP_PERFMON");
    }
    let mut command = Command::new(&observer);
    let output = command.arg("check").uid(65534).gid(65534).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("cannot run here"), "{text}");
    assert!(
        text.contains("CAP_BPF") && text.contains("MISSING"),
        "{text}"
    );
}

/// Runs the command without `dropped`, which even root cannot have then.
fn without(dropped: &'static [Capability], mut command: Command) -> (Option<i32>, String) {
    // The bounding set belongs to the thread, and child processes inherit it.
    thread::spawn(move || {
        for capability in dropped {
            caps::drop(None, CapSet::Bounding, *capability).unwrap();
        }
        outcome(&mut command)
    })
    .join()
    .unwrap()
}

#[test]
fn root_without_capabilities_is_told_which_are_missing() {
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap();
    if !has(Capability::CAP_SETPCAP) || !nix::unistd::geteuid().is_root() {
        observer_test_support::skip!("needs CAP_SETPCAP to give up others");
    }
    let command = || {
        let mut command = Command::new(observer_test_support::observer());
        command.args(["run", "--listen", "127.0.0.1:0"]);
        command
    };
    use Capability::{CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN};
    let (code, said) = without(&[CAP_BPF, CAP_SYS_ADMIN], command());
    assert_missing(code, &said, "CAP_BPF");
    let (code, said) = without(&[CAP_PERFMON, CAP_SYS_ADMIN], command());
    assert_missing(code, &said, "CAP_PERFMON");
}

/// Only that of the default socket is made.
#[test]
fn the_folder_of_the_socket_is_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("missing");
    let setting = format!("--api-socket={}", folder.join("observer.sock").display());
    let (code, said) = run(&["--listen=127.0.0.1:0", &setting]);
    assert_eq!(code, Some(1), "{said}");
    let has_privileges = nix::unistd::geteuid().is_root();
    let expected = format!("the folder {} does not exist", folder.display());
    assert!(!has_privileges || said.contains(&expected), "{said}");
    assert!(!folder.exists());
}
