//! Parses the output of Rust's test programs. cargo-nextest would report the same in JSON, but it
//! runs each test in a separate process, which would need a daemon for each test, and guests have
//! no cargo.

use std::time::Duration;

/// The exit status of a test program that ran all its tests, some of which failed.
pub const FAILED: i32 = 101;

/// The tests in `names` that did not pass, or did not run.
pub fn not_passed<'a>(tests: &[Test], names: &'a [String]) -> Vec<&'a str> {
    others(tests, names, |it| {
        matches!(it, Verdict::Passed | Verdict::InPart(_))
    })
}

/// The tests in `names` that failed, or did not finish. A skipped test has finished.
pub fn not_run<'a>(tests: &[Test], names: &'a [String]) -> Vec<&'a str> {
    others(tests, names, |it| *it != Verdict::Failed)
}

/// The `names` without a test whose verdict satisfies `is`.
fn others<'a>(tests: &[Test], names: &'a [String], is: impl Fn(&Verdict) -> bool) -> Vec<&'a str> {
    let found = |name: &str| tests.iter().any(|it| it.name == name && is(&it.verdict));
    let names = names.iter().map(String::as_str);
    names.filter(|name| !found(name)).collect()
}

/// How one test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// Passed, except for a part that cannot run on this machine.
    InPart(String),
    Failed,
    /// With the reason.
    Skipped(String),
}

/// The reason of a test that is ignored.
const IGNORED: &str = "ignored";

impl Verdict {
    /// Why the test skipped itself, which libtest counts as passed.
    pub fn skip(&self) -> Option<&str> {
        match self {
            Self::Skipped(reason) if reason != IGNORED => Some(reason),
            _ => None,
        }
    }

    /// Takes a line that the test printed.
    fn note(&mut self, line: &str) {
        if let Some(reason) = line.strip_prefix("skipped: ") {
            *self = Self::Skipped(reason.to_owned());
        } else if let Some(reason) = line.strip_prefix("left out: ") {
            *self = Self::InPart(reason.to_owned());
        }
    }
}

/// One test.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// As `--exact` takes it.
    pub name: String,
    pub verdict: Verdict,
    pub took: Duration,
    /// The first panic of a failed test: place and message.
    pub panic: Vec<String>,
}

/// Sums of the lines that begin with `test result:`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
    pub ignored: u64,
}

/// Lines of a panic message that are kept.
const MESSAGE_LINES: usize = 12;

/// Reads output line by line.
///
/// With one thread and without capture, a test prints `test NAME ... `, then its own output, then
/// `ok` or `FAILED`, on the same line only if it printed nothing else. With capture, the output of
/// failed tests follows after all of them, each below `---- NAME stdout ----`; with `--show-output`,
/// that of all tests.
///
/// A test that prints `skipped: REASON` tested nothing; one that prints `left out: REASON` skipped a part.
#[derive(Default)]
pub struct Reader {
    tests: Vec<Test>,
    pub counts: Counts,
    open: Option<Test>,
    last: Duration,
    /// Set while the lines of a panic message follow.
    in_panic: bool,
    /// The test whose captured output follows.
    captured: Option<usize>,
}

impl Reader {
    /// A reader of output that begins at `start`, from which the first test's time is measured.
    pub fn new(start: Duration) -> Self {
        Self {
            last: start,
            ..Self::default()
        }
    }

    /// Takes one line, printed at `time`.
    pub fn line(&mut self, line: &str, time: Duration) {
        self.counts.add(line);
        if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|line| line.strip_suffix(" stdout ----"))
        {
            self.captured = self.tests.iter().rposition(|test| test.name == name);
            self.in_panic = false;
            return;
        }
        if line.starts_with("running ") {
            self.captured = None;
        }
        if let Some(test) = self.captured.and_then(|at| self.tests.get_mut(at)) {
            // Also if it looks like the output of a test program, which a test of this file prints.
            if test.verdict == Verdict::Failed {
                add_panic(&mut test.panic, &mut self.in_panic, line);
            } else {
                test.verdict.note(line);
            }
            return;
        }
        let mut rest = line;
        if let Some((name, after)) = line
            .strip_prefix("test ")
            .and_then(|line| line.split_once(" ... "))
        {
            // The previous test did not finish.
            self.end(Verdict::Failed, time);
            // Not part of the name: `test NAME - should panic ... ok`.
            let name = name.strip_suffix(" - should panic").unwrap_or(name);
            self.open = Some(Test {
                name: name.to_owned(),
                verdict: Verdict::Passed,
                took: Duration::ZERO,
                panic: Vec::new(),
            });
            self.in_panic = false;
            rest = after;
        }
        let Some(test) = &mut self.open else {
            return;
        };
        match rest {
            "ok" => {
                let verdict = test.verdict.clone();
                self.end(verdict, time);
            }
            "FAILED" => self.end(Verdict::Failed, time),
            _ if rest.starts_with("ignored") => {
                self.end(Verdict::Skipped(IGNORED.to_owned()), time);
            }
            _ => {
                test.verdict.note(rest);
                add_panic(&mut test.panic, &mut self.in_panic, rest);
            }
        }
    }

    fn end(&mut self, verdict: Verdict, time: Duration) {
        let Some(mut test) = self.open.take() else {
            return;
        };
        if verdict != Verdict::Failed {
            test.panic.clear();
        }
        test.verdict = verdict;
        test.took = time.saturating_sub(std::mem::replace(&mut self.last, time));
        self.tests.push(test);
        self.in_panic = false;
    }

    /// All tests; a test that has not finished at `time` has failed.
    pub fn finish(mut self, time: Duration) -> Vec<Test> {
        self.end(Verdict::Failed, time);
        self.tests
    }
}

/// Keeps the first panic:
///
/// ```text
/// thread 'NAME' (123) panicked at FILE:1:2:
/// MESSAGE
/// note: run with `RUST_BACKTRACE=1` ...
/// ```
fn add_panic(panic: &mut Vec<String>, inside: &mut bool, line: &str) {
    if panic.is_empty() {
        if let Some((_, place)) = line.split_once("panicked at ")
            && line.starts_with("thread '")
        {
            panic.push(format!("panicked at {}", place.trim_end_matches(':')));
            *inside = true;
        }
        return;
    }
    let ends = ["stack backtrace:", "note: ", "thread '"];
    if ends.iter().any(|end| line.starts_with(end)) || line.is_empty() {
        *inside = false;
    } else if *inside && panic.len() <= MESSAGE_LINES {
        panic.push(line.to_owned());
    }
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

    fn read(text: &str) -> Vec<Test> {
        let mut reader = Reader::new(Duration::ZERO);
        let mut time = Duration::ZERO;
        for line in text.lines() {
            reader.line(line, time);
            time += Duration::from_secs(1);
        }
        reader.finish(time)
    }

    fn verdicts(tests: &[Test]) -> Vec<(&str, &Verdict)> {
        tests
            .iter()
            .map(|test| (test.name.as_str(), &test.verdict))
            .collect()
    }

    #[test]
    fn uncaptured_output_of_one_thread() {
        let tests = read(
            "running 4 tests\n\
             test a ... ok\n\
             test b ... skipped: nginx is not installed\n\
             ok\n\
             test c ... \n\
             thread 'c' (12) panicked at x.rs:1:1:\n\
             assertion `left == right` failed\n\
             \x20 left: 1\n\
             \x20right: 2\n\
             note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n\
             FAILED\n\
             test d - should panic ... \n\
             thread 'd' (13) panicked at x.rs:2:1:\n\
             as it should\n\
             ok\n\
             test e ... half a line\n",
        );
        assert_eq!(
            verdicts(&tests),
            [
                ("a", &Verdict::Passed),
                ("b", &Verdict::Skipped("nginx is not installed".to_owned())),
                ("c", &Verdict::Failed),
                ("d", &Verdict::Passed),
                ("e", &Verdict::Failed),
            ]
        );
        assert_eq!(
            tests[2].panic,
            [
                "panicked at x.rs:1:1",
                "assertion `left == right` failed",
                "  left: 1",
                " right: 2"
            ]
        );
        assert!(tests[3].panic.is_empty());
        assert_eq!(tests[1].took, Duration::from_secs(2));
    }

    #[test]
    fn captured_output_follows_after_the_tests() {
        let tests = read(
            "test m::a ... FAILED\n\
             test m::b ... ok\n\
             \n\
             failures:\n\
             \n\
             ---- m::a stdout ----\n\
             \n\
             thread 'm::a' (9) panicked at y.rs:3:4:\n\
             two\n\
             lines\n\
             note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n\
             \n\
             failures:\n\
             \x20   m::a\n",
        );
        assert_eq!(tests[0].panic, ["panicked at y.rs:3:4", "two", "lines"]);
        assert_eq!(tests[1].verdict, Verdict::Passed);
    }

    #[test]
    fn captured_output_shows_what_was_skipped() {
        let tests = read(
            "running 3 tests\n\
             test a ... ok\n\
             test b ... ok\n\
             test c ... ignored, needs root\n\
             \n\
             successes:\n\
             \n\
             ---- a stdout ----\n\
             test of_another_program ... FAILED\n\
             \n\
             ---- b stdout ----\n\
             skipped: needs CAP_BPF\n\
             \n\
             successes:\n\
             \x20   a\n\
             \x20   b\n\
             \n\
             running 1 test\n\
             test a ... ok\n",
        );
        let skips: Vec<_> = tests.iter().map(|test| test.verdict.skip()).collect();
        assert_eq!(skips, [None, Some("needs CAP_BPF"), None, None]);
        assert_eq!(tests[0].verdict, Verdict::Passed);
    }

    #[test]
    fn a_long_message_is_cut() {
        let message = "line\n".repeat(100);
        let tests = read(&format!(
            "test a ... \nthread 'a' (1) panicked at z.rs:1:1:\n{message}FAILED\n"
        ));
        assert_eq!(tests[0].panic.len(), MESSAGE_LINES + 1);
    }

    #[test]
    fn result_lines_are_summed() {
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
}
