//! `/api/v1/processes` agrees with /metrics and `ss`. The API's Unix socket.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use ::observer::client::{self, ClientError};
use observer_test_support::{Daemon, Metrics, Netns, needs_programs, observer};
use serde_json::Value;

/// One that belongs to a user, who may remove a socket in it.
fn folder_of(user: u32, directory: &Path) -> PathBuf {
    let folder = directory.join("made");
    fs::create_dir(&folder).unwrap();
    chown(&folder, Some(user), Some(user)).unwrap();
    folder
}

/// Of a daemon that has become another user, with its seccomp filter.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn the_api_is_on_a_unix_socket_that_goes_with_the_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let path = folder_of(65534, directory.path()).join("api.sock");
    let setting = format!("--api-socket={}", path.display());
    let arguments = [setting.as_str(), "--user=65534"];
    let daemon = Daemon::start(&arguments);
    let answer = client::get(&path, "/api/v1/anomalies").unwrap();
    assert!(answer["findings"].is_array(), "{answer}");
    let answer = client::get(&path, "/api/v1/processes").unwrap();
    assert!(answer["running"].as_u64().unwrap() > 0, "{answer}");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);

    let mut second = Command::new(observer());
    second.args(["run", "--listen=127.0.0.1:0"]).args(arguments);
    let second = second.output().unwrap();
    let error = String::from_utf8(second.stderr).unwrap();
    assert!(
        !second.status.success() && error.contains("another observer uses it"),
        "{error}"
    );
    client::get(&path, "/api/v1/anomalies").unwrap();

    // It cannot remove its socket then.
    daemon.signal("KILL");
    daemon.wait_for_end();
    assert!(path.exists());
    let gone = client::get(&path, "/api/v1/anomalies");
    assert!(matches!(gone, Err(ClientError::NoDaemon(_))), "{gone:?}");
    let daemon = Daemon::start(&arguments);
    client::get(&path, "/api/v1/anomalies").unwrap();
    assert!(daemon.stop().success());
    assert!(!path.exists());
}

/// As after a daemon that root started by hand and that was killed, and then one of the service, which is not root.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_daemon_of_root_leaves_a_socket_that_its_user_can_take_over() {
    needs_programs!("setpriv");
    let directory = tempfile::tempdir().unwrap();
    // Its own is root's alone.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = folder_of(65534, directory.path()).join("api.sock");
    let setting = format!("--api-socket={}", path.display());
    let as_user = |command: &mut Command| {
        let mut wrapped = Command::new("setpriv");
        wrapped.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        let capabilities = "+bpf,+perfmon,+sys_ptrace,+dac_read_search";
        wrapped.arg(format!("--inh-caps={capabilities}"));
        wrapped.arg(format!("--ambient-caps={capabilities}"));
        wrapped.arg(command.get_program()).args(command.get_args());
        *command = wrapped;
    };
    let daemon = Daemon::start(&[&setting, "--user=65534"]);
    daemon.signal("KILL");
    daemon.wait_for_end();
    assert!(path.exists());
    let daemon = Daemon::start_with(&[&setting], |command| {
        as_user(command);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::piped());
    });
    client::get(&path, "/api/v1/anomalies").unwrap();
    assert!(daemon.stop().success());

    // The lock of a daemon that stayed root.
    let lock = path.with_extension("sock.lock");
    chown(&lock, Some(0), Some(0)).unwrap();
    let mut command = Command::new(observer());
    command.args(["run", "--listen=127.0.0.1:0", &setting]);
    as_user(&mut command);
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && error.contains("api.sock.lock belongs to another user"),
        "{error}"
    );
}

/// 5 accepted connections, of which one was reset and one closed; 3 that wait to be accepted; 2
/// refused attempts.
const PROGRAM: &str = r"
listener = listen(*FAMILIES[0], 7)
target = listener.getsockname()
clients = [connect(socket.AF_INET, target) for _ in range(5)]
servers = [listener.accept()[0] for _ in range(5)]
waiting = [connect(socket.AF_INET, target) for _ in range(3)]
wait(lambda: queued(listener) == 3)
reset(clients.pop())
assert outcome(lambda: servers[-1].recv(1)) == 'ECONNRESET'
servers.pop().close()
clients.pop().close()
assert servers[-1].recv(1) == b''
servers.pop().close()
holder = closed_port(*FAMILIES[0])
for _ in range(2):
    assert outcome(lambda: connect(socket.AF_INET, holder.getsockname())) == 'ECONNREFUSED'
print(target[1])
input()
";

/// What the last tick found.
pub(crate) fn processes(daemon: &Daemon) -> Value {
    let (status, body) = daemon.get("/api/v1/processes?limit=1000");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// The entry of a process, as of the last tick.
fn process(daemon: &Daemon, pid: u32) -> Option<Value> {
    let answer = processes(daemon);
    let processes = answer["processes"].as_array().unwrap();
    let entry = processes.iter().find(|it| it["pid"] == pid);
    entry.cloned()
}

/// The leaves of an object, by their path.
fn leaves(value: &Value) -> Vec<(Vec<String>, f64)> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| {
                leaves(value).into_iter().map(move |(mut path, number)| {
                    path.insert(0, key.clone());
                    (path, number)
                })
            })
            .collect(),
        number => vec![(Vec::new(), number.as_f64().unwrap())],
    }
}

/// Asserts that each counter of the entry is in `metrics`, and each of the process in the entry.
fn assert_same_counters(entry: &Value, metrics: &Metrics, pid: u32) {
    let counters = leaves(&entry["counters"]);
    for (path, value) in &counters {
        let [name, labels @ ..] = &path[..] else {
            panic!("{path:?}")
        };
        let name = format!("socket_{name}_total");
        let comm = entry["comm"].as_str().unwrap();
        let of_name = [("comm", comm)];
        let samples = metrics.select(&name, &of_name).filter(|sample| {
            // In the order of the labels' names, which is that of the path.
            let own = |label: &&String| !["comm", "unit"].contains(&label.as_str());
            let own = sample.labels.iter().filter(|(label, _)| own(label));
            own.map(|(_, value)| value).eq(labels)
        });
        let sum: f64 = samples.map(|sample| sample.value).sum();
        assert_eq!(sum, *value, "{path:?}\n{}", metrics.shown());
    }
    let pid = pid.to_string();
    for sample in &metrics.samples {
        let name = sample.name.strip_prefix("socket_process_");
        let name = name.and_then(|name| name.strip_suffix("_total"));
        let Some(name) = name.filter(|_| sample.labels.get("pid") == Some(&pid)) else {
            continue;
        };
        let known = counters.iter().any(|(path, _)| path[0] == *name);
        assert!(known, "{name} is missing in {entry}");
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn processes_have_what_metrics_and_ss_say() {
    let netns = Netns::new();
    let daemon = Daemon::shared();
    let mut program = netns.script(PROGRAM, &[]);
    let port: u16 = program.line().parse().unwrap();
    let pid = program.pid();
    crate::wait_until_resets_are_certain();
    // These come with the next reading of sockets and descriptors.
    let metrics = daemon.until("the backlog and the descriptors", |metrics| {
        let read = |name: &str| metrics.of(pid, name, &[]) > 0.0;
        let listen = !metrics.has_signal("listen") || read("socket_listen_backlog");
        let ports = !metrics.has_signal("ports") || read("socket_ephemeral_ports_used");
        listen && ports && read("socket_process_open_fds")
    });
    // Nothing happens any more, so this tick's are the same.
    daemon.scrape();
    let entry = process(&daemon, pid).expect("the process is there");
    println!("{entry}");

    assert_eq!(entry["comm"], program.comm());
    let connections = leaves(&entry["connections"]);
    for (state, ss) in [("ESTABLISHED", "established"), ("LISTEN", "listening")] {
        let live = connections.iter().find(|(path, _)| path[0] == *state);
        let live = live.map_or(0.0, |(_, live)| *live);
        assert_eq!(live, netns.ss(ss) as f64, "{state}");
        let labels = [("state", state)];
        metrics.assert_of(pid, "socket_connections", &labels, live);
    }
    assert_eq!(entry["time_wait"], netns.ss("time-wait"));
    let sockets: f64 = connections.iter().map(|(_, live)| live).sum();
    assert_eq!(entry["sockets"], sockets as u64);
    for (key, name) in [
        ("open_fds", "socket_process_open_fds"),
        ("max_fds", "socket_process_max_fds"),
    ] {
        assert_eq!(
            entry[key].as_f64(),
            Some(metrics.of(pid, name, &[])),
            "{key}"
        );
    }

    let counters = &entry["counters"];
    assert_eq!(counters["connects"]["ok"], 8);
    assert_eq!(counters["connects"]["ECONNREFUSED"], 2);
    assert_eq!(counters["accepts"], 5);
    if metrics.observes("reset_sent") {
        assert_eq!(counters["resets"]["sent"]["LINGER_ZERO"], 1);
    }
    assert_same_counters(&entry, &metrics, pid);

    if metrics.observes("listen") {
        let [listener] = &entry["listeners"].as_array().unwrap()[..] else {
            panic!("{entry}");
        };
        assert_eq!(listener["address"], format!("127.0.0.1:{port}"));
        assert_eq!(
            (&listener["backlog"], &listener["backlog_max"]),
            (&3.into(), &7.into())
        );
    }
    if metrics.observes("ports") {
        let to = format!("127.0.0.1:{port}");
        let ports = entry["ports"].as_array().unwrap();
        let ports = ports.iter().find(|it| it["destination"] == to).unwrap();
        let labels = [("destination", to.as_str())];
        let used = metrics.of(pid, "socket_ephemeral_ports_used", &labels);
        assert_eq!(ports["used"].as_f64(), Some(used));
        let available = metrics.sum("socket_ephemeral_ports_available", &[]);
        assert!(ports["available"].as_f64().unwrap() <= available);
    }
    program.go();
    program.end();
}
