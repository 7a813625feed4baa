//! Reads the output of a guest.

use std::{collections::BTreeMap, time::Duration};

use crate::libtest::{self, Reader, Test, Verdict};

/// The result of one unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    pub tests: Vec<Test>,
    /// Its exit code; `None` when the guest ended first.
    pub code: Option<i32>,
    pub took: Duration,
    pub output: String,
}

/// Killed by `timeout -s KILL`.
const KILLED: i32 = 137;

impl Program {
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Whether the unit finished: libtest exits with 101 if tests failed. Any other failure, such
    /// as a signal, ended it before its last test.
    pub fn finished(&self) -> bool {
        matches!(self.code, Some(0 | libtest::FAILED))
    }

    /// The tests in `names` that failed, or did not finish.
    pub fn not_run<'a>(&self, names: &'a [String]) -> Vec<&'a str> {
        libtest::not_run(&self.tests, names)
    }

    pub fn count(&self, of: impl Fn(&Verdict) -> bool) -> usize {
        self.tests.iter().filter(|test| of(&test.verdict)).count()
    }

    pub fn failed(&self) -> impl Iterator<Item = &Test> {
        self.tests
            .iter()
            .filter(|test| test.verdict == Verdict::Failed)
    }

    /// The problem of the unit, if any.
    pub fn trouble(&self) -> Option<String> {
        let failed = self.failed().count();
        match self.code {
            Some(0) => None,
            Some(KILLED) => Some("HUNG".to_owned()),
            None => Some("CUT SHORT".to_owned()),
            Some(_) if failed > 0 => Some(format!("FAILED {failed}")),
            Some(code) => Some(format!("FAILED with exit status {code}")),
        }
    }

    /// Replaces tests by their second run, and adds those that did not run before.
    fn rerun(&mut self, again: Self) {
        let Self {
            tests,
            code,
            took,
            output,
        } = again;
        for test in tests {
            match self.tests.iter_mut().find(|known| known.name == test.name) {
                Some(known) => *known = test,
                None => self.tests.push(test),
            }
        }
        self.code = code;
        self.took += took;
        self.output.push_str(&output);
    }
}

/// A test's name with that of its unit, which modules have in theirs.
pub fn full_name(unit: &str, test: &str) -> String {
    let prefix = format!("{unit}::");
    let name = test.strip_prefix(&prefix).unwrap_or(test);
    prefix + name
}

/// The output of a guest by section.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub release: Option<String>,
    /// Whether `observer check` was started.
    pub check_begun: bool,
    /// `observer check --json`
    pub report: Option<serde_json::Value>,
    /// By name of the unit.
    pub programs: BTreeMap<String, Program>,
    pub notes: Vec<String>,
}

/// Reads the lines of a guest; see `init.sh` for those that begin with `@@ `.
pub fn parse(lines: &[(Duration, String)]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut section: Option<(&str, usize)> = None;
    for (number, (_, line)) in lines.iter().enumerate() {
        let Some(words) = line.strip_prefix("@@ ") else {
            continue;
        };
        let mut words = words.split(' ');
        match (words.next(), words.next()) {
            (Some("release"), Some(release)) => outcome.release = Some(release.to_owned()),
            (Some("note"), Some(first)) => {
                let rest: Vec<_> = std::iter::once(first).chain(words).collect();
                outcome.notes.push(rest.join(" "));
            }
            (Some("begin"), Some(name)) => section = Some((name, number)),
            (Some("end"), Some(name)) => {
                let code = words.next().and_then(|code| code.parse().ok());
                if let Some((begun, first)) = section.take()
                    && begun == name
                {
                    outcome.add(name, &lines[first..=number], code);
                }
            }
            _ => {}
        }
    }
    if let Some((name, first)) = section {
        outcome.add(name, &lines[first..], None);
    }
    outcome
}

impl Outcome {
    /// Adds a section, given with the line that begins it and, if `code` is known, the one
    /// that ends it.
    fn add(&mut self, name: &str, lines: &[(Duration, String)], code: Option<i32>) {
        let text: String = lines
            .iter()
            .filter(|(_, line)| !line.starts_with("@@ "))
            .map(|(_, line)| format!("{line}\n"))
            .collect();
        if name == "check" {
            self.check_begun = true;
            self.report = text
                .lines()
                .find_map(|line| serde_json::from_str(line).ok());
            return;
        }
        let begin = lines.first().map_or(Duration::ZERO, |(time, _)| *time);
        let end = lines.last().map_or(begin, |(time, _)| *time);
        let mut reader = Reader::new(begin);
        for (time, line) in lines {
            reader.line(line, *time);
        }
        let program = Program {
            tests: reader.finish(end),
            code,
            took: end - begin,
            output: text,
        };
        self.programs.insert(name.to_owned(), program);
    }

    /// Adds the output of another guest with the same kernel. Units that exist already were repeated in it.
    pub fn merge(&mut self, other: Self) {
        let Self {
            release,
            check_begun,
            report,
            programs,
            notes,
        } = other;
        self.release = self.release.take().or(release);
        self.check_begun |= check_begun;
        self.report = report.or(self.report.take());
        for (name, program) in programs {
            match self.programs.get_mut(&name) {
                Some(known) => known.rerun(program),
                None => {
                    self.programs.insert(name, program);
                }
            }
        }
        for note in notes {
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
    }
}

/// Signals in a report of `observer check` without an attached hook although the kernel has one: it
/// refused the program, or the hook does not fire.
pub fn unserved(report: &serde_json::Value) -> Vec<&str> {
    let verdicts = || report["verdicts"].as_array().into_iter().flatten();
    let with = |statuses: &'static [&str]| {
        let with = verdicts().filter(move |verdict| {
            let status = verdict["status"].as_str();
            status.is_some_and(|status| statuses.contains(&status))
        });
        with.filter_map(|verdict| verdict["signal"].as_str())
    };
    let mut signals: Vec<_> = with(&["refused", "broken"])
        .filter(|signal| with(&["attached"]).all(|served| served != *signal))
        .collect();
    signals.dedup();
    signals
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
@@ release 6.1.0-56-cloud-amd64
@@ note insmod 03-x.ko failed
@@ begin check
{\"exit_code\":0}

@@ end check 0
@@ begin reset

running 4 tests
test a ... ok
test b ... skipped: nginx is not installed
ok
test c ... 
thread 'c' (12) panicked at x.rs:1:1:
assertion failed
FAILED
test d ... ok

test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out

@@ end reset 101
@@ begin seed
running 2 tests
test e ... left out: no y
ok
test f ... half a line
";

    /// Lines that come a second after each other.
    fn lines(text: &str) -> Vec<(Duration, String)> {
        let lines = text.lines().map(str::to_owned);
        (0..).map(Duration::from_secs).zip(lines).collect()
    }

    fn failed(program: &Program) -> Vec<&str> {
        program.failed().map(|test| test.name.as_str()).collect()
    }

    #[test]
    fn a_guests_output_is_read() {
        let outcome = parse(&lines(OUTPUT));
        assert_eq!(outcome.release.as_deref(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(outcome.report.unwrap()["exit_code"], 0);
        assert_eq!(outcome.notes, ["insmod 03-x.ko failed"]);
        let reset = &outcome.programs["reset"];
        assert_eq!(reset.code, Some(101));
        assert_eq!(reset.took, Duration::from_secs(14));
        assert_eq!(reset.trouble().as_deref(), Some("FAILED 1"));
        assert_eq!(failed(reset), ["c"]);
        assert_eq!(reset.tests[1].took, Duration::from_secs(2));
        let seed = &outcome.programs["seed"];
        assert_eq!(seed.trouble().as_deref(), Some("CUT SHORT"));
        assert_eq!(failed(seed), ["f"]);
        assert_eq!(seed.tests[0].verdict, Verdict::InPart("no y".to_owned()));
    }

    #[test]
    fn a_refusal_counts_when_nothing_else_serves() {
        let report = serde_json::json!({"verdicts": [
            {"signal": "accept", "status": "refused"},
            {"signal": "accept", "status": "attached"},
            {"signal": "fd", "status": "broken"},
            {"signal": "reset_sent", "status": "unsupported"},
        ]});
        assert_eq!(unserved(&report), ["fd"]);
    }

    #[test]
    fn a_killed_program_hung() {
        let outcome = parse(&lines("@@ begin t\ntest a ... \n@@ end t 137\n"));
        assert_eq!(outcome.programs["t"].trouble().as_deref(), Some("HUNG"));
    }

    #[test]
    fn parts_of_a_run_are_put_together() {
        let mut outcome = parse(&lines("@@ begin a\n@@ end a 0\n"));
        outcome.merge(parse(&lines("@@ begin b\n@@ end b 1\n")));
        assert!(outcome.programs["a"].ok() && !outcome.programs["b"].ok());
    }

    #[test]
    fn a_second_run_replaces_the_failed_test_only() {
        let mut outcome = parse(&lines(OUTPUT));
        outcome.merge(parse(&lines(
            "@@ begin reset\ntest c ... ok\n@@ end reset 0\n",
        )));
        let reset = &outcome.programs["reset"];
        assert!(reset.ok());
        assert_eq!(reset.tests.len(), 4);
        assert_eq!(reset.failed().count(), 0);
    }

    #[test]
    fn nothing_is_no_outcome() {
        assert_eq!(parse(&[]), Outcome::default());
    }
}
