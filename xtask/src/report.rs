//! The results of a run of tests, and its last lines.

use std::{fmt, path::PathBuf};

use crate::libtest::{Counts, Test, Verdict};

/// A test, or a guest as a whole, that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `6.1 reset::killed`, say.
    pub name: String,
    /// The reason: location and message of the panic, or how the guest ended.
    pub message: Vec<String>,
    /// Path of its log.
    pub log: Option<PathBuf>,
}

/// The results of several tests. Each failed test was repeated once; if it passed then, it is flaky and does not fail the
/// run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Of the last run of each test.
    pub counts: Counts,
    /// Tests that failed and were not repeated, or failed again.
    pub failed: Vec<Failure>,
    /// Tests that failed and then passed, with the first failure.
    pub flaky: Vec<Failure>,
    /// Other lines for the end.
    pub notes: Vec<String>,
}

impl Report {
    pub fn ok(&self) -> bool {
        self.failed.is_empty()
    }

    /// Adds the result of a repeated test: it is flaky if it passed.
    pub fn settle(&mut self, first: Failure, second: Option<Failure>) {
        match second {
            None => self.flaky.push(first),
            Some(second) => {
                let mut failure = second;
                if let Some(log) = first.log {
                    let log = log.display();
                    failure
                        .message
                        .push(format!("failed twice; the first time: {log}"));
                }
                self.failed.push(failure);
            }
        }
    }

    pub fn add(&mut self, other: Self) {
        let Self {
            counts,
            failed,
            flaky,
            notes,
        } = other;
        self.counts.passed += counts.passed;
        self.counts.failed += counts.failed;
        self.counts.ignored += counts.ignored;
        self.failed.extend(failed);
        self.flaky.extend(flaky);
        self.notes.extend(notes);
    }
}

/// The closing lines: first everything that failed or was flaky with its message, then one line
/// for each of the two.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (word, list) in [("flaky", &self.flaky), ("FAILED", &self.failed)] {
            for Failure { name, message, log } in list {
                writeln!(f, "{word} {name}")?;
                for line in message {
                    writeln!(f, "    {line}")?;
                }
                if let Some(log) = log {
                    writeln!(f, "    log: {}", log.display())?;
                }
            }
        }
        for (word, list) in [("failed", &self.failed), ("flaky", &self.flaky)] {
            if !list.is_empty() {
                let names: Vec<_> = list.iter().map(|failure| failure.name.as_str()).collect();
                writeln!(f, "{word}: {}: {}", list.len(), names.join(", "))?;
            }
        }
        Ok(())
    }
}

/// Tests that did not fail count as passed or ignored, and those that did as failed.
pub fn count<'a>(tests: impl IntoIterator<Item = &'a Test>) -> Counts {
    let mut counts = Counts::default();
    for test in tests {
        match &test.verdict {
            Verdict::Passed | Verdict::InPart(_) => counts.passed += 1,
            Verdict::Failed => counts.failed += 1,
            Verdict::Skipped(_) => counts.ignored += 1,
        }
    }
    counts
}

/// Lines about skipped tests and parts of tests, with reasons.
pub fn not_tested<'a>(program: &str, tests: impl IntoIterator<Item = &'a Test>) -> Vec<String> {
    let line = |test: &Test| match &test.verdict {
        Verdict::Skipped(_) => {
            let reason = test.verdict.skip()?;
            Some(format!("skipped {program}::{}: {reason}", test.name))
        }
        Verdict::InPart(reason) => Some(format!("in part {program}::{}: {reason}", test.name)),
        _ => None,
    };
    tests.into_iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(name: &str) -> Failure {
        Failure {
            name: name.to_owned(),
            message: vec!["panicked at x.rs:1:1".to_owned(), "no".to_owned()],
            log: Some(format!("/logs/{name}").into()),
        }
    }

    #[test]
    fn what_passes_the_second_time_is_flaky_and_green() {
        let mut report = Report::default();
        report.settle(failure("6.1 reset::a"), None);
        assert!(report.ok());
        assert_eq!(
            report.to_string(),
            "flaky 6.1 reset::a\n    panicked at x.rs:1:1\n    no\n    log: /logs/6.1 reset::a\n\
             flaky: 1: 6.1 reset::a\n"
        );
    }

    #[test]
    fn what_fails_twice_is_red() {
        let mut report = Report::default();
        report.settle(failure("a"), None);
        report.settle(failure("b"), Some(failure("b")));
        assert!(!report.ok());
        let text = report.to_string();
        assert!(text.ends_with("failed: 1: b\nflaky: 1: a\n"), "{text}");
        assert!(
            text.contains(
                "FAILED b\n    panicked at x.rs:1:1\n    no\n    failed twice; the first time: /logs/b\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn nothing_to_say_is_nothing() {
        assert_eq!(Report::default().to_string(), "");
    }

    #[test]
    fn what_was_not_tested_is_listed() {
        let test = |name: &str, verdict| Test {
            name: name.to_owned(),
            verdict,
            took: std::time::Duration::ZERO,
            panic: Vec::new(),
        };
        let tests = [
            test("a", Verdict::Passed),
            test("b", Verdict::Skipped("no x".to_owned())),
            test("c", Verdict::InPart("no y".to_owned())),
            test("d", Verdict::Skipped("ignored".to_owned())),
        ];
        assert_eq!(
            not_tested("kernel", &tests),
            ["skipped kernel::b: no x", "in part kernel::c: no y"]
        );
    }
}
