//! Reads the output of a guest.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::libtest::{self, Reader, Test, Verdict};

/// The result of one unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    pub tests: Vec<Test>,
    /// Its exit code, or if it shared a process, the one it would have had alone; `None` when the guest ended first.
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

/// Separates the units that run in one process, in the name of its section.
pub const AND: char = '+';

/// The unit of a section, which may have several, whose test begins with this line.
pub fn begun<'a>(section: &'a str, line: &str) -> Option<&'a str> {
    let (module, _) = line.strip_prefix("test ")?.split_once("::")?;
    section.split(AND).find(|unit| *unit == module)
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
    /// Units that another one in their process kept from running: it hung, or ended the process.
    pub cut: BTreeSet<String>,
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
        if name == "check" {
            self.check_begun = true;
            let mut lines = lines.iter();
            self.report = lines.find_map(|(_, line)| serde_json::from_str(line).ok());
        } else if name.contains(AND) {
            self.add_units(name, lines, code);
        } else {
            let begin = lines.first().map_or(Duration::ZERO, |(time, _)| *time);
            self.add_program(name, begin, lines, code);
        }
    }

    /// Adds a section of several units, which libtest runs one after the other.
    fn add_units(&mut self, section: &str, lines: &[(Duration, String)], code: Option<i32>) {
        let mut starts: Vec<(&str, usize)> = Vec::new();
        for (number, (_, line)) in lines.iter().enumerate() {
            if let Some(unit) = begun(section, line)
                && starts.iter().all(|(known, _)| *known != unit)
            {
                starts.push((unit, number));
            }
        }
        let ended = matches!(code, Some(0 | libtest::FAILED));
        if starts.is_empty() && !ended {
            let first = section.split(AND).next();
            starts.extend(first.map(|unit| (unit, 0)));
        }
        if !ended {
            let units = section.split(AND);
            let cut = units.filter(|unit| starts.iter().all(|(begun, _)| begun != unit));
            self.cut.extend(cut.map(str::to_owned));
        }
        let mut failed = false;
        for (at, (unit, start)) in starts.iter().enumerate() {
            let next = starts.get(at + 1).map(|(_, next)| *next);
            let own = &lines[*start..next.unwrap_or(lines.len())];
            // The line before ends the test before.
            let begin = lines[start.saturating_sub(1)].0;
            self.add_program(unit, begin, own, code);
            let Some(program) = self.programs.get_mut(*unit) else {
                continue;
            };
            let own_failed = program.failed().count() > 0;
            failed |= own_failed;
            if own_failed && (next.is_some() || ended) {
                program.code = Some(libtest::FAILED);
            } else if next.is_some() || (ended && failed) {
                program.code = Some(0);
            }
        }
    }

    fn add_program(
        &mut self,
        name: &str,
        begin: Duration,
        lines: &[(Duration, String)],
        code: Option<i32>,
    ) {
        let text: String = lines
            .iter()
            .filter(|(_, line)| !line.starts_with("@@ "))
            .map(|(_, line)| format!("{line}\n"))
            .collect();
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
            cut,
            notes,
        } = other;
        self.cut.extend(cut);
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

    /// Output of a process with the units a, b, c and d.
    fn shared(text: &str, end: &str) -> (Outcome, Vec<(String, Option<String>)>) {
        let outcome = parse(&lines(&format!("@@ begin a+b+c+d\n{text}\n{end}")));
        let programs = outcome.programs.iter();
        let troubles = programs.map(|(name, program)| (name.clone(), program.trouble()));
        let troubles = troubles.collect();
        (outcome, troubles)
    }

    fn troubles<const N: usize>(of: [(&str, Option<&str>); N]) -> Vec<(String, Option<String>)> {
        let owned =
            |(name, trouble): (&str, Option<&str>)| (name.to_owned(), trouble.map(str::to_owned));
        of.map(owned).into()
    }

    #[test]
    fn units_in_one_process_are_told_apart() {
        let text = "running 4 tests\n\
                    test a::x ... ok\n\
                    test b::x ... test a::z\n\
                    FAILED\n\
                    test b::y ... ok\n\
                    test c::x ... skipped: no z\n\
                    ok\n\
                    test d::x ... ok";
        let (outcome, found) = shared(text, "@@ end a+b+c+d 101");
        let all = [
            ("a", None),
            ("b", Some("FAILED 1")),
            ("c", None),
            ("d", None),
        ];
        assert_eq!(found, troubles(all));
        let names = |unit: &str| {
            let tests = outcome.programs[unit].tests.iter();
            tests.map(|test| test.name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(names("b"), ["b::x", "b::y"]);
        assert_eq!(names("c"), ["c::x"]);
        // One second a line, from the end of the unit before.
        assert_eq!(outcome.programs["b"].took, Duration::from_secs(3));
        assert_eq!(outcome.programs["b"].tests[0].took, Duration::from_secs(2));
        assert!(outcome.cut.is_empty());
    }

    #[test]
    fn a_unit_that_ends_the_process_cuts_the_units_after_it() {
        let text = "running 4 tests\ntest a::x ... ok\ntest b::x ... \nhalf a line";
        for (end, trouble) in [
            ("@@ end a+b+c+d 137", "HUNG"),
            ("@@ end a+b+c+d 134", "FAILED 1"),
            ("", "CUT SHORT"),
        ] {
            let (outcome, found) = shared(text, end);
            assert_eq!(found, troubles([("a", None), ("b", Some(trouble))]));
            assert_eq!(Vec::from_iter(&outcome.cut), ["c", "d"]);
            assert!(!outcome.programs["b"].finished());
        }
        // Not even the first test began: the first unit is to blame.
        let (outcome, found) = shared("", "@@ end a+b+c+d 137");
        assert_eq!(found, troubles([("a", Some("HUNG"))]));
        assert_eq!(outcome.cut.len(), 3);
    }

    #[test]
    fn a_unit_that_a_finished_process_left_out_is_not_cut() {
        let (outcome, found) = shared("test a::x ... ok", "@@ end a+b+c+d 0");
        assert_eq!(found, troubles([("a", None)]));
        assert!(outcome.cut.is_empty());
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
