//! Runs the tests on the running kernel, and repeats each failed test once.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    attach_types::{AttachTypes, Row},
    host,
    libtest::{self, Counts, Reader, Test, Verdict},
    report::{self, Failure, Report},
    shell,
    vm::{self, build::Binaries},
};

/// How long a test program may be silent. The longest test, of Prometheus, takes six minutes.
const SILENCE: Duration = Duration::from_secs(900);

/// Interval of the check for a silent program.
const LOOK: Duration = Duration::from_secs(1);

/// Variables that sudo keeps.
const KEPT: &str = "OBSERVER_BIN,OBSERVER_INSTALLED,OBSERVER_TEST_TOOLS_INSTALLED,OBSERVER_TEST_BUSY,\
                    OBSERVER_SCENARIO,OBSERVER_CHAIN,OBSERVER_BENIGN_SECONDS,OBSERVER_UPDATE_DOCS,CARGO_MANIFEST_DIR,RUST_BACKTRACE";

/// One run of a test program.
struct Run {
    tests: Vec<Test>,
    end: End,
    log: PathBuf,
}

/// How a run of a test program ended.
enum End {
    Success,
    /// It ran all tests, and some failed.
    Failed,
    /// It did not run all tests, or that is unknown. Why.
    Broken(String),
}

impl Run {
    /// The failures: by test, or of the whole program if it ended early.
    fn failures(&self, program: &str) -> Vec<(Failure, Option<&str>)> {
        let failure = |name: String, message| Failure {
            name,
            message,
            log: Some(self.log.clone()),
        };
        let failed = self.tests.iter();
        let failed = failed.filter(|test| test.verdict == Verdict::Failed);
        let by_test = failed.map(|test| {
            let name = format!("{program}::{}", test.name);
            (failure(name, test.panic.clone()), Some(test.name.as_str()))
        });
        let whole = |message| vec![(failure(program.to_owned(), message), None)];
        match &self.end {
            End::Success => Vec::new(),
            End::Failed => {
                let failures: Vec<_> = by_test.collect();
                if failures.is_empty() {
                    return whole(vec!["no test says that it failed".to_owned()]);
                }
                failures
            }
            End::Broken(why) => {
                let mut message = vec![why.clone()];
                for (failure, _) in by_test {
                    message.push(format!("in {}", failure.name));
                    message.extend(failure.message);
                }
                whole(message)
            }
        }
    }

    /// The failures of a second run, of `test` alone or of all.
    fn failures_again(&self, program: &str, test: Option<&str>) -> Vec<Failure> {
        let failures = self.failures(program).into_iter();
        let mut failures: Vec<_> = failures.map(|(failure, _)| failure).collect();
        if let Some(test) = test
            && failures.is_empty()
            && !libtest::not_passed(&self.tests, &[test.to_owned()]).is_empty()
        {
            failures.push(Failure {
                name: format!("{program}::{test}"),
                message: vec!["it did not run to its end when it ran once more".to_owned()],
                log: Some(self.log.clone()),
            });
        }
        failures
    }
}

/// Tests that mostly wait, count only what their own programs do and do not depend on speed, by test program and part of the
/// name. They run beside checks that need the processors.
pub const WAITING: [(&str, &str); 1] = [("kernel_prometheus", "rates_by_name")];

/// The test program whose other tests can run meanwhile: its assertions leave out programs of other tests.
const BESIDE_WAITING: &str = "kernel_prometheus";

/// Makes the command that runs a test program.
type Start<'a> = dyn Fn(&Path) -> Result<Command> + Sync + 'a;

/// Runs test programs on the running kernel.
pub struct Native<'a> {
    programs: &'a [(String, PathBuf)],
    logs: PathBuf,
    start: Box<Start<'a>>,
}

/// A run of some tests of a program.
pub struct Done<'a> {
    job: Job<'a>,
    run: Run,
}

/// Some tests of a program.
struct Job<'a> {
    program: &'a str,
    file: &'a Path,
    args: Vec<OsString>,
    /// Variables of [`KEPT`].
    env: &'a [(&'a str, &'a str)],
}

impl<'a> Native<'a> {
    pub fn new(binaries: &'a Binaries) -> Result<Self> {
        let logs = vm::workdir::target()?.join("kernel-tests");
        let start = |file: &Path| as_root(file, binaries);
        Self::of(&binaries.tests, logs, Box::new(start))
    }

    fn of(programs: &'a [(String, PathBuf)], logs: PathBuf, start: Box<Start<'a>>) -> Result<Self> {
        if logs.exists() {
            fs::remove_dir_all(&logs)?;
        }
        fs::create_dir_all(&logs)?;
        Ok(Self {
            programs,
            logs,
            start,
        })
    }

    /// Runs one of [`WAITING`], and shows its output at the end.
    pub fn run_waiting(
        &self,
        (program, test): (&str, &str),
        env: &'a [(&'a str, &'a str)],
    ) -> Result<Done<'a>> {
        let found = self.programs.iter().find(|(name, _)| name == program);
        let (program, file) = found.with_context(|| format!("there is no {program}"))?;
        let job = Job {
            program,
            file,
            args: vec![test.into()],
            env,
        };
        let name = format!("{program}.{}", test.trim_end_matches(':'));
        self.run(job, &name, false)
    }

    /// Runs all other tests, one at a time, because they count the events of the whole machine; those of Prometheus before
    /// the end of `waiting`. At the end, each failed test is repeated alone.
    pub fn run_others(
        &self,
        waiting: impl FnOnce() -> Result<Vec<Done<'a>>>,
        env: &'a [(&'a str, &'a str)],
    ) -> Result<Report> {
        let (during, after): (Vec<_>, Vec<_>) = self
            .programs
            .iter()
            .partition(|(program, _)| program == BESIDE_WAITING);
        let others = |(program, file): &'a (String, PathBuf)| {
            let skipped = WAITING.iter().filter(|(name, _)| name == program);
            let skipped = skipped.flat_map(|(_, test)| ["--skip".into(), test.into()]);
            let args = skipped.collect();
            let job = Job {
                program,
                file,
                args,
                env,
            };
            self.run(job, program, true)
        };
        let mut done = Vec::new();
        for program in during {
            done.push(others(program)?);
        }
        done.extend(waiting()?);
        for program in after {
            done.push(others(program)?);
        }
        self.finish(done)
    }

    /// Runs all tests of all programs, one at a time, with arguments of the test programs.
    fn run_all(&self, args: &[&OsStr], env: &'a [(&'a str, &'a str)]) -> Result<Report> {
        let mut done = Vec::new();
        for (program, file) in self.programs {
            let args = args.iter().map(|&it| it.to_owned()).collect();
            let job = Job {
                program,
                file,
                args,
                env,
            };
            done.push(self.run(job, program, true)?);
        }
        let mut report = self.finish(done)?;
        let Counts {
            passed,
            failed,
            ignored,
        } = report.counts;
        if !args.is_empty() && passed + failed + ignored == 0 {
            report.failed.push(Failure {
                name: "kernel tests".to_owned(),
                message: vec![format!("no test has a name like {args:?}")],
                log: None,
            });
        }
        Ok(report)
    }

    fn run(&self, job: Job<'a>, name: &str, is_shown: bool) -> Result<Done<'a>> {
        let args: Vec<_> = job.args.iter().map(OsString::as_os_str).collect();
        let run = self.execute(&job, &args, name, is_shown)?;
        if !is_shown {
            // In one call, because others print, too.
            let output = fs::read(&run.log)?;
            print!("{}", String::from_utf8_lossy(&output));
        }
        Ok(Done { job, run })
    }

    fn execute(&self, job: &Job<'_>, args: &[&OsStr], name: &str, is_shown: bool) -> Result<Run> {
        let mut command = (self.start)(job.file)?;
        command.envs(job.env.iter().copied());
        let log = self.logs.join(format!("{name}.log"));
        run_program(command, args, log, is_shown)
    }

    /// Sums up, and repeats each failed test alone.
    fn finish(&self, done: Vec<Done<'_>>) -> Result<Report> {
        let mut report = Report::default();
        for Done { job, run } in &done {
            report.add(Report {
                counts: report::count(&run.tests),
                notes: report::not_tested(job.program, &run.tests),
                ..Report::default()
            });
        }
        for Done { job, run } in done {
            for (first, test) in run.failures(job.program) {
                println!("\n{} failed and runs once more", first.name);
                let args = match test {
                    Some(test) => vec![OsStr::new("--exact"), OsStr::new(test)],
                    None => job.args.iter().map(OsString::as_os_str).collect(),
                };
                let name = format!("{}.again", first.name.replace("::", "."));
                let run = self.execute(&job, &args, &name, true)?;
                let mut again = run.failures_again(job.program, test).into_iter();
                let second = again.next();
                if second.is_none() && test.is_some() {
                    report.counts.failed -= 1;
                    report.counts.passed += 1;
                }
                report.settle(first, second);
                report.failed.extend(again);
            }
        }
        Ok(report)
    }
}

/// Runs all tests of all programs whose names contain one of `args`, which may be options of the test programs. `env` are
/// variables of [`KEPT`].
pub fn run(
    binaries: &Binaries,
    args: &[impl AsRef<OsStr>],
    env: &[(&str, &str)],
) -> Result<Report> {
    let args: Vec<_> = args.iter().map(AsRef::as_ref).collect();
    Native::new(binaries)?.run_all(&args, env)
}

/// Runs one program, keeping its output in a log, and showing it if wanted.
fn run_program(mut command: Command, args: &[&OsStr], log: PathBuf, is_shown: bool) -> Result<Run> {
    // In one stream: with --nocapture, tests write to stdout and panics to stderr.
    let (output, writer) = io::pipe().context("cannot make a pipe")?;
    command
        .args(["--include-ignored", "--test-threads=1", "--nocapture"])
        .args(args)
        .stdout(writer.try_clone()?)
        .stderr(writer);
    eprintln!("$ {}", shell::show(&command));
    let mut child = command.spawn().context("the tests do not start")?;
    // The parent's copy would keep the pipe open for writing.
    drop(command);
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let start = Instant::now();
    let mut reader = Reader::default();
    let mut file = File::create(&log)?;
    let mut last = start;
    let mut status = None;
    let mut silent = false;
    loop {
        match lines.recv_timeout(LOOK) {
            Ok(line) => {
                let line = String::from_utf8_lossy(&line);
                writeln!(file, "{line}")?;
                if is_shown {
                    println!("{line}");
                }
                reader.line(&line, start.elapsed());
                last = Instant::now();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
            // A process left by a test may keep the pipe open.
            Err(RecvTimeoutError::Timeout) if status.is_some() => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        status = child.try_wait()?;
        if status.is_none() && !silent && last.elapsed() > SILENCE {
            silent = true;
            child.kill().context("cannot end a test that hangs")?;
        }
    }
    let status = match status {
        Some(status) => status,
        None => child.wait()?,
    };
    let end = if silent {
        End::Broken(format!("it was silent for {} s", SILENCE.as_secs()))
    } else if status.success() {
        End::Success
    } else if status.code() == Some(libtest::FAILED) {
        End::Failed
    } else {
        End::Broken(format!("it ended with {status}"))
    };
    Ok(Run {
        tests: reader.finish(start.elapsed()),
        end,
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
        // Tests whose program is still missing fail.
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

    /// A test program with a test that passes, one that fails in its first run only, and one that always fails.
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
" "$test" "$test" >&2
    echo FAILED
    status=101
done
exit $status
"#;

    /// Runs `script` as the only test program.
    fn run_script(name: &str, script: &str, args: &[&OsStr]) -> (Report, PathBuf) {
        let dir = std::env::temp_dir().join(format!("observer-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("kernel");
        fs::write(&file, script).unwrap();
        let start = |file: &Path| {
            let mut sh = Command::new("sh");
            sh.arg(file);
            Ok(sh)
        };
        let programs = [("kernel".to_owned(), file)];
        let native = Native::of(&programs, dir.join("logs"), Box::new(start)).unwrap();
        let report = native.run_all(args, &[]).unwrap();
        drop(native);
        (report, dir)
    }

    fn names(list: &[Failure]) -> String {
        let names: Vec<_> = list.iter().map(|it| it.name.clone()).collect();
        names.join(" ")
    }

    #[test]
    fn a_failed_test_runs_once_more_alone() {
        let (report, dir) = run_script("flaky", PROGRAM, &[]);
        assert_eq!(names(&report.flaky), "kernel::flaky");
        assert_eq!(names(&report.failed), "kernel::wrong");
        assert_eq!(
            report.flaky[0].message,
            ["panicked at k.rs:1:1", "flaky went wrong"]
        );
        assert_eq!((report.counts.passed, report.counts.failed), (2, 1));
        let log = |name: &str| fs::read_to_string(dir.join("logs").join(name)).unwrap();
        assert!(log("kernel.log").contains("test right"));
        assert!(log("kernel.flaky.again.log").contains("ok"));
        assert!(!log("kernel.wrong.again.log").contains("test right"));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn each_test_runs_once_beside_the_others_or_alone() {
        let dir = std::env::temp_dir().join(format!("observer-waiting-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let program = |name: &str| {
            let file = dir.join(name);
            fs::write(&file, "echo \"$@\" >>\"$0.args\"\necho 'test a ... ok'\n").unwrap();
            (name.to_owned(), file)
        };
        let programs = ["kernel", "kernel_prometheus"].map(program);
        let start = |file: &Path| {
            let mut sh = Command::new("sh");
            sh.arg(file);
            Ok(sh)
        };
        let native = Native::of(&programs, dir.join("logs"), Box::new(start)).unwrap();
        let waiting = || {
            WAITING
                .map(|test| native.run_waiting(test, &[]))
                .into_iter()
        };
        let report = native.run_others(|| waiting().collect(), &[]).unwrap();
        assert_eq!(report.counts.passed, 3);
        let args = |name: &str| {
            let text = fs::read_to_string(dir.join(name)).unwrap();
            let runs = text
                .lines()
                .map(|line| line.split_once("--nocapture").unwrap().1.trim());
            runs.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(args("kernel.args"), [""]);
        let rates = ["--skip rates_by_name", "rates_by_name"];
        assert_eq!(args("kernel_prometheus.args"), rates);
        fs::remove_dir_all(&dir).unwrap();
    }

    /// The tests after the one that ended the program have not run, so repeating only that test proves nothing.
    #[test]
    fn a_program_that_breaks_off_runs_once_more_as_a_whole() {
        let breaks_once = "echo 'test a ... ok'\nprintf 'test b ... '\n\
                           mkdir \"$0.ran\" 2>/dev/null && kill -SEGV $$\n\
                           echo ok\necho 'test c ... ok'\n";
        let (report, dir) = run_script("breaks-once", breaks_once, &[]);
        assert_eq!(names(&report.flaky), "kernel");
        assert!(report.ok());
        let log = fs::read_to_string(dir.join("logs/kernel.again.log")).unwrap();
        assert!(log.contains("test a ... ok") && log.contains("test c ... ok"));
        fs::remove_dir_all(&dir).unwrap();

        let breaks = "echo 'test a ... ok'\nprintf 'test b ... '\nkill -SEGV $$\n";
        let (report, dir) = run_script("breaks", breaks, &[]);
        assert_eq!(names(&report.failed), "kernel");
        assert!(report.failed[0].message[0].contains("signal: 11"));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_second_run_that_does_nothing_proves_nothing() {
        let once = "mkdir \"$0.ran\" 2>/dev/null || exit 0\n\
                    echo 'test a ... FAILED'\nexit 101\n";
        let (report, dir) = run_script("nothing", once, &[]);
        assert_eq!(names(&report.failed), "kernel::a");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn names_that_no_test_has_fail() {
        let (report, dir) = run_script("none", "exit 0\n", &[OsStr::new("typo")]);
        assert!(!report.ok());
        fs::remove_dir_all(&dir).unwrap();
    }
}
