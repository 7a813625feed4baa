//! Real programs without faults, all at once against one daemon with default settings: no finding
//! may be raised. They run for `OBSERVER_BENIGN_SECONDS`.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use observer_core::detect::duration;
use observer_test_support::{Daemon, PATIENCE, Program, python};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    cgroups::Cgroups,
    real_programs::{news, write_table},
};

/// Interval of reading the findings, and of printing them in long runs.
const LOOK: Duration = Duration::from_secs(60);

/// The last line of a program.
#[derive(Deserialize)]
struct Report {
    /// Counts of the work, and their minimum.
    work: BTreeMap<String, (f64, f64)>,
    /// Name, metric, labels, and the least that it has.
    seen: Vec<(String, String, BTreeMap<String, String>, f64)>,
}

/// A running program, with its children in its own cgroup and network namespace.
struct Benign {
    name: String,
    unit: String,
    program: Program,
    /// Findings about it.
    alarms: Vec<String>,
}

impl Benign {
    fn start(file: &Path, seconds: u64, cgroups: &mut Cgroups) -> Self {
        let name = file.file_stem().expect("a name").to_string_lossy();
        let unit = format!("observer-benign-{name}.service");
        let cgroup = cgroups.make(&format!("system.slice/{unit}"));
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec python3 \"$@\""]);
        command.arg(cgroup.join("cgroup.procs"));
        python(&mut command, file).args(["--seconds", &seconds.to_string()]);
        Self {
            program: Program::spawn(&mut command),
            name: name.into_owned(),
            unit,
            alarms: Vec::new(),
        }
    }

    /// Whether a finding is about it. Other programs of the host may be found as well.
    fn has(&self, finding: &Value) -> bool {
        if let Some(unit) = finding["unit"].as_str() {
            return unit == self.unit;
        }
        let netns = fs::metadata(format!("/proc/{}/ns/net", self.program.pid()));
        let netns = netns.map(|it| std::os::unix::fs::MetadataExt::ino(&it));
        netns.is_ok_and(|netns| finding["subject"]["netns"] == netns)
    }
}

/// Starts all programs.
fn programs(seconds: u64, cgroups: &mut Cgroups) -> Vec<Benign> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let files = fs::read_dir(tests.join("benign")).expect("the programs");
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    files.retain(|file| file.file_name().is_some_and(|name| name != "load.py"));
    files.sort();
    let start = |file| Benign::start(file, seconds, cgroups);
    files.iter().map(|it| it.as_path()).map(start).collect()
}

/// Adds new findings.
fn look(daemon: &Daemon, seen: &mut f64, programs: &mut [Benign]) {
    for change in news(daemon, seen) {
        let finding = &change["finding"];
        if change["change"] == "raised"
            && let Some(of) = programs.iter_mut().find(|it| it.has(finding))
        {
            let summary = finding["summary"].to_string();
            println!("false alarm: {}: {summary}", of.name);
            of.alarms.push(summary);
        }
    }
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
    let Some(mut cgroups) = Cgroups::new() else {
        skip!("no cgroup2 file system is mounted");
    };
    let seconds = env::var("OBSERVER_BENIGN_SECONDS").map_or(180, |it| it.parse().unwrap());
    let daemon = Daemon::start(&[
        "--tick-interval=1s",
        "--fd-interval=15s",
        "--resync-interval=30s",
        "--reconcile-interval=30s",
    ]);
    let started = Instant::now();
    let whole = Duration::from_secs(seconds);
    let mut programs = programs(seconds, &mut cgroups);
    let mut seen = 0.0;
    while let Some(left) = whole.checked_sub(started.elapsed()) {
        thread::sleep(left.min(LOOK));
        look(&daemon, &mut seen, &mut programs);
        let alarms: usize = programs.iter().map(|it| it.alarms.len()).sum();
        let ran = duration(started.elapsed());
        println!("{ran} of {}: {alarms} false alarms", duration(whole));
    }
    let reports: Vec<Report> = programs
        .iter_mut()
        .map(|it| serde_json::from_str(&it.program.line_within(PATIENCE)).expect("a report"))
        .collect();
    let metrics = daemon.scrape();
    look(&daemon, &mut seen, &mut programs);
    let mut table = "| program | what it did | false alarms |\n|---|---|---|\n".to_owned();
    for (Benign { name, alarms, .. }, report) in programs.iter().zip(&reports) {
        let work = report.work.iter();
        let work: Vec<_> = work
            .map(|(what, (done, _))| format!("{done} {what}"))
            .collect();
        let _ = writeln!(table, "| {name} | {} | {} |", work.join(", "), alarms.len());
    }
    let ran = duration(whole);
    println!("\n{table}\nin {ran}");
    let detect = metrics.sum("observer_job_cpu_seconds_total", &[("task", "detect")]);
    println!(
        "detect: {:.3} % of a CPU",
        100.0 * detect / started.elapsed().as_secs_f64()
    );
    let alarms = programs.iter().flat_map(|it| &it.alarms);
    let alarms: Vec<_> = alarms.collect();
    assert!(alarms.is_empty(), "{alarms:#?}");
    for (Benign { name, .. }, report) in programs.iter().zip(reports) {
        for (what, (done, least)) in report.work {
            assert!(done >= least, "{name}: {what} {done}, not {least}");
        }
        for (comm, metric, labels, least) in report.seen {
            let labels: Vec<_> = labels
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .collect();
            let seen = metrics.by(&comm, &metric, &labels);
            assert!(
                seen >= least,
                "{name}: {comm} {metric}{labels:?} {seen}, not {least}"
            );
        }
    }
    for Benign { program, .. } in programs {
        program.end();
    }
    if env::var_os("OBSERVER_UPDATE_DOCS").is_some() {
        let table = format!("All at once, for {ran}:\n\n{table}");
        write_table("cargo xtask scenario --soak --write-table", &table);
    }
}
