//! Faults of real programs are found: in time, with the responsible process and the cause. The
//! scenarios run at once, against one daemon with default intervals.

mod table;

use std::{
    collections::BTreeSet,
    env,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use observer_test_support::{Daemon, Netns, Program};
use serde_json::Value;

use crate::{
    real_programs::{news, write_table},
    tls,
};

use table::{Expected, FirstError, Of, SCENARIOS, Scenario};

/// For all of them, and with those that take minutes.
const PATIENCE: [Duration; 2] = [Duration::from_secs(150), Duration::from_secs(400)];
/// For unexpected findings.
const AFTERWARDS: Duration = Duration::from_secs(5);
/// Relative error of the time left.
const TOLERANCE: f64 = 0.25;
/// Set if other programs need the processors, such as guests that run in parallel: a finding may then take longer by this
/// factor.
const IS_BUSY: &str = "OBSERVER_TEST_BUSY";
const BUSY: f64 = 4.0;
/// Error in seconds that it may have all the same: walks and ticks come late.
const LATE: f64 = 2.0;
/// Factor of both where other programs need the processors: a client that searches for a port for milliseconds is as fast
/// as it gets one.
const UNSTEADY: f64 = 2.0;
/// Runs this scenario alone, or with [`ALL`] those that take minutes, too.
const ONLY: &str = "OBSERVER_SCENARIO";
const ALL: &str = "all";

/// A finding when it was raised.
struct Raised {
    /// CLOCK_MONOTONIC in seconds.
    at: f64,
    finding: Value,
}

/// A scenario that runs.
struct Run {
    scenario: &'static Scenario,
    netns: Netns,
    /// Ended when there is no more to see.
    program: Option<Program>,
    /// CLOCK_MONOTONIC of the program's lines, in seconds.
    start: Option<f64>,
    error: Option<f64>,
    end: Option<f64>,
    raised: Vec<Raised>,
    complete_since: Option<Instant>,
}

impl Run {
    fn start(scenario: &'static Scenario, directory: &Path) -> Self {
        let (netns, program) = scenario.start(directory);
        Self {
            scenario,
            netns,
            program: Some(program),
            start: None,
            error: None,
            end: None,
            raised: Vec::new(),
            complete_since: None,
        }
    }

    /// Adds the program's output and new findings.
    fn look(&mut self, changes: &[Value]) {
        let Some(program) = &mut self.program else {
            return;
        };
        for line in program.printed() {
            let time = |word| line.strip_prefix(word)?.trim().parse().ok();
            self.start = self.start.or_else(|| time("start"));
            self.error = self.error.or_else(|| time("error"));
            self.end = self.end.or_else(|| time("end"));
        }
        for change in changes {
            if change["change"] == "raised" && self.is_of_this(&change["finding"]) {
                self.raised.push(Raised {
                    at: change["at_monotonic_seconds"].as_f64().expect("a time"),
                    finding: change["finding"].clone(),
                });
            }
        }
        let complete = match self.scenario.expected {
            Some(expected) => {
                let error = expected.first_error == FirstError::None || self.error.is_some();
                error && self.found().is_some()
            }
            None => self.end.is_some(),
        };
        if complete {
            let since = self.complete_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= AFTERWARDS {
                self.program = None;
            }
        }
    }

    fn is_of_this(&self, finding: &Value) -> bool {
        let comm = finding["comm"].as_str().unwrap_or_default();
        let netns = finding["subject"]["netns"].to_string();
        comm.starts_with(&format!("{}-", self.scenario.name)) || netns == self.netns.inode()
    }

    /// Whether a finding is of the right kind and blames the right process.
    fn is_expected(&self, finding: &Value) -> bool {
        let Scenario { name, expected, .. } = self.scenario;
        let subject = &finding["subject"];
        let blames = |kind: &str, role: &str| {
            subject["kind"] == kind && finding["comm"] == format!("{name}-{role}")
        };
        expected.is_some_and(|expected| {
            finding["anomaly"] == expected.anomaly
                && match expected.of {
                    Of::Process(role) => blames("process", role),
                    Of::Name(role) => blames("name", role),
                    Of::Destination(role) => blames("destination", role),
                    Of::Bound(role) => blames("namespace", role),
                    Of::Namespace => subject["kind"] == "namespace" && finding["comm"].is_null(),
                    Of::Listener(role) => blames("listener", role),
                    Of::Source(address) => {
                        subject["address"] == address && finding["comm"].is_null()
                    }
                }
        })
    }

    fn is_allowed(&self, finding: &Value) -> bool {
        let Scenario { name, expected, .. } = self.scenario;
        let mut also = expected.iter().flat_map(|it| it.also);
        also.any(|(anomaly, role, cause)| {
            finding["anomaly"] == *anomaly
                && finding["comm"] == format!("{name}-{role}")
                && finding["causes"][0]["id"] == *cause
        })
    }

    /// The finding that was expected.
    fn found(&self) -> Option<&Raised> {
        let mut raised = self.raised.iter();
        raised.find(|it| self.is_expected(&it.finding))
    }

    /// Seconds to detect.
    fn seconds(&self) -> Option<f64> {
        Some(self.found()?.at - self.start?)
    }

    /// Seconds from the finding to the first error.
    fn lead(&self) -> Option<f64> {
        Some(self.error? - self.found()?.at)
    }

    /// What the log lacks of the finding: its line says who is to blame and what to do.
    fn missing_in_log(&self, expected: &Expected, finding: &Value, log: &[Value]) -> Vec<String> {
        let text = |value: &'_ Value| value.as_str().unwrap_or_default().to_owned();
        let summary = text(&finding["summary"]);
        let is_of_it = |line: &&Value| {
            line["change"] == "raised"
                && ["anomaly", "subject"]
                    .iter()
                    .all(|it| line[it] == finding[it])
                && text(&line["message"]).ends_with(&summary)
        };
        let Some(line) = log.iter().find(is_of_it) else {
            return vec![format!("no line in the log: {summary}")];
        };
        let mut wrong = Vec::new();
        let message = text(&line["message"]);
        let mut lacks = |what: &str| wrong.push(format!("{what} is not in the log: {message}"));
        let ids = |field: &str, id: &str| {
            let all = line[field].as_array();
            all.is_some_and(|all| all.iter().any(|it| it == id))
        };
        if !ids("hints", expected.hint) {
            lacks(expected.hint);
        }
        if !ids("causes", expected.cause) {
            lacks(expected.cause);
        }
        if !message.contains("; fix: ") {
            lacks("a fix");
        }
        wrong
    }

    /// The expected finding.
    fn differences(&self, expected: &Expected, finding: &Value, log: &[Value]) -> Vec<String> {
        let mut wrong = self.missing_in_log(expected, finding, log);
        let busy = |factor: f64| env::var_os(IS_BUSY).map_or(1.0, |_| factor);
        let within = busy(BUSY) * expected.within;
        let cause = &finding["causes"][0];
        if cause["id"] != expected.cause {
            wrong.push(format!("cause {}, not {}", cause["id"], expected.cause));
        }
        let hint = cause["hints"][0]["id"].as_str();
        if hint != Some(expected.hint) {
            wrong.push(format!("hint {hint:?}, not {}", expected.hint));
        }
        let named = peers(&finding["evidence"]);
        if !expected.peers.is_empty() && named != expected.peers {
            wrong.push(format!("peers {named:?}, not {:?}", expected.peers));
        }
        match self.seconds() {
            None => wrong.push("its program does not start".to_owned()),
            Some(seconds) if seconds > within => {
                wrong.push(format!("found after {seconds:.1} s, not within {within} s"));
            }
            Some(_) => {}
        }
        if expected.first_error == FirstError::None {
            return wrong;
        }
        let Some(lead) = self.lead() else {
            wrong.push("no error came".to_owned());
            return wrong;
        };
        if lead <= 0.0 {
            wrong.push(format!("found {:.1} s after the first error", -lead));
        }
        if expected.first_error == FirstError::Foretold {
            let left = finding["time_left_seconds"].as_f64().unwrap_or(f64::NAN);
            let tolerance = busy(UNSTEADY) * (TOLERANCE * lead).max(LATE);
            if (left - lead).abs() > tolerance || left.is_nan() {
                wrong.push(format!("time left {left:.1} s, and it was {lead:.1} s"));
            }
        }
        wrong
    }

    /// Differences from the expectation.
    fn wrong(&self, log: &[Value]) -> Vec<String> {
        let mut wrong = match (&self.scenario.expected, self.found()) {
            (None, _) if self.end.is_none() => vec!["its program did not end".to_owned()],
            (None, _) => Vec::new(),
            (Some(expected), None) => {
                vec![format!("no {} of {:?}", expected.anomaly, expected.of)]
            }
            (Some(expected), Some(found)) => self.differences(expected, &found.finding, log),
        };
        for Raised { finding, .. } in &self.raised {
            if !self.is_expected(finding) && !self.is_allowed(finding) {
                wrong.push(format!("also found: {}", finding["summary"]));
            }
            let [comm, summary] = ["comm", "summary"].map(|it| finding[it].as_str());
            if !summary
                .unwrap_or_default()
                .contains(comm.unwrap_or_default())
            {
                wrong.push(format!("{comm:?} is not in {summary:?}"));
            }
        }
        wrong
    }
}

/// The peers that evidence names, as in [`Expected::peers`] and in that order.
fn peers(evidence: &Value) -> Vec<String> {
    let lists = ["peers", "waiting_peers"].map(|key| evidence[key].as_array());
    let all = lists.into_iter().flatten().flatten().map(|peer| {
        let (address, port) = (peer["address"].as_str().unwrap_or_default(), &peer["port"]);
        match peer["is_client"] == true {
            true => format!("client {address} of {port}"),
            false => format!("{address}:{port}"),
        }
    });
    let all: BTreeSet<_> = all.collect();
    all.into_iter().collect()
}

/// A row of the table in docs/detectors.md.
fn row(run: &Run) -> String {
    let Scenario { what, expected, .. } = run.scenario;
    let Some(expected) = expected else {
        return format!("| {what} | | | | |");
    };
    let seconds = |time: Option<f64>| time.map_or_else(String::new, |it| format!("{it:.0}"));
    let lead = run
        .lead()
        .filter(|_| expected.first_error != FirstError::None);
    format!(
        "| {what} | `{}` | `{}` | {} | {} |",
        expected.anomaly,
        expected.cause,
        seconds(run.seconds()),
        seconds(lead),
    )
}

const HEAD: &str = "| scenario | anomaly | cause | detected after s | before the first error by s |
|---|---|---|---|---|
";

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn what_programs_do_wrong_is_found() {
    let only = env::var(ONLY).ok();
    let wanted = |it: &&Scenario| match only.as_deref() {
        None => !it.is_slow,
        Some(ALL) => true,
        Some(name) => it.name == name,
    };
    let mut scenarios: Vec<_> = SCENARIOS.iter().filter(wanted).collect();
    let patience = PATIENCE[usize::from(scenarios.iter().any(|it| it.is_slow))];
    let names: Vec<_> = SCENARIOS.iter().map(|it| it.name).collect();
    assert!(!scenarios.is_empty(), "not one of {names:?}");
    let daemon = Daemon::start(&[
        "--tick-interval=1s",
        "--fd-interval=15s",
        "--resync-interval=1m",
        "--reconcile-interval=1m",
        "--log-format=json",
    ]);
    let netns = Netns::new();
    let metrics = daemon.scrape();
    scenarios.retain(|it| {
        let obstacle = it.obstacle(|signal| metrics.has_signal(signal));
        if let Some(why) = &obstacle {
            left_out!("{}: {why}", it.name);
        }
        obstacle.is_none()
    });
    // From then on, programs with the system's library are observed from their first call on.
    let mut has_tls = netns.script(
        "import ssl\nkept = listen(*FAMILIES[0])\nprint('ready')\ninput()",
        &[],
    );
    has_tls.expect("ready");
    if scenarios.iter().any(|it| it.needs == "tls") {
        tls::probed(&daemon, has_tls.pid(), "libssl");
    }
    has_tls.end();
    let directory = tempfile::tempdir().expect("a directory");
    // The rate of a client that searches for ports for milliseconds depends on what else runs, so a fast one has the machine
    // for itself.
    let (alone, together): (Vec<_>, Vec<_>) = scenarios
        .into_iter()
        .partition(|it| it.is_slow && it.is_foretold());
    let alone = alone.into_iter().map(|it| vec![it]);
    let mut runs: Vec<Run> = Vec::new();
    let began = Instant::now();
    let mut seen = 0.0;
    for at_once in std::iter::once(together).chain(alone) {
        let start = |scenario| Run::start(scenario, directory.path());
        runs.extend(at_once.into_iter().map(start));
        let began = Instant::now();
        while runs.iter().any(|run| run.program.is_some()) && began.elapsed() < patience {
            thread::sleep(Duration::from_millis(250));
            let changes = news(&daemon, &mut seen);
            for run in &mut runs {
                run.look(&changes);
            }
        }
        for run in &mut runs {
            run.program = None;
        }
    }
    let took = began.elapsed().as_secs();
    let metrics = daemon.scrape();
    let log = daemon.log();
    let log = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let log: Vec<Value> = log.collect();
    let mut rows = String::new();
    let mut wrong = String::new();
    for run in &runs {
        rows += &row(run);
        rows.push('\n');
        for what in run.wrong(&log) {
            wrong += &format!("{}: {what}\n", run.scenario.name);
        }
        // Nothing is found, either, where nothing was observed.
        if run.scenario.is_coped_with() {
            let client = format!("{}-client", run.scenario.name);
            let rejected = metrics.by(&client, "socket_quic_0rtt_rejections_total", &[]);
            if rejected < 5.0 {
                wrong += &format!("{client}: {rejected} rejections were counted\n");
            }
        }
        for raised in &run.raised {
            println!("{}: {}", run.scenario.name, raised.finding["summary"]);
        }
    }
    println!("\n{HEAD}{rows}\n{} scenarios took {took} s", runs.len());
    assert!(wrong.is_empty(), "\n{wrong}");
    if env::var_os("OBSERVER_UPDATE_DOCS").is_some() {
        let table = format!("{HEAD}{rows}");
        write_table("cargo xtask scenario --write-table", &table);
    }
}
