//! What a guest said, read from its output.

use std::{collections::BTreeMap, time::Duration};

/// What became of one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// Passed, but for something that it said could not be tested here.
    InPart(String),
    Failed,
    /// With the reason.
    Skipped(String),
}

/// One test.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    pub name: String,
    pub verdict: Verdict,
    pub took: Duration,
}

/// What became of one test program.
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
    pub fn hung(&self) -> bool {
        self.code == Some(KILLED)
    }

    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    pub fn count(&self, of: impl Fn(&Verdict) -> bool) -> usize {
        self.tests.iter().filter(|test| of(&test.verdict)).count()
    }

    /// What is wrong with it, if anything.
    pub fn trouble(&self) -> Option<String> {
        let failed = self.count(|verdict| *verdict == Verdict::Failed);
        match self.code {
            Some(0) => None,
            Some(KILLED) => Some("HUNG".to_owned()),
            None => Some("CUT SHORT".to_owned()),
            Some(_) if failed > 0 => Some(format!("FAILED {failed}")),
            Some(code) => Some(format!("FAILED with exit status {code}")),
        }
    }
}

/// What a guest said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub release: Option<String>,
    /// `observer check --json`
    pub report: Option<serde_json::Value>,
    /// By name.
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
        match name {
            "check" => {
                self.report = text
                    .lines()
                    .find_map(|line| serde_json::from_str(line).ok());
            }
            _ => {
                let took = |lines: &[(Duration, String)]| Some(lines.last()?.0 - lines.first()?.0);
                let program = Program {
                    tests: parse_tests(lines),
                    code,
                    took: took(lines).unwrap_or_default(),
                    output: text,
                };
                self.programs.insert(name.to_owned(), program);
            }
        }
    }

    /// Takes in what another guest with the same kernel said.
    pub fn merge(&mut self, other: Self) {
        let Self {
            release,
            report,
            programs,
            notes,
        } = other;
        self.release = self.release.take().or(release);
        self.report = self.report.take().or(report);
        self.programs.extend(programs);
        self.notes.extend(notes);
    }
}

/// Signals of a report of `observer check` that no hook serves although the kernel has one:
/// it refused the program, or the hook does not fire.
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

/// Reads libtest's output of one thread without capture: `test NAME ... `, then what the
/// test prints, then `ok` or `FAILED`, on the same line only if it printed nothing. Each test
/// took the time since the one before.
///
/// A test that prints `skipped: REASON` did nothing else; one that prints `left out: REASON`
/// did the rest.
fn parse_tests(lines: &[(Duration, String)]) -> Vec<Test> {
    let mut tests = Vec::new();
    let mut last = lines.first().map_or(Duration::ZERO, |(time, _)| *time);
    let mut open: Option<(String, Verdict)> = None;
    let mut end = |name, verdict, time| {
        let took = time - std::mem::replace(&mut last, time);
        tests.push(Test {
            name,
            verdict,
            took,
        });
    };
    for (time, line) in lines {
        let mut rest = line.as_str();
        if let Some((name, after)) = line
            .strip_prefix("test ")
            .and_then(|line| line.split_once(" ... "))
        {
            if let Some((name, _)) = open.take() {
                // The one before never ended.
                end(name, Verdict::Failed, *time);
            }
            open = Some((name.to_owned(), Verdict::Passed));
            rest = after;
        }
        let Some((name, passed)) = &mut open else {
            continue;
        };
        let verdict = match rest {
            "ok" => passed.clone(),
            "FAILED" => Verdict::Failed,
            _ if rest.starts_with("ignored") => Verdict::Skipped("ignored".to_owned()),
            _ => {
                if let Some(reason) = rest.strip_prefix("skipped: ") {
                    *passed = Verdict::Skipped(reason.to_owned());
                } else if let Some(reason) = rest.strip_prefix("left out: ") {
                    *passed = Verdict::InPart(reason.to_owned());
                }
                continue;
            }
        };
        end(std::mem::take(name), verdict, *time);
        open = None;
    }
    if let (Some((name, _)), Some((time, _))) = (open, lines.last()) {
        end(name, Verdict::Failed, *time);
    }
    tests
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
@@ begin kernel_reset

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

@@ end kernel_reset 101
@@ begin kernel_seed
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
        let failed = |test: &&Test| test.verdict == Verdict::Failed;
        let failed = program.tests.iter().filter(failed);
        failed.map(|test| test.name.as_str()).collect()
    }

    #[test]
    fn a_guests_output_is_read() {
        let outcome = parse(&lines(OUTPUT));
        assert_eq!(outcome.release.as_deref(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(outcome.report.unwrap()["exit_code"], 0);
        assert_eq!(outcome.notes, ["insmod 03-x.ko failed"]);
        let reset = &outcome.programs["kernel_reset"];
        assert_eq!(reset.code, Some(101));
        assert_eq!(reset.took, Duration::from_secs(14));
        assert_eq!(reset.trouble().as_deref(), Some("FAILED 1"));
        assert_eq!(failed(reset), ["c"]);
        assert_eq!(
            reset.tests[1],
            Test {
                name: "b".to_owned(),
                verdict: Verdict::Skipped("nginx is not installed".to_owned()),
                took: Duration::from_secs(2),
            }
        );
        let seed = &outcome.programs["kernel_seed"];
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
        assert!(outcome.programs["t"].hung());
        assert_eq!(outcome.programs["t"].trouble().as_deref(), Some("HUNG"));
    }

    #[test]
    fn parts_of_a_run_are_put_together() {
        let mut outcome = parse(&lines("@@ begin a\n@@ end a 0\n"));
        outcome.merge(parse(&lines("@@ begin b\n@@ end b 1\n")));
        assert!(outcome.programs["a"].ok() && !outcome.programs["b"].ok());
    }

    #[test]
    fn nothing_is_no_outcome() {
        assert_eq!(parse(&[]), Outcome::default());
    }
}
