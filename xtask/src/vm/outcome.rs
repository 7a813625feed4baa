//! What a guest said, read from its output.

use std::collections::BTreeMap;

/// What became of one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    Failed,
    /// With the reason.
    Skipped(String),
}

/// What became of one test program.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    pub tests: Vec<(String, Verdict)>,
    /// Its exit code; `None` when the guest ended first.
    pub code: Option<i32>,
    /// Seconds since the guest's boot at which it ended.
    pub ended: Option<f64>,
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

    /// Names of the tests that failed.
    pub fn failed(&self) -> impl Iterator<Item = &str> {
        self.tests
            .iter()
            .filter(|(_, verdict)| *verdict == Verdict::Failed)
            .map(|(name, _)| name.as_str())
    }

    /// For a cell of the table.
    pub fn cell(&self) -> String {
        let count = |of: fn(&Verdict) -> bool| self.tests.iter().filter(|(_, v)| of(v)).count();
        let passed = count(|verdict| *verdict == Verdict::Passed);
        let skipped = count(|verdict| matches!(verdict, Verdict::Skipped(_)));
        let mut text = format!("{passed} passed");
        if skipped > 0 {
            text.push_str(&format!(", {skipped} skipped"));
        }
        match self.code {
            Some(0) => text,
            Some(KILLED) => format!("HUNG, {text}"),
            None => format!("CUT SHORT, {text}"),
            Some(_) => format!("FAILED {}, {text}", self.failed().count()),
        }
    }
}

/// What a guest said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub release: Option<String>,
    /// The table that `observer check` printed.
    pub check: String,
    /// `observer check --json`
    pub report: Option<serde_json::Value>,
    /// By name.
    pub programs: BTreeMap<String, Program>,
    pub notes: Vec<String>,
}

/// Reads the output of a guest; see `init.sh` for the lines that begin with `@@ `.
pub fn parse(output: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let mut section: Option<(&str, String)> = None;
    for line in output.lines() {
        let Some(words) = line.strip_prefix("@@ ") else {
            if let Some((_, text)) = &mut section {
                text.push_str(line);
                text.push('\n');
            }
            continue;
        };
        let mut words = words.split(' ');
        match (words.next(), words.next()) {
            (Some("release"), Some(release)) => outcome.release = Some(release.to_owned()),
            (Some("note"), Some(first)) => {
                let rest: Vec<_> = std::iter::once(first).chain(words).collect();
                outcome.notes.push(rest.join(" "));
            }
            (Some("begin"), Some(name)) => section = Some((name, String::new())),
            (Some("end"), Some(name)) => {
                let code = words.next().and_then(|code| code.parse().ok());
                let ended = words.next().and_then(|time| time.parse().ok());
                if let Some((begun, text)) = section.take()
                    && begun == name
                {
                    outcome.add(name, text, code, ended);
                }
            }
            _ => {}
        }
    }
    if let Some((name, text)) = section {
        outcome.add(name, text, None, None);
    }
    outcome
}

impl Outcome {
    fn add(&mut self, name: &str, text: String, code: Option<i32>, ended: Option<f64>) {
        match name {
            "check" => self.check = text.trim_end().to_owned() + "\n",
            "json" => {
                self.report = text
                    .lines()
                    .find_map(|line| serde_json::from_str(line).ok());
            }
            _ => {
                let program = Program {
                    tests: parse_tests(&text),
                    code,
                    ended,
                    output: text,
                };
                self.programs.insert(name.to_owned(), program);
            }
        }
    }
}

/// Reads libtest's output of one thread without capture: `test NAME ... `, then what the
/// test prints, then `ok` or `FAILED`, on the same line only if it printed nothing.
fn parse_tests(text: &str) -> Vec<(String, Verdict)> {
    let mut tests = Vec::new();
    let mut open: Option<(String, Option<String>)> = None;
    for line in text.lines() {
        let mut rest = line;
        if let Some((name, after)) = line
            .strip_prefix("test ")
            .and_then(|line| line.split_once(" ... "))
        {
            // The one before never ended.
            tests.extend(open.take().map(|(name, _)| (name, Verdict::Failed)));
            open = Some((name.to_owned(), None));
            rest = after;
        }
        let Some((name, skipped)) = &mut open else {
            continue;
        };
        let verdict = match rest {
            "ok" => skipped.take().map_or(Verdict::Passed, Verdict::Skipped),
            "FAILED" => Verdict::Failed,
            _ if rest.starts_with("ignored") => Verdict::Skipped("ignored".to_owned()),
            _ => {
                if let Some(reason) = rest.strip_prefix("skipped: ") {
                    *skipped = Some(reason.to_owned());
                }
                continue;
            }
        };
        tests.push((std::mem::take(name), verdict));
        open = None;
    }
    tests.extend(open.map(|(name, _)| (name, Verdict::Failed)));
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
@@ release 6.1.0-56-cloud-amd64
@@ note insmod 03-x.ko failed
@@ begin check
kernel 6.1

@@ end check 0
@@ begin json
{\"exit_code\":0}

@@ end json 0
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

@@ end kernel_reset 101 33.5
@@ begin kernel_seed
running 2 tests
test e ... ok
test f ... half a line
";

    #[test]
    fn a_guests_output_is_read() {
        let outcome = parse(OUTPUT);
        assert_eq!(outcome.release.as_deref(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(outcome.check, "kernel 6.1\n");
        assert_eq!(outcome.report.unwrap()["exit_code"], 0);
        assert_eq!(outcome.notes, ["insmod 03-x.ko failed"]);
        let reset = &outcome.programs["kernel_reset"];
        assert_eq!(reset.code, Some(101));
        assert_eq!(reset.ended, Some(33.5));
        assert_eq!(reset.cell(), "FAILED 1, 2 passed, 1 skipped");
        assert_eq!(reset.failed().collect::<Vec<_>>(), ["c"]);
        let skipped = Verdict::Skipped("nginx is not installed".to_owned());
        assert_eq!(reset.tests[1], ("b".to_owned(), skipped));
        let seed = &outcome.programs["kernel_seed"];
        assert_eq!(seed.cell(), "CUT SHORT, 1 passed");
        assert_eq!(seed.failed().collect::<Vec<_>>(), ["f"]);
    }

    #[test]
    fn a_killed_program_hung() {
        let outcome = parse("@@ begin t\ntest a ... \n@@ end t 137 9\n");
        assert!(outcome.programs["t"].hung());
        assert_eq!(outcome.programs["t"].cell(), "HUNG, 0 passed");
    }

    #[test]
    fn nothing_is_no_outcome() {
        assert_eq!(parse(""), Outcome::default());
    }
}
