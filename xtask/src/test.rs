//! Every check of the project in one command: formatting, lints, unit tests, the kernel
//! programs' build, and the tests on the running kernel and on others.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::{Command, ExitCode},
    thread::{self, JoinHandle, ScopedJoinHandle},
    time::Instant,
};

use anyhow::{Context as _, Result};
use observer_test_support::ahead;

use crate::{
    deny, host,
    native::{self, Done, Native},
    package, pip,
    report::Report,
    setup::{self, Needs},
    shell,
    summary::Summary,
    tracefs,
    vm::{self, build::What},
};

/// Runs every check, the tests on the running kernel and on others included.
#[derive(clap::Args)]
pub struct Args {
    /// Skip the tests on the running kernel, which need root, and on other kernels.
    #[arg(long)]
    unit_only: bool,
    /// Skip the tests on other kernels, which take longest.
    #[arg(long)]
    this_kernel: bool,
    /// Write the hooks of each signal on the running kernel to docs/attach-types.toml, instead of comparing them with that
    /// file.
    #[arg(long)]
    write_attach_types: bool,
    /// Arguments of each test binary: names of tests to run, or libtest's options. Skips the tests
    /// on other kernels; `cargo xtask vm` also takes names.
    #[arg(last = true)]
    filter: Vec<OsString>,
}

pub fn main(args: &Args) -> Result<ExitCode> {
    let Args {
        unit_only,
        this_kernel,
        write_attach_types,
        filter,
    } = args;
    let no_guests = if *unit_only {
        Some("left out by --unit-only")
    } else if *this_kernel {
        Some("left out by --this-kernel")
    } else if !filter.is_empty() {
        Some("names of tests were given; `cargo xtask vm` takes them too")
    } else {
        vm::obstacle()
    };
    let guests = no_guests.is_none();
    let no_packages = if !guests {
        Some("they are made of the static binary of the guests, which are left out")
    } else if !host::is_root() {
        Some("root alone can install them")
    } else {
        None
    };
    let packages = no_packages.is_none();
    let facts = setup::ensure(Needs {
        tests: !unit_only,
        guests,
        packages,
        pip: !unit_only,
        components: true,
    })?;
    let target = vm::workdir::target()?;
    let cargo = Cargo {
        // Guests need static binaries. Everything is then built with the same flags, so that nothing is compiled twice.
        dir: guests.then(|| vm::build::dir(&target)),
    };
    // Download while the processors compile.
    let suite = thread::spawn(move || guests.then(vm::Suite::fetch).transpose());
    let trees = thread::spawn(move || packages.then(package::fetch).transpose());
    let runs_all = !unit_only && filter.is_empty();
    let of_tests = match &cargo.dir {
        Some(dir) => dir.join(vm::build::TARGET),
        None => target,
    };
    let programs = thread::spawn(move || {
        if runs_all {
            ahead::get_programs(&of_tests);
        }
    });

    let mut summary = Summary::default();
    summary.step("format", cargo.command().args(["fmt", "--all", "--check"]));
    if *unit_only {
        summary.skip("dependencies", "left out by --unit-only");
    } else {
        summary.step("dependencies", &mut deny::offline()?);
    }
    // observer's build script compiles the kernel programs.
    let mut binaries = None;
    summary.task("build", || {
        binaries = Some(vm::build::build(What::Everything, cargo.dir.as_deref())?);
        Ok(Report::default())
    });
    let binary = binaries.as_ref().and_then(|it| it.observer.as_deref());
    let try_packages = || {
        let start = Instant::now();
        let trees = trees
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let report = trees.and_then(|_| package::check(binary.context("observer does not build")?));
        (start.elapsed(), report)
    };
    let built = binaries.as_ref();
    let native = built.filter(|_| runs_all).map(Native::new).transpose()?;
    thread::scope(|scope| -> Result<()> {
        // In emulated machines without a network, whose events do not occur on this machine. They use the processor time
        // that all else leaves.
        let others = guests.then(|| {
            scope.spawn(move || {
                // Even if nothing was built, so that the download is complete.
                let suite = suite.join();
                let suite = suite.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                let (start, built) = (Instant::now(), built?);
                let report = suite.transpose()?.and_then(|suite| suite.run(built));
                Some((start.elapsed(), report))
            })
        });
        let trial = packages.then(|| scope.spawn(try_packages));
        let waiting = native.as_ref().map(|native| {
            tracefs::ensure();
            scope.spawn(move || run_waiting(native, programs))
        });
        summary.step(
            "lints",
            cargo
                .command()
                .args(["clippy", "--workspace", "--exclude", "observer-ebpf"])
                .args(["--all-targets", "--", "-D", "warnings"]),
        );
        let mut unit_tests = cargo.command();
        // The output of tests that pass shows which were skipped.
        unit_tests
            .args(["test", "--", "--show-output"])
            .args(filter);
        if !unit_only {
            unit_tests
                .env("PATH", pip::path()?)
                .env("OBSERVER_TEST_TOOLS_INSTALLED", "1");
        }
        summary.step("unit tests", &mut unit_tests);
        let mut installed = None;
        if let Some(trial) = trial {
            let (took, result) = joined(trial);
            let report = result.map(|it| {
                installed = Some(it);
                Report::default()
            });
            summary.add("packages", took, report);
        }
        if let Some(reason) = no_packages {
            summary.skip("packages", reason);
        }
        match built {
            _ if *unit_only => summary.skip("kernel tests", "left out by --unit-only"),
            None => summary.skip("kernel tests", "the tests do not build"),
            Some(binaries) => {
                tracefs::ensure();
                let mut env = Vec::new();
                if guests {
                    env.push(BUSY);
                }
                // The whole chain is that of the package, if there is one.
                if let Some(installed) = &installed {
                    env.push(installed.env()?);
                }
                summary.task("attach types", || {
                    native::attach_types(binaries, *write_attach_types)
                });
                summary.task("kernel tests", || match (&native, waiting) {
                    (Some(native), Some(waiting)) => native.run_others(|| joined(waiting), &env),
                    _ => native::run(binaries, filter, &[]),
                });
            }
        }
        if let Some(installed) = &installed {
            summary.task("package after use", || {
                installed.upgrade_and_purge()?;
                Ok(Report::default())
            });
        }
        match others.and_then(joined) {
            Some((took, report)) => summary.add("other kernels", took, report),
            None => summary.skip(
                "other kernels",
                no_guests.unwrap_or("the tests do not build"),
            ),
        }
        Ok(())
    })?;
    if let Ok(toolchain) = facts.choose() {
        println!("\nkernel programs built by {toolchain}");
    }
    println!("\nclosing lines:");
    print!("{summary}");
    Ok(if summary.failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// The time to detection depends on the other load of the machine.
const BUSY: (&str, &str) = ("OBSERVER_TEST_BUSY", "1");

/// Runs the tests that mostly wait, once there are the `programs` that they run.
fn run_waiting<'a>(native: &Native<'a>, programs: JoinHandle<()>) -> Result<Vec<Done<'a>>> {
    // Their tests report what is missing.
    let _ = programs.join();
    thread::scope(|scope| {
        let runs =
            native::WAITING.map(|test| scope.spawn(move || native.run_waiting(test, &[BUSY])));
        runs.into_iter().map(joined).collect()
    })
}

/// What a thread returns.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    let result = thread.join();
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Options of cargo.
struct Cargo {
    /// Directory of static binaries, if they are built.
    dir: Option<PathBuf>,
}

impl Cargo {
    fn command(&self) -> Command {
        let mut cargo = shell::cargo();
        if let Some(dir) = self.dir.as_deref() {
            vm::build::flags(&mut cargo, dir);
        }
        cargo
    }
}
