//! Runs checks one after the other and sums them up.

use std::{
    fmt,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    libtest::{Counts, Reader, Verdict},
    report::{self, Failure, Report},
    shell,
};

/// The result of each check.
#[derive(Default)]
pub struct Summary {
    steps: Vec<Step>,
}

struct Step {
    name: &'static str,
    outcome: Outcome,
}

enum Outcome {
    Ran { took: Duration, report: Report },
    Skipped { reason: String },
}

impl Summary {
    /// Runs a check, regardless of the results before it: one run shows all failures.
    pub fn step(&mut self, name: &'static str, command: &mut Command) {
        eprintln!("\n== {name}\n$ {}", shell::show(command));
        let start = Instant::now();
        let result = run(name, command);
        self.add(name, start.elapsed(), result);
    }

    /// Runs a check that is more than one command.
    pub fn task(&mut self, name: &'static str, work: impl FnOnce() -> Result<Report>) {
        eprintln!("\n== {name}");
        let start = Instant::now();
        let result = work();
        self.add(name, start.elapsed(), result);
    }

    /// Adds the result of a check.
    pub fn add(&mut self, name: &'static str, took: Duration, result: Result<Report>) {
        let report = result.unwrap_or_else(|error| {
            let message = format!("error: {error:#}");
            eprintln!("{message}");
            Report {
                failed: vec![Failure {
                    name: name.to_owned(),
                    message: message.lines().map(str::to_owned).collect(),
                    log: None,
                }],
                ..Report::default()
            }
        });
        let outcome = Outcome::Ran { took, report };
        self.steps.push(Step { name, outcome });
    }

    pub fn skip(&mut self, name: &'static str, reason: &str) {
        let outcome = Outcome::Skipped {
            reason: reason.to_owned(),
        };
        self.steps.push(Step { name, outcome });
    }

    pub fn failed(&self) -> bool {
        self.steps
            .iter()
            .any(|step| matches!(&step.outcome, Outcome::Ran { report, .. } if !report.ok()))
    }
}

/// The last lines of a run. They alone must show what failed and why.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = Report::default();
        let mut lines = String::new();
        for Step { name, outcome } in &self.steps {
            match outcome {
                Outcome::Skipped { reason } => {
                    lines.push_str(&format!("{name:<16} skipped: {reason}\n"));
                }
                Outcome::Ran { took, report } => {
                    let verdict = if report.ok() { "ok" } else { "FAILED" };
                    lines.push_str(&format!(
                        "{name:<16} {verdict:<7} {:>6.1} s",
                        took.as_secs_f64()
                    ));
                    let Counts {
                        passed,
                        failed,
                        ignored,
                    } = report.counts;
                    if report.counts != Counts::default() {
                        lines.push_str(&format!(
                            "  {passed} passed, {failed} failed, {ignored} ignored"
                        ));
                    }
                    if !report.flaky.is_empty() {
                        lines.push_str(&format!(", {} flaky", report.flaky.len()));
                    }
                    lines.push('\n');
                    all.add(report.clone());
                }
            }
        }
        for note in &all.notes {
            writeln!(f, "{note}")?;
        }
        f.write_str(&lines)?;
        write!(f, "{all}")?;
        let result = if self.failed() { "FAILED" } else { "ok" };
        writeln!(f, "result: {result}")
    }
}

/// Runs a command, prints its output and parses the test results in it.
fn run(name: &str, command: &mut Command) -> Result<Report> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("no standard output")?;
    let mut reader = Reader::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        reader.line(&line, Duration::ZERO);
    }
    let status = child.wait()?;
    let mut counts = reader.counts;
    let tests = reader.finish(Duration::ZERO);
    let skipped = tests.iter().filter(|test| test.verdict.skip().is_some());
    let skipped = skipped.count() as u64;
    counts.passed = counts.passed.saturating_sub(skipped);
    counts.ignored += skipped;
    let mut report = Report {
        counts,
        notes: report::not_tested(name, &tests),
        ..Report::default()
    };
    if status.success() {
        return Ok(report);
    }
    for test in tests {
        if test.verdict == Verdict::Failed {
            report.failed.push(Failure {
                name: test.name,
                message: test.panic,
                log: None,
            });
        }
    }
    if report.ok() {
        report.failed.push(Failure {
            name: name.to_owned(),
            message: vec![format!("`{}` failed with {status}", shell::show(command))],
            log: None,
        });
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_step_fails_the_run() {
        let mut summary = Summary::default();
        summary.skip("kernel tests", "left out");
        assert!(!summary.failed());
        summary.step("no", &mut Command::new("false"));
        assert!(summary.failed());
        assert!(
            summary.to_string().ends_with("result: FAILED\n"),
            "{summary}"
        );
    }

    #[test]
    fn a_command_that_does_not_start_fails() {
        let mut summary = Summary::default();
        summary.step("no", &mut Command::new("/does/not/exist"));
        assert!(summary.failed());
    }

    #[test]
    fn the_end_says_what_failed_and_why() {
        let mut summary = Summary::default();
        let script = "echo 'test a ... FAILED'; echo '---- a stdout ----'\n\
                      echo \"thread 'a' (1) panicked at a.rs:1:2:\"; echo 'it is wrong'; exit 101";
        summary.step("unit tests", Command::new("sh").args(["-c", script]));
        let text = summary.to_string();
        assert!(
            text.ends_with(
                "FAILED a\n    panicked at a.rs:1:2\n    it is wrong\nfailed: 1: a\nresult: FAILED\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn a_skipped_test_has_not_passed() {
        let mut summary = Summary::default();
        let script = "echo 'test a ... ok'; echo 'test b ... ok'; echo '---- b stdout ----'\n\
                      echo 'skipped: needs CAP_BPF'\n\
                      echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured'";
        summary.step("unit tests", Command::new("sh").args(["-c", script]));
        let text = summary.to_string();
        assert!(
            text.starts_with("skipped unit tests::b: needs CAP_BPF\n")
                && text.contains("1 passed, 0 failed, 1 ignored"),
            "{text}"
        );
    }

    #[test]
    fn flaky_is_green_and_said() {
        let mut summary = Summary::default();
        summary.task("kernel tests", || {
            let mut report = Report::default();
            let first = Failure {
                name: "reset::a".to_owned(),
                message: Vec::new(),
                log: None,
            };
            report.settle(first, None);
            report.counts.passed = 1;
            Ok(report)
        });
        let text = summary.to_string();
        assert!(
            text.contains("1 passed, 0 failed, 0 ignored, 1 flaky\n"),
            "{text}"
        );
        assert!(text.ends_with("flaky: 1: reset::a\nresult: ok\n"), "{text}");
    }
}
