//! Real programs with which nothing is wrong, all at once against one daemon with its default settings: nothing
//! may be found. They run for `OBSERVER_BENIGN_SECONDS`.

use std::{
    collections::BTreeMap,
    env, fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use observer_test_support::{Daemon, PATIENCE, Program};
use serde::Deserialize;
use serde_json::Value;

/// What a program prints when it has done its work.
#[derive(Deserialize)]
struct Report {
    /// What was done, and the least of it.
    work: BTreeMap<String, (f64, f64)>,
    /// Name, metric, labels, and the least that it has.
    seen: Vec<(String, String, BTreeMap<String, String>, f64)>,
}

/// All programs, by name.
fn programs(seconds: u64) -> Vec<(String, Program)> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let files = fs::read_dir(tests.join("benign")).expect("the programs");
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    files.retain(|file| file.file_name().is_some_and(|name| name != "load.py"));
    files.sort();
    let start = |file: &Path| {
        let mut command = Command::new("python3");
        command.arg("-B").arg(file);
        command.args(["--seconds", &seconds.to_string()]);
        command.env("PYTHONPATH", tests.join("field"));
        let name = file.file_stem().expect("a name").to_string_lossy();
        (name.into_owned(), Program::spawn(&mut command))
    };
    files.iter().map(|file| start(file)).collect()
}

fn anomalies(daemon: &Daemon) -> Value {
    let (status, body) = daemon.get("/api/v1/anomalies?limit=1000");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// The summaries of all changes.
fn changes(daemon: &Daemon) -> Vec<String> {
    let answer = anomalies(daemon);
    let changes = answer["changes"].as_array().expect("changes").iter();
    changes.map(|it| it["summary"].to_string()).collect()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn nothing_is_found() {
    needs_programs!(
        "nginx",
        "redis-server",
        "gunicorn",
        "chromium-headless-shell",
        "ab",
        "wrk",
        "git",
        "curl"
    );
    let seconds = env::var("OBSERVER_BENIGN_SECONDS").map_or(60, |it| it.parse().unwrap());
    let intervals = [
        "--tick-interval=1s",
        "--fd-interval=15s",
        "--resync-interval=30s",
        "--reconcile-interval=30s",
    ];
    let daemon = Daemon::start(&intervals);
    let started = Instant::now();
    let mut programs = programs(seconds);
    let reports: Vec<_> = programs
        .iter_mut()
        .map(|(name, program)| {
            let end = Duration::from_secs(seconds).saturating_sub(started.elapsed());
            let line = program.line_within(end + PATIENCE);
            let report: Report = serde_json::from_str(&line).expect("a report");
            println!("{name}: {:?}", report.work);
            (name.clone(), report)
        })
        .collect();
    let metrics = daemon.scrape();
    let changes = changes(&daemon);
    assert!(changes.is_empty(), "{changes:#?}\n{}", anomalies(&daemon));
    for (program, report) in reports {
        for (what, (done, least)) in report.work {
            assert!(done >= least, "{program}: {what} {done}, not {least}");
        }
        for (comm, metric, labels, least) in report.seen {
            let labels: Vec<_> = labels
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .collect();
            let seen = metrics.by(&comm, &metric, &labels);
            assert!(
                seen >= least,
                "{program}: {comm} {metric}{labels:?} {seen}, not {least}"
            );
        }
    }
    let detect = metrics.sum("observer_job_seconds_total", &[("task", "detect")]);
    println!(
        "detect: {:.3} % of a CPU",
        100.0 * detect / started.elapsed().as_secs_f64()
    );
    for (_, program) in programs {
        program.end();
    }
}
