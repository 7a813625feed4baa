//! Hosts without BTF or tracefs: the observer reports missing features, and runs if possible.

use std::process::{Command, Output, Stdio};

use observer_test_support::{Daemon, Netns};

/// The same program in a new mount namespace, after `preparation` in the shell.
fn confined(preparation: &str, args: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-ec"])
        .arg(format!("{preparation}\nexec \"$@\""))
        .arg("sh")
        .arg(observer_test_support::observer())
        .args(args)
        .stdin(Stdio::null());
    command
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

const BTF: &str = "/sys/kernel/btf/vmlinux";

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn unreadable_btf() {
    let directory = tempfile::tempdir().unwrap();
    let whole = std::fs::read(BTF).unwrap();
    let cases: [(&str, &[u8]); 3] = [
        ("empty", &[]),
        ("truncated", &whole[..whole.len() / 3]),
        (
            "text",
            b"not a BTF file, but long enough for a header of one",
        ),
    ];
    for (name, contents) in cases {
        let file = directory.path().join(name);
        std::fs::write(&file, contents).unwrap();
        let mount = format!("mount --bind {} {BTF}", file.display());
        for args in [&["run", "--listen", "127.0.0.1:0"][..], &["tail"]] {
            let output = confined(&mount, args).output().unwrap();
            let (stdout, stderr) = said(&output);
            assert_eq!(output.status.code(), Some(1), "{name}: {stdout}{stderr}");
            assert!(stderr.contains(BTF), "{name}: {stderr}");
            assert!(!stderr.contains("panicked"), "{name}: {stderr}");
            println!("{name}: {stderr}");
        }
        let output = confined(&mount, &["check"]).output().unwrap();
        let (stdout, stderr) = said(&output);
        assert_eq!(output.status.code(), Some(2), "{name}: {stdout}{stderr}");
        assert!(stdout.contains("cannot run here"), "{name}: {stdout}");
        assert!(stdout.contains(BTF), "{name}: {stdout}");
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn no_btf_at_all() {
    let hide = "mount -t tmpfs none /sys/kernel/btf";
    let output = confined(hide, &["run", "--listen", "127.0.0.1:0"])
        .output()
        .unwrap();
    let (_, stderr) = said(&output);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains(BTF) && stderr.contains("No such file"),
        "{stderr}"
    );
    let output = confined(hide, &["check"]).output().unwrap();
    let (stdout, _) = said(&output);
    assert_eq!(output.status.code(), Some(2), "{stdout}");
    assert!(stdout.contains("CONFIG_DEBUG_INFO_BTF"), "{stdout}");
}

/// Hides tracefs, and drops the capability to mount it again.
const NO_TRACEFS: &str = "mount -t tmpfs none /sys/kernel/tracing 2>/dev/null || true
    mount -t tmpfs none /sys/kernel/debug 2>/dev/null || true
    set -- setpriv --bounding-set -sys_admin \"$@\"";

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn without_tracefs_it_does_without_the_classic_tracepoints() {
    needs_programs!("setpriv");
    let netns = Netns::new();
    let daemon = Daemon::start_with(&["--hooks=tracepoint"], |command| {
        let args: Vec<String> = command
            .get_args()
            .map(|arg| arg.to_str().unwrap().to_owned())
            .collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut wrapped = confined(NO_TRACEFS, &args);
        wrapped.stdout(Stdio::null()).stderr(Stdio::piped());
        *command = wrapped;
    });
    let mut program = netns.python(
        r#"
import socket
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen()
for _ in range(10):
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    client.close()
    server.close()
for port in range(1, 4):
    try:
        socket.create_connection(('127.0.0.1', port))
    except ConnectionRefusedError:
        pass
try:
    listener.setsockopt(socket.IPPROTO_TCP, 4000, 1)
except OSError:
    pass
print('done')
input()
"#,
        &[],
    );
    program.expect("done");
    let pid = program.pid();
    let metrics = daemon.until("ten connections", |metrics| {
        let last = [("from", "LAST_ACK"), ("to", "CLOSE")];
        metrics.of(pid, "socket_state_transitions_total", &last) == 10.0
    });
    // Results from the state machine are exact.
    let result = |result| metrics.of(pid, "socket_connects_total", &[("result", result)]);
    assert_eq!((result("ok"), result("ECONNREFUSED")), (10.0, 3.0));
    assert_eq!(netns.snmp()["ActiveOpens"], 13);
    assert_eq!(metrics.of(pid, "socket_time_wait_entered_total", &[]), 10.0);
    // Signals that are not observed are absent, not 0.
    for family in [
        "socket_accepts_total",
        "socket_process_accepts_total",
        "socket_setsockopt_failures_total",
        "socket_process_setsockopt_failures_total",
        "socket_fd_exhausted_total",
        "socket_process_fd_exhausted_total",
    ] {
        assert!(!metrics.has(family, &[]), "{family} is shown");
    }
    for signal in ["accept", "setsockopt", "fd"] {
        let attached = metrics.sum("observer_hook_attached", &[("signal", signal)]);
        assert_eq!(attached, 0.0, "{signal}");
        assert!(
            metrics.has("observer_hook_attached", &[("signal", signal)]),
            "{signal}"
        );
        let missing = [("signal", signal), ("reason", "refused")];
        assert!(
            metrics.has("observer_signal_missing", &missing),
            "{}",
            metrics.shown()
        );
        assert!(
            !metrics.has("observer_signal_info", &[("signal", signal)]),
            "{signal}"
        );
        assert!(!metrics.has("observer_events_seen_total", &[("signal", signal)]));
    }
    assert!(metrics.has("observer_signal_info", &[("signal", "state")]));
    metrics.assert_complete();
    let log = daemon.log();
    assert!(
        log.contains("not observed") && log.contains("tracefs is not mounted"),
        "{log}"
    );
    let (_, page) = daemon.get("/");
    assert!(page.contains("tracefs is not mounted"), "{page}");
    program.end();

    let output = confined(NO_TRACEFS, &["check"]).output().unwrap();
    let (stdout, stderr) = said(&output);
    assert_eq!(output.status.code(), Some(1), "{stdout}{stderr}");
    assert!(stdout.contains("not in full"), "{stdout}");
    assert!(stdout.contains("tracefs is not mounted"), "{stdout}");
    for signal in ["accept", "setsockopt"] {
        assert!(stdout.contains(signal), "{stdout}");
    }
}

/// With the capability to mount it, a tracefs that is not there is mounted.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn tracefs_is_mounted_where_it_is_not() {
    let hide = "mount -t tmpfs none /sys/kernel/tracing
        mount -t tmpfs none /sys/kernel/debug 2>/dev/null || true";
    let output = confined(hide, &["check", "--json"]).output().unwrap();
    let (stdout, stderr) = said(&output);
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["tracefs"]["ok"], true, "{stdout}{stderr}");
    // It is unmounted at the end.
    let compare = format!(
        "{hide}\nbefore=$(sort /proc/self/mounts)\n\"$@\" >&2 || true
        test \"$before\" = \"$(sort /proc/self/mounts)\"\nset -- echo unchanged"
    );
    let output = confined(&compare, &["check"]).output().unwrap();
    let (stdout, stderr) = said(&output);
    assert_eq!(stdout, "unchanged\n", "{stderr}");
}

/// Makes the kernel refuse to attach iterators, but load them: with a seccomp filter.
const NO_LINKS: &str = r"
number = {'x86_64': 321, 'aarch64': 280}[platform.machine()]
instructions = [
    (0x20, 0, 0, 0),  # A = the number of the system call
    (0x15, 0, 3, number),
    (0x20, 0, 0, 16),  # A = its first argument
    (0x15, 0, 1, 28),  # BPF_LINK_CREATE
    (0x06, 0, 0, 0x00050000 | 1),  # SECCOMP_RET_ERRNO: EPERM
    (0x06, 0, 0, 0x7fff0000),  # SECCOMP_RET_ALLOW
]
";

/// As if all inotify instances of the user were in use.
const NO_INOTIFY: &str = r"
number = {'x86_64': 294, 'aarch64': 26}[platform.machine()]
instructions = [
    (0x20, 0, 0, 0),  # A = the number of the system call
    (0x15, 0, 1, number),  # inotify_init1
    (0x06, 0, 0, 0x00050000 | 24),  # SECCOMP_RET_ERRNO: EMFILE
    (0x06, 0, 0, 0x7fff0000),  # SECCOMP_RET_ALLOW
]
";

/// The observer behind one of these filters.
fn filtered(instructions: &str) -> Command {
    const INSTALL: &str = r"
code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *it) for it in instructions))
program = ctypes.create_string_buffer(
    struct.pack('HxxxxxxP', len(instructions), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(22, 2, program, 0, 0) == 0, os.strerror(ctypes.get_errno())
os.execv(sys.argv[1], sys.argv[1:])
";
    let mut command = Command::new("python3");
    command.arg("-c").arg(format!(
        "import ctypes, os, platform, struct, sys\n{instructions}{INSTALL}"
    ));
    command.arg(observer_test_support::observer());
    command
}

/// An iterator that can be loaded and not attached is not shown as attached.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn iterators_that_cannot_be_attached() {
    let check = || {
        let output = filtered(NO_LINKS)
            .args(["check", "--json"])
            .output()
            .unwrap();
        let (stdout, stderr) = said(&output);
        let report: serde_json::Value = serde_json::from_str(&stdout).expect(&stderr);
        report["verdicts"].as_array().expect("a list").clone()
    };
    let iterators: Vec<_> = check()
        .into_iter()
        .filter(|verdict| verdict["attach_type"] == "iter")
        .collect();
    assert!(iterators.len() > 1, "{iterators:?}");
    for verdict in &iterators {
        assert_ne!(verdict["status"], "attached", "{verdict}");
    }
    let refused = iterators.iter().filter(|it| it["status"] == "refused");
    assert!(refused.count() > 0, "{iterators:?}");
}

/// Other programs of its user have all inotify instances: nothing is probed, and everything else is observed.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn no_inotify_instance_is_left() {
    let output = filtered(NO_INOTIFY)
        .args(["check", "--json"])
        .output()
        .unwrap();
    let (stdout, stderr) = said(&output);
    let report: serde_json::Value = serde_json::from_str(&stdout).expect(&stderr);
    let of_signal = |signal: &str| {
        let missing = report["missing"].as_array().expect("a list").iter();
        missing
            .filter(|it| it["signal"] == signal)
            .map(|it| it["reason"].clone())
            .collect::<Vec<_>>()
    };
    if of_signal("tls") == ["unsupported"] {
        observer_test_support::skip!("this kernel has no attach cookies");
    }
    for signal in ["tls", "quic"] {
        assert_eq!(of_signal(signal), ["refused"], "{stdout}");
    }
    let daemon = Daemon::start_with(&["--tls=auto"], |command| {
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        *command = filtered(NO_INOTIFY);
        command.args(args);
    });
    let of_tls = [("signal", "tls"), ("reason", "refused")];
    assert!(daemon.scrape().has("observer_signal_missing", &of_tls));
    let log = daemon.log();
    let said = log
        .lines()
        .filter(|it| it.contains("fs.inotify.max_user_instances"));
    assert_eq!(said.count(), 1, "{log}");
}
