//! Runs checks one after the other and sums them up.

use std::{
    fmt,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::shell;

/// What became of each check.
#[derive(Default)]
pub struct Summary {
    steps: Vec<Step>,
}

struct Step {
    name: &'static str,
    outcome: Outcome,
}

enum Outcome {
    Ran {
        ok: bool,
        took: Duration,
        counts: Counts,
    },
    Skipped {
        reason: &'static str,
    },
}

/// Sums of libtest's closing lines.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Summary {
    /// Runs a check, whatever came of those before it: one run shows all that is wrong.
    pub fn step(&mut self, name: &'static str, command: &mut Command) {
        eprintln!("\n== {name}\n$ {}", shell::show(command));
        let start = Instant::now();
        let (ok, counts) = run(command).unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            (false, Counts::default())
        });
        let outcome = Outcome::Ran {
            ok,
            took: start.elapsed(),
            counts,
        };
        self.steps.push(Step { name, outcome });
    }

    pub fn skip(&mut self, name: &'static str, reason: &'static str) {
        self.steps.push(Step {
            name,
            outcome: Outcome::Skipped { reason },
        });
    }

    pub fn failed(&self) -> bool {
        self.steps
            .iter()
            .any(|step| matches!(step.outcome, Outcome::Ran { ok: false, .. }))
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Step { name, outcome } in &self.steps {
            match outcome {
                Outcome::Skipped { reason } => writeln!(f, "{name:<16} skipped: {reason}")?,
                Outcome::Ran { ok, took, counts } => {
                    let verdict = if *ok { "ok" } else { "FAILED" };
                    write!(f, "{name:<16} {verdict:<7} {:>6.1} s", took.as_secs_f64())?;
                    let Counts {
                        passed,
                        failed,
                        ignored,
                    } = counts;
                    if *counts != Counts::default() {
                        write!(f, "  {passed} passed, {failed} failed, {ignored} ignored")?;
                    }
                    writeln!(f)?;
                }
            }
        }
        writeln!(
            f,
            "{}",
            if self.failed() {
                "result: FAILED"
            } else {
                "result: ok"
            }
        )
    }
}

/// Runs a command and counts tests in what it prints, passing each line on.
fn run(command: &mut Command) -> Result<(bool, Counts)> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("no standard output")?;
    let mut counts = Counts::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        counts.add(&line);
    }
    Ok((child.wait()?.success(), counts))
}

impl Counts {
    /// Adds a line such as
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else {
                continue;
            };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_summed() {
        let mut counts = Counts::default();
        counts.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.1s");
        counts
            .add("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        counts.add("test kernel_reset ... ok");
        assert_eq!(
            counts,
            Counts {
                passed: 4,
                failed: 2,
                ignored: 1
            }
        );
    }

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
}
