//! Findings as metrics, in the log and over HTTP, about a program that has used up its descriptors.

use observer_test_support::{Daemon, Metrics, Netns};
use serde_json::Value;

/// Repeatedly opens sockets until descriptors run out, until it gets a line; then closes them.
const PROGRAM: &str = r"
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
sockets = []
exhausted = 0
while exhausted < 5 or not select.select([sys.stdin], [], [], 0.2)[0]:
    try:
        sockets.append(socket.socket())
    except OSError as error:
        assert error.errno == errno.EMFILE
        exhausted += 1
        if exhausted == 5:
            print('exhausted', flush=True)
input()
for one in sockets:
    one.close()
print('closed')
input()
";

const ANOMALY: (&str, &str) = ("anomaly", "fd_exhaustion");

/// Lines of the log about findings of a process.
fn lines(daemon: &Daemon, pid: u32) -> Vec<Value> {
    let log = daemon.log();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    lines
        .filter(|line: &Value| line["target"] == "observer::findings" && line["pid"] == pid)
        .filter(|line| line["anomaly"] == ANOMALY.1)
        .collect()
}

fn get(daemon: &Daemon, path: &str) -> Value {
    let (status, body) = daemon.get(path);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn exhausted_descriptors_are_found_and_said_everywhere() {
    let daemon = Daemon::start(&["--log-format=json"]);
    let netns = Netns::new();
    let mut program = netns.script(PROGRAM, &[]);
    program.expect("exhausted");
    let (pid, comm) = (program.pid(), program.comm());
    let text = pid.to_string();
    let level = |metrics: &Metrics| {
        let labels = [ANOMALY, ("pid", text.as_str()), ("comm", comm.as_str())];
        let of = metrics.select("socket_anomaly", &labels).next();
        of.map(|sample| sample.value)
    };
    let metrics = daemon.until("the finding", |metrics| level(metrics) == Some(2.0));
    // The last failed calls may have left the window, so the score may be below 1.
    let labels = [ANOMALY, ("pid", text.as_str())];
    assert_eq!(metrics.select("socket_anomaly_score", &labels).count(), 1);
    let total = |metrics: &Metrics| metrics.by(&comm, "socket_anomalies_total", &[ANOMALY]);
    assert_eq!(total(&metrics), 1.0);

    // It is written after the metrics have it.
    daemon.wait("the line", |daemon| !lines(daemon, pid).is_empty());
    let [line] = &lines(&daemon, pid)[..] else {
        panic!("{}", daemon.log());
    };
    println!("{line}");
    assert_eq!(line["level"], "ERROR");
    assert_eq!(line["change"], "raised");
    assert_eq!(line["evidence"]["limit"], 64);
    let message = line["message"].as_str().unwrap();
    let start = format!("fd_exhaustion raised: {comm} (pid {pid}");
    assert!(message.starts_with(&start), "{message}");
    for part in ["of 64 file descriptors", "EMFILE", "; cause: ", "; fix: "] {
        assert!(message.contains(part), "{message}");
    }

    let answer = get(&daemon, "/api/v1/anomalies");
    let of_program = |of: &Value| {
        let all = of.as_array().unwrap().iter();
        all.filter(|it| it["pid"] == pid && it["anomaly"] == "fd_exhaustion")
            .cloned()
            .collect::<Vec<_>>()
    };
    let [finding] = &of_program(&answer["findings"])[..] else {
        panic!("{answer}");
    };
    assert_eq!(finding["causes"][0]["hints"][0]["id"], "nofile");
    let processes = get(&daemon, "/api/v1/processes?limit=1000");
    let processes = processes["processes"].as_array().unwrap();
    let process = processes.iter().find(|it| it["pid"] == pid).unwrap();
    assert_eq!(of_program(&process["anomalies"]).len(), 1);

    program.go();
    program.expect("closed");
    let metrics = daemon.until("the end of the finding", |metrics| {
        level(metrics) == Some(0.0)
    });
    assert_eq!(total(&metrics), 1.0);
    let is_over = |line: &Value| line["change"] == "cleared";
    daemon.wait("the last line", |daemon| {
        lines(daemon, pid).last().is_some_and(is_over)
    });
    let lines = lines(&daemon, pid);
    let last = lines.last().unwrap();
    println!("{last}");
    assert_eq!(
        (&last["level"], &last["change"]),
        (&"INFO".into(), &"cleared".into())
    );
    let answer = get(&daemon, "/api/v1/anomalies");
    assert_eq!(of_program(&answer["findings"]).len(), 0);
    let changes = answer["changes"].as_array().unwrap().iter();
    let cleared = |it: &&Value| it["change"] == "cleared" && it["finding"]["pid"] == pid;
    assert_eq!(changes.filter(cleared).count(), 1);
    program.go();
    program.end();
}
