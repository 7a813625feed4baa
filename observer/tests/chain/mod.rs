//! The whole chain: faulty programs, the daemon, Prometheus and Alertmanager with the files of
//! deploy/prometheus, and a webhook that receives each alert, and its end.
//!
//! Within a minute or two with a few scenarios, for which `for` and `keep_firing_for` are shortened; with all
//! and with the files as they are by `cargo xtask chain`, which sets `OBSERVER_CHAIN`. With `OBSERVER_INSTALLED`,
//! everything is of an installed package, and what docs/operations.md says about an alert is done there.

mod documented;
mod hosts;
#[expect(dead_code, reason = "what findings must say is tested elsewhere")]
#[path = "../kernel/scenarios/table.rs"]
mod table;
mod webhook;

use std::{
    collections::BTreeSet,
    env, fs,
    fs::File,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use observer_test_support::{
    Daemon, Installed, Netns, PATIENCE, Program, http::get, left_out, needs_programs, python, run,
    shipped, spawn,
};
use serde_json::Value;

use crate::prometheus::{Prometheus, now};
use documented::{LEAK, assert_explained, follow_leak, is_of_leak, leak, runbook};
use table::{Of, SCENARIOS, Scenario};
use webhook::Webhook;

/// Runs this scenario alone, or with [`ALL`] all of them.
const ONLY: &str = "OBSERVER_CHAIN";
const ALL: &str = "all";
/// One scenario for each kind of alert that comes within seconds, also on a busy machine.
const SHORT: [&str; 9] = [
    "linger", "dead", "ports20", "stuck", "firstbyt", "handshak", "expired", "early46", "fastscan",
];
/// Its storm of RSTs lasts eleven seconds, and the alert waits for a minute.
const BRIEF: &str = "silence";
/// Timeouts until all alerts have fired, and until they have ended.
const PATIENCE_SHORT: Duration = Duration::from_secs(300);
const PATIENCE_LONG: Duration = Duration::from_secs(900);

/// The alert of each anomaly that a scenario provokes.
const ALERTS: [(&str, &str); 17] = [
    ("rst_storm", "ObserverRstStorm"),
    ("connect_failures", "ObserverConnectFailures"),
    ("port_exhaustion", "ObserverPortsRunOut"),
    ("time_wait_surge", "ObserverPortsRunOut"),
    ("fd_leak", "ObserverFdLeak"),
    ("fd_exhaustion", "ObserverFdExhausted"),
    ("close_wait_leak", "ObserverCloseWaitLeak"),
    ("listen_overflow", "ObserverListenOverflow"),
    ("silent_peers", "ObserverSilentPeers"),
    ("read_stall", "ObserverReadStall"),
    ("program_not_reading", "ObserverProgramNotReading"),
    ("tls_failures", "ObserverTlsFailures"),
    ("tls_stall", "ObserverTlsStall"),
    ("quic_0rtt_lost", "ObserverQuic0RttLost"),
    ("idle_pool_leak", "ObserverIdlePoolLeak"),
    ("time_wait_overflow", "ObserverTimeWaitOverflow"),
    ("syn_scan", "ObserverScan"),
];

/// Alerts, and those that they inhibit (deploy/prometheus/alertmanager.yml).
const INHIBITED: [(&str, &str); 2] = [
    ("ObserverPortsExhausted", "ObserverPortsRunOut"),
    ("ObserverFdExhausted", "ObserverFdLeak"),
];

/// Calls setsockopt() with a value that is out of range, connect() without a free port, and socket() without a
/// free descriptor.
const FAILURES: &str = r"
import resource
s = socket.socket()
for _ in range(5):
    assert outcome(lambda: s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 0)) == 'EINVAL'
listener = listen(*FAMILIES[0])
connections = []
while (end := outcome(lambda: connections.append(connect(socket.AF_INET, listener.getsockname())))) == 'ok':
    pass
assert end == 'EADDRNOTAVAIL', end
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (60, hard))
sockets = []
while outcome(lambda: sockets.append(socket.socket())) == 'ok':
    pass
print('done')
while not select.select([sys.stdin], [], [], 0.2)[0]:
    assert outcome(socket.socket) == 'EMFILE'
";

/// A file of the package.
fn read(path: &str) -> String {
    let path = shipped(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file of deploy.
fn deploy(path: &str) -> String {
    read(&format!("/usr/share/observer/{path}"))
}

/// Replaces what must be there.
fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "no {from:?} to replace");
    text.replace(from, to)
}

/// Prometheus, Alertmanager and a webhook, for one daemon.
struct Chain {
    prometheus: Prometheus,
    alertmanager: Child,
    alertmanager_address: SocketAddr,
    webhook: Webhook,
    _directory: tempfile::TempDir,
}

impl Chain {
    /// Starts all. If `is_short`, alerts are as fast as the scrapes, which come each second.
    fn start(target: SocketAddr, is_short: bool) -> Self {
        let webhook = Webhook::start();
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);

        let mut config = deploy("prometheus/alertmanager.yml");
        let url = format!("http://{}/", webhook.address);
        for (from, to) in [
            ("http://127.0.0.1:9095/", url.as_str()),
            ("group_wait: 30s", "group_wait: 1s"),
            ("group_interval: 5m", "group_interval: 2s"),
        ] {
            config = replaced(&config, from, to);
        }
        fs::write(at("alertmanager.yml"), config).unwrap();
        // It does not print its port.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let mut command = documented::alertmanager(&at("alertmanager.yml"), &at("alertmanager"));
        command
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(at("alertmanager.log")).unwrap());
        let alertmanager = spawn(&mut command).expect("alertmanager can be started");
        let started = Instant::now();
        while !get(address, "/-/ready").is_ok_and(|reply| reply.status == 200) {
            assert!(
                started.elapsed() < PATIENCE,
                "alertmanager does not start:\n{}",
                fs::read_to_string(at("alertmanager.log")).unwrap()
            );
            thread::sleep(Duration::from_millis(50));
        }
        Self {
            prometheus: prometheus(target, address, is_short),
            alertmanager,
            alertmanager_address: address,
            webhook,
            _directory: directory,
        }
    }

    /// Asks everything that the dashboards ask, of the time since `start`: there must be an answer, except about
    /// metrics whose names begin as in `absent`.
    fn assert_dashboards(&self, start: f64, absent: &[&str]) {
        let mut without = Vec::new();
        let mut count = 0;
        let is_asked = |query: &String| !absent.iter().any(|name| query.contains(name));
        for query in dashboard_queries().into_iter().filter(is_asked) {
            count += 1;
            let end = now();
            if self.prometheus.query_range(&query, start, end).is_empty() {
                without.push(query);
            }
        }
        println!("{count} queries of dashboards");
        assert!(count > 50, "the dashboards are not where they were");
        assert!(without.is_empty(), "no series: {without:#?}");
    }

    /// Waits until `condition` holds for the notifications of the webhook.
    fn wait(&self, what: &str, patience: Duration, condition: impl Fn(&webhook::Told) -> bool) {
        let started = Instant::now();
        loop {
            let told = self.webhook.told();
            if condition(&told) {
                println!("{what}: {} s", started.elapsed().as_secs());
                return;
            }
            assert!(
                started.elapsed() < patience,
                "waited in vain for {what}:\n{:#?}\n{:#?}",
                told.groups,
                told.fired.keys()
            );
            drop(told);
            thread::sleep(Duration::from_millis(250));
        }
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        let _ = self.alertmanager.kill();
        let _ = self.alertmanager.wait();
    }
}

/// Prometheus with the shipped files, which scrapes `target` each second.
fn prometheus(target: SocketAddr, alertmanager: SocketAddr, is_short: bool) -> Prometheus {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let mut config = deploy("prometheus/prometheus.yml");
    for (from, to) in [
        ("interval: 15s", "interval: 1s"),
        ("127.0.0.1:9963", &target.to_string()),
        ("127.0.0.1:9093", &alertmanager.to_string()),
    ] {
        config = replaced(&config, from, to);
    }
    fs::write(at("prometheus.yml"), config).unwrap();
    fs::create_dir(at("rules")).unwrap();
    let recording = deploy("prometheus/rules/observer-recording.yml");
    fs::write(at("rules/observer-recording.yml"), recording).unwrap();
    let mut alerts = deploy("prometheus/rules/observer-alerts.yml");
    if is_short {
        for (from, to) in [
            (" for: 1m", " for: 2s"),
            (" for: 5m", " for: 5s"),
            ("keep_firing_for: 3m", "keep_firing_for: 5s"),
        ] {
            alerts = replaced(&alerts, from, to);
        }
    }
    fs::write(at("rules/observer-alerts.yml"), alerts).unwrap();

    // That it has been watched for hours, and no setsockopt() call failed.
    let mut history = String::new();
    let end = now() as u64 - 3600;
    let times = || (end - 2 * 3600..end).step_by(60);
    for time in times() {
        history +=
            &format!("observer_build_info{{instance=\"{target}\",job=\"observer\"}} 1 {time}\n");
    }
    for time in times() {
        history += &format!("comm:socket_setsockopt_failures:count 0 {time}\n");
    }
    fs::write(at("history"), history + "# EOF\n").unwrap();
    let [history, data] = ["history", "data"].map(|name| at(name).display().to_string());
    run(
        "promtool",
        &["tsdb", "create-blocks-from", "openmetrics", &history, &data],
    );
    let command = documented::prometheus(&at("prometheus.yml"), &at("data"));
    Prometheus::run(command, directory)
}

/// A query for the values of a variable: `label_values(metric{...}, label)`.
fn values_query(definition: &str) -> Option<String> {
    let inner = definition
        .strip_prefix("label_values(")?
        .strip_suffix(')')?;
    let (selector, label) = inner.rsplit_once(", ")?;
    // Series without the label would give no value to choose. Only units may be empty: where systemd does not run.
    let with_value = match label {
        "unit" => selector.to_owned(),
        _ => selector.replacen('{', &format!("{{{label}!=\"\","), 1),
    };
    Some(format!("group by ({label}) ({with_value})"))
}

/// The queries of all panels, annotations and variables, for all hosts, names and processes.
fn dashboard_queries() -> Vec<String> {
    fn collect(value: &Value, queries: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                let text = |name| fields.get(name).and_then(Value::as_str);
                let values = text("definition").map(|it| values_query(it).expect(it));
                if let Some(query) = text("expr").map(str::to_owned).or(values) {
                    let mut query = query.replace("$__rate_interval", "10s");
                    for variable in ["host", "unit", "comm", "pid"] {
                        query = query.replace(&format!("${variable}"), ".*");
                    }
                    assert!(!query.contains('$'), "a variable that nobody sets: {query}");
                    queries.push(query);
                }
                fields.values().for_each(|it| collect(it, queries));
            }
            Value::Array(items) => items.iter().for_each(|it| collect(it, queries)),
            _ => {}
        }
    }
    let mut queries = Vec::new();
    for file in
        fs::read_dir(shipped("/usr/share/observer/grafana/dashboards")).expect("the dashboards")
    {
        let text = fs::read_to_string(file.expect("a file").path()).expect("it can be read");
        let dashboard = serde_json::from_str(&text).expect("JSON");
        collect(&dashboard, &mut queries);
    }
    queries
}

/// A scenario that runs until the webhook received its alert.
struct Run {
    scenario: &'static Scenario,
    _netns: Netns,
    program: Option<Program>,
}

impl Run {
    fn start(scenario: &'static Scenario, directory: &Path) -> Self {
        let (netns, program) = scenario.start(directory);
        Self {
            scenario,
            _netns: netns,
            program: Some(program),
        }
    }

    /// Whether an alert is the one that must come.
    fn is_expected(&self, alert: &Value) -> bool {
        let Scenario { name, expected, .. } = self.scenario;
        let Some(expected) = expected else {
            return false;
        };
        let labels = &alert["labels"];
        let role = match expected.of {
            Of::Process(role)
            | Of::Name(role)
            | Of::Destination(role)
            | Of::Bound(role)
            | Of::Listener(role) => role,
            Of::Source(_) | Of::Namespace => {
                return is_alert_of(alert, expected.anomaly) && labels["comm"].is_null();
            }
        };
        is_alert_of(alert, expected.anomaly) && labels["comm"] == format!("{name}-{role}")
    }

    /// Whether a further alert is allowed: other findings of the scenario, and their consequences.
    fn is_allowed(&self, alert: &Value) -> bool {
        let Scenario { name, expected, .. } = self.scenario;
        let labels = &alert["labels"];
        let name_of = |role: &str| labels["comm"] == format!("{name}-{role}");
        let leads_to = |from: &str, to: &str| {
            expected.is_some_and(|it| it.anomaly == from) && labels["alertname"] == to
        };
        let mut also = expected.iter().flat_map(|it| it.also);
        self.is_expected(alert)
            || also.any(|(anomaly, role, _)| {
                is_alert_of(alert, anomaly) && name_of(role)
            })
            // Programs of scenarios that end with open connections.
            || name_of("client") && leads_to("listen_overflow", "ObserverConnectFailures")
    }
}

/// Whether an alert is that of an anomaly, or the one that inhibits it once it is too late.
fn is_alert_of(alert: &Value, anomaly: &str) -> bool {
    let alertname = alert["labels"]["alertname"].as_str().expect("a name");
    let (_, name) = ALERTS
        .iter()
        .find(|(of, _)| *of == anomaly)
        .expect("each anomaly has an alert");
    alertname == *name || INHIBITED.contains(&(alertname, name))
}

/// Assertions on every notification.
fn assert_complete(alert: &Value, target: SocketAddr) {
    let labels = &alert["labels"];
    assert_eq!(labels["instance"], target.to_string(), "{alert}");
    assert_eq!(labels["job"], "observer", "{alert}");
    assert!(labels["pid"].is_null(), "{alert}");
    let annotations = &alert["annotations"];
    runbook(alert);
    for name in ["summary", "description"] {
        let text = annotations[name].as_str().expect("a text");
        assert!(
            !text.contains("<no value>") && !text.contains("<error"),
            "{text}"
        );
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn alerts_are_told_and_end() {
    needs_programs!(
        "prometheus",
        "promtool",
        "prometheus-alertmanager",
        "amtool",
        "gccgo",
        "node",
        "nmap"
    );
    let only = env::var(ONLY).ok();
    let wanted = |it: &&Scenario| match only.as_deref() {
        None => SHORT.contains(&it.name),
        Some(ALL) => true,
        Some(name) => it.name == name,
    };
    let mut scenarios: Vec<_> = SCENARIOS.iter().filter(wanted).collect();
    assert!(!scenarios.is_empty(), "there is no such scenario");
    let (is_short, patience) = if only.is_none() {
        (true, PATIENCE_SHORT)
    } else {
        (false, PATIENCE_LONG)
    };
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("observer.sock");
    let daemon = match Installed::from_env() {
        Some(installed) => Daemon::start_installed(&installed),
        None => Daemon::start(&[
            "--tick-interval=1s",
            "--fd-interval=15s",
            "--resync-interval=1m",
            "--reconcile-interval=1m",
            &format!("--api-socket={}", socket.display()),
        ]),
    };
    // It takes longest.
    let mut leaking = Some(leak());
    let metrics = daemon.scrape();
    scenarios.retain(|it| {
        let obstacle = it.obstacle(|signal| metrics.has_signal(signal));
        if let Some(why) = &obstacle {
            left_out!("{}: {why}", it.name);
        }
        obstacle.is_none()
    });
    let target = daemon.address;
    let chain = Chain::start(target, is_short);
    let start = |scenario| Run::start(scenario, directory.path());
    let mut runs: Vec<_> = scenarios.into_iter().map(start).collect();
    let netns = Netns::new();
    netns.sysctl("net.ipv4.ip_local_port_range", "20000 20009");
    let start = now();
    let mut failing = netns.script(FAILURES, &[]);
    failing.expect("done");

    let began = Instant::now();
    while runs.iter().any(|run| run.program.is_some()) {
        thread::sleep(Duration::from_millis(250));
        let told = chain.webhook.told().fired.clone();
        for run in &mut runs {
            let alert = told.values().find(|it| run.is_expected(it));
            let is_told = match run.scenario.expected {
                Some(_) if is_short || run.scenario.name != BRIEF => alert.is_some(),
                // Nothing need come.
                _ => began.elapsed() > PATIENCE,
            };
            if is_told && run.program.is_some() {
                // Scans have no process.
                if let Some(alert) = alert.filter(|it| it["labels"]["comm"].is_string()) {
                    assert_explained(alert, &daemon, &socket);
                }
                run.program = None;
                let seconds = began.elapsed().as_secs();
                println!("{}: told after {seconds} s", run.scenario.name);
            }
        }
        // It would run out of descriptors, which is another alert.
        let is_told = |name: &&str| told.values().any(|it| is_of_leak(it, &[name]));
        if leaking.is_some() && LEAK.iter().all(is_told) {
            follow_leak(&chain, patience, &daemon, &socket);
            leaking = None;
        }
        if began.elapsed() > patience {
            let still = runs.iter().filter(|run| run.program.is_some());
            let names: Vec<_> = still.map(|run| run.scenario.name).collect();
            panic!(
                "no alert of {names:?}: {:#?}",
                chain.webhook.told().fired.keys()
            );
        }
    }
    if leaking.is_some() {
        follow_leak(&chain, patience, &daemon, &socket);
    }
    drop(leaking);
    let comm = failing.comm();
    let is_of_setsockopt = |it: &Value| {
        let labels = &it["labels"];
        labels["alertname"] == "ObserverSetsockoptFails"
            && labels["comm"] == comm
            && labels["option"] == "TCP_KEEPIDLE"
            && labels["errno"] == "EINVAL"
    };
    let is_of_descriptors = |it: &Value| {
        let labels = &it["labels"];
        labels["alertname"] == "ObserverFdExhausted" && labels["comm"] == comm
    };
    chain.wait("the alerts of setsockopt() and EMFILE", patience, |told| {
        told.fired.values().any(is_of_setsockopt) && told.fired.values().any(is_of_descriptors)
    });
    if only.as_deref().is_none_or(|it| it == ALL) {
        let has = [
            ("socket_tls_", metrics.has_signal("tls")),
            // Left out where its programs cannot be built.
            (
                "socket_quic_",
                runs.iter().any(|it| it.scenario.name == "early46"),
            ),
            // Nothing is missing on most hosts.
            (
                "observer_signal_missing",
                metrics.has("observer_signal_missing", &[]),
            ),
        ];
        let absent = has.into_iter().filter(|(_, is_there)| !is_there);
        let absent: Vec<_> = absent.map(|(names, _)| names).collect();
        chain.assert_dashboards(start, &absent);
    }
    failing.end();
    // It goes on for an hour.
    let is_over = |(labels, status): (&String, &String)| {
        status == "resolved" || labels.contains("ObserverSetsockoptFails")
    };
    chain.wait("the end of all others", patience, |told| {
        told.groups.iter().all(is_over)
    });
    let told_gone = |told: &webhook::Told| -> BTreeSet<String> {
        let fired = told.fired.values();
        let gone = fired.filter(|it| it["labels"]["alertname"] == "ObserverDown");
        gone.map(|it| it["startsAt"].to_string()).collect()
    };
    // Scrapes may have failed on a busy machine.
    let before = told_gone(&chain.webhook.told());
    let is_told_gone = |told: &webhook::Told| !told_gone(told).is_subset(&before);
    drop(daemon);
    chain.wait("the alert that the daemon is gone", patience, is_told_gone);

    let told = chain.webhook.told();
    for alert in told.fired.values() {
        println!(
            "{} {}: {}",
            alert["labels"]["alertname"],
            alert["labels"]["severity"],
            alert["annotations"]["description"]
        );
        assert_complete(alert, target);
        let name = &alert["labels"]["alertname"];
        let known = runs.iter().any(|run| run.is_allowed(alert))
            || is_of_setsockopt(alert)
            // quic-go sets the options of both families on each socket.
            || alert["labels"]["level"] == "SOL_IPV6" && alert["labels"]["family"] == "inet"
            || is_of_descriptors(alert)
            || is_of_leak(alert, &LEAK)
            || alert["labels"]["comm"] == comm && name == "ObserverPortsExhausted"
            || alert["labels"]["comm"] == comm && name == "ObserverPortsRunOut"
            || name == "ObserverDown";
        assert!(known, "nothing is wrong there: {alert:#}");
    }
    drop(told);
    if only.is_some_and(|it| it == ALL) {
        drop(chain);
        nothing_is_told_where_nothing_is_wrong();
    }
}

/// For real programs with which nothing is wrong, a minute long.
fn nothing_is_told_where_nothing_is_wrong() {
    let daemon = Daemon::start(&["--tick-interval=1s", "--fd-interval=15s"]);
    let chain = Chain::start(daemon.address, true);
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut programs = Vec::new();
    for file in fs::read_dir(tests.join("benign")).expect("the programs") {
        let file = file.expect("a file").file_name();
        if file != "load.py" {
            let mut command = Command::new("python3");
            python(&mut command, &Path::new("benign").join(file)).args(["--seconds", "60"]);
            programs.push(Program::spawn(&mut command));
        }
    }
    for program in &mut programs {
        program.line_within(PATIENCE + PATIENCE);
    }
    let told = chain.webhook.told();
    // They are new here, and a browser tries options that do not exist.
    let mut fired = told.fired.values();
    let wrong: Vec<_> = fired
        .by_ref()
        .filter(|it| it["labels"]["alertname"] != "ObserverSetsockoptFails")
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    println!("{} programs with which nothing is wrong", programs.len());
    drop(told);
    for program in programs {
        program.end();
    }
}
