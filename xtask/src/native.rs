//! The tests on the running kernel, each that failed once more.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result};

use crate::{
    attach_types::{AttachTypes, Row},
    host,
    libtest::{Reader, Test, Verdict},
    report::{self, Failure, Report},
    shell,
    vm::{self, build::Binaries},
};

/// Variables that sudo is to keep.
const KEPT: &str = "OBSERVER_BIN,OBSERVER_TEST_TOOLS_INSTALLED,\
                    CARGO_MANIFEST_DIR,RUST_BACKTRACE";

/// One run of a test program.
struct Run {
    tests: Vec<Test>,
    /// How it ended, if not with success.
    status: Option<String>,
    log: PathBuf,
}

impl Run {
    fn failed(&self) -> impl Iterator<Item = &Test> {
        self.tests
            .iter()
            .filter(|test| test.verdict == Verdict::Failed)
    }

    /// The failures: by test, or of the program as a whole.
    fn failures(&self, program: &str) -> Vec<(Failure, Option<&str>)> {
        let failure = |name: String, message| Failure {
            name,
            message,
            log: Some(self.log.clone()),
        };
        let Some(status) = &self.status else {
            return Vec::new();
        };
        let by_test = self.failed().map(|test| {
            let name = format!("{program}::{}", test.name);
            (failure(name, test.panic.clone()), Some(test.name.as_str()))
        });
        let mut failures: Vec<_> = by_test.collect();
        if failures.is_empty() {
            failures.push((failure(program.to_owned(), vec![status.clone()]), None));
        }
        failures
    }
}

/// Makes the command that runs a test program.
type Start<'a> = dyn Fn(&Path) -> Result<Command> + 'a;

/// Runs the tests of all programs, one at a time: they count the events of the whole machine. Each
/// that fails runs once more at the end, alone.
pub fn run(binaries: &Binaries, args: &[impl AsRef<OsStr>]) -> Result<Report> {
    let args: Vec<_> = args.iter().map(AsRef::as_ref).collect();
    let logs = vm::workdir::target()?.join("kernel-tests");
    let start = |file: &Path| as_root(file, binaries);
    run_all(&binaries.tests, &args, &logs, &start)
}

fn run_all(
    programs: &[(String, PathBuf)],
    args: &[&OsStr],
    logs: &Path,
    start: &Start<'_>,
) -> Result<Report> {
    if logs.exists() {
        fs::remove_dir_all(logs)?;
    }
    fs::create_dir_all(logs)?;
    let mut report = Report::default();
    let mut failed = Vec::new();
    for (name, file) in programs {
        let run = run_program(start(file)?, args, logs.join(format!("{name}.log")))?;
        for (failure, test) in run.failures(name) {
            failed.push((name, file, failure, test.map(str::to_owned)));
        }
        let counts = report::count(&run.tests);
        report.add(Report {
            counts,
            notes: report::not_tested(name, &run.tests),
            ..Report::default()
        });
    }
    for (name, file, first, test) in failed {
        println!("\n{} failed and runs once more", first.name);
        let args = match &test {
            Some(test) => vec![OsStr::new("--exact"), OsStr::new(test)],
            None => args.to_vec(),
        };
        let log = logs.join(format!("{}.again.log", first.name.replace("::", ".")));
        let run = run_program(start(file)?, &args, log)?;
        let second = run.failures(name).into_iter().next();
        if second.is_none() && test.is_some() {
            report.counts.failed -= 1;
            report.counts.passed += 1;
        }
        report.settle(first, second.map(|(failure, _)| failure));
    }
    Ok(report)
}

/// Runs one program, showing its output and keeping it in a log.
fn run_program(mut command: Command, args: &[&OsStr], log: PathBuf) -> Result<Run> {
    command
        .args(["--include-ignored", "--test-threads=1", "--nocapture"])
        .args(args)
        .stdout(Stdio::piped());
    eprintln!("$ {}", shell::show(&command));
    let mut child = command.spawn().context("the tests do not start")?;
    let stdout = child.stdout.take().context("no standard output")?;
    let start = Instant::now();
    let mut reader = Reader::default();
    let mut output = File::create(&log)?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        writeln!(output, "{line}")?;
        println!("{line}");
        reader.line(&line, start.elapsed());
    }
    let status = child.wait()?;
    Ok(Run {
        tests: reader.finish(start.elapsed()),
        status: (!status.success()).then(|| status.to_string()),
        log,
    })
}

/// A test program or the daemon, as root, with what cargo sets for them.
fn as_root(file: &Path, binaries: &Binaries) -> Result<Command> {
    let mut command = if host::is_root() {
        Command::new(file)
    } else {
        // Cargo builds as the invoking user, and only the tests get root.
        let mut sudo = Command::new(shell::sudo()?);
        sudo.arg(format!("--preserve-env={KEPT}")).arg(file);
        sudo
    };
    let package = host::root().join("observer");
    command
        // A program that is missing all the same fails its tests.
        .env("OBSERVER_TEST_TOOLS_INSTALLED", "1")
        .env("CARGO_MANIFEST_DIR", &package)
        .current_dir(package);
    if let Some(observer) = &binaries.observer {
        command.env("OBSERVER_BIN", observer);
    }
    Ok(command)
}

/// Compares the attach types of the running kernel with the committed ones, or writes them.
pub fn attach_types(binaries: &Binaries, write: bool) -> Result<Report> {
    let observer = binaries.observer.as_deref().context("no observer")?;
    let mut check = as_root(observer, binaries)?;
    check.args(["check", "--json"]);
    eprintln!("$ {}", shell::show(&check));
    // Its exit status is 1 where not every hook can be attached.
    let output = check.output().context("observer does not start")?;
    let report =
        serde_json::from_slice(&output.stdout).context("`observer check` gave no report")?;
    let row = Row::running()?;
    let mut types = AttachTypes::read().unwrap_or_default();
    let mut result = Report::default();
    if write {
        types.set(row, &report);
        println!("written: {}", types.write()?.display());
        return Ok(result);
    }
    println!("compared with what is expected of {row}");
    result.notes.extend(types.note(&row));
    let differences = types.differences(&row, &report);
    if !differences.is_empty() {
        result.failed.push(Failure {
            name: format!("attach types of {row}"),
            message: differences,
            log: None,
        });
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test program with a test that passes, one that fails the first time that it runs, and one
    /// that fails always.
    const PROGRAM: &str = r#"#!/bin/sh
runs() { case "$*" in *--exact*) case "$*" in *"--exact $test") ;; *) false ;; esac ;; esac; }
status=0
for test in right flaky wrong; do
    runs "$@" || continue
    echo "test $test ... "
    case $test in
    right) verdict=ok ;;
    flaky) mkdir "$0.ran" 2>/dev/null && verdict=FAILED || verdict=ok ;;
    wrong) verdict=FAILED ;;
    esac
    [ "$verdict" = FAILED ] || { echo ok; continue; }
    printf "thread '%s' (1) panicked at k.rs:1:1:
%s went wrong
FAILED
" "$test" "$test"
    status=101
done
exit $status
"#;

    #[test]
    fn a_failed_test_runs_once_more_alone() {
        let dir = std::env::temp_dir().join(format!("observer-native-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let script = dir.join("kernel");
        fs::write(&script, PROGRAM).unwrap();
        let start = |file: &Path| {
            let mut sh = Command::new("sh");
            sh.arg(file);
            Ok(sh)
        };
        let programs = [("kernel".to_owned(), script)];
        let logs = dir.join("logs");
        let report = run_all(&programs, &[], &logs, &start).unwrap();
        let names = |list: &[Failure]| {
            let names: Vec<_> = list.iter().map(|it| it.name.clone()).collect();
            names.join(" ")
        };
        assert_eq!(names(&report.flaky), "kernel::flaky");
        assert_eq!(names(&report.failed), "kernel::wrong");
        assert_eq!(
            report.flaky[0].message,
            ["panicked at k.rs:1:1", "flaky went wrong"]
        );
        assert_eq!((report.counts.passed, report.counts.failed), (2, 1));
        let log = |name: &str| fs::read_to_string(logs.join(name)).unwrap();
        assert!(log("kernel.log").contains("test right"));
        assert!(log("kernel.flaky.again.log").contains("ok"));
        assert!(!log("kernel.wrong.again.log").contains("test right"));
        fs::remove_dir_all(&dir).unwrap();
    }
}
