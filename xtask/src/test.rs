//! Every check of the project in one command: formatting, lints, unit tests, the kernel
//! programs' build, and the tests on the running kernel and on others.

use std::{
    env,
    ffi::OsString,
    fs,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::{host, setup, shell, summary::Summary, toolchain, vm};

/// Runs every check, the tests on the running kernel and on others included.
#[derive(clap::Args)]
pub struct Args {
    /// Leave out the tests on the running kernel, which need root, and on others.
    #[arg(long)]
    unit_only: bool,
    /// Leave out the tests on other kernels, which take longest.
    #[arg(long)]
    this_kernel: bool,
    /// Given to each test binary: names of tests to run, or libtest's options. Leaves out the
    /// tests on other kernels, as `cargo xtask vm` takes names too.
    #[arg(last = true)]
    filter: Vec<OsString>,
}

/// What runs on each of the other kernels each time: tests of what a kernel decides, hooks and
/// the functions they depend on. The others are about the daemon, run on this kernel each time,
/// and on all by `cargo xtask vm`. All of them would take an hour on two CPUs.
const OTHER_KERNELS: &[&str] = &[
    "kernel_functions",
    "kernel_io_uring",
    "kernel_mptcp",
    "kernel_ports",
    "kernel_reset_answer",
    "kernel_setsockopt",
    "kernel_time_wait",
];

/// What runs on the oldest and the newest of them as well: what lies between takes the same hooks
/// as the newest for these, or as this one.
const OLDEST_AND_NEWEST: &[&str] = &[
    "kernel_accept",
    "kernel_binds",
    "kernel_connection_errors",
    "kernel_gave_up",
    "kernel_layout",
    "kernel_listen",
    "kernel_reset",
];

/// The tests in observer/tests return early without it.
const SWITCH: &str = "OBSERVER_KERNEL_TESTS";

pub fn main(args: &Args) -> Result<ExitCode> {
    let Args {
        unit_only,
        this_kernel,
        filter,
    } = args;
    let facts = setup::ensure(setup::Needs {
        tests: !unit_only,
        guests: !unit_only && !this_kernel && filter.is_empty() && vm::obstacle().is_none(),
        components: true,
    })?;
    let mut summary = Summary::default();

    summary.step("format", shell::cargo().args(["fmt", "--all", "--check"]));
    // observer's build script compiles the kernel programs.
    summary.step(
        "kernel programs",
        shell::cargo().args(["build", "--package", "observer"]),
    );
    summary.step(
        "lints",
        shell::cargo()
            .args([
                "clippy",
                "--workspace",
                "--exclude",
                "observer-ebpf",
                "--all-targets",
            ])
            .args(["--", "-D", "warnings"]),
    );
    summary.step(
        "unit tests",
        shell::cargo()
            .env_remove(SWITCH)
            .args(["test", "--"])
            .args(filter),
    );
    if *unit_only {
        summary.skip("kernel tests", "left out by --unit-only");
    } else if !has_kernel_tests() {
        summary.skip("kernel tests", "observer/tests has none");
    } else {
        host::ensure_tracefs();
        summary.step("kernel tests", &mut kernel_tests(filter)?);
    }
    let reason = if *unit_only {
        Some("left out by --unit-only")
    } else if *this_kernel {
        Some("left out by --this-kernel")
    } else if !filter.is_empty() {
        Some("names of tests were given; `cargo xtask vm` takes them too")
    } else {
        vm::obstacle()
    };
    if let Some(reason) = reason {
        summary.skip("other kernels", reason);
    } else {
        let vm = |kernels: &[&str], tests: &[&str]| -> Result<Command> {
            let mut vm = Command::new(env::current_exe()?);
            vm.arg("vm").args(kernels);
            vm.args(tests.iter().flat_map(|test| ["--test", test]));
            Ok(vm)
        };
        summary.step("other kernels", &mut vm(&[], OTHER_KERNELS)?);
        summary.step(
            "oldest and newest",
            &mut vm(&vm::OLDEST_AND_NEWEST, OLDEST_AND_NEWEST)?,
        );
        summary.step("guests' faults", vm(&[], &[])?.arg("--faults"));
    }
    if let Ok(toolchain) = facts.choose() {
        println!("\nkernel programs built by {toolchain}");
    }
    print!("{summary}");
    Ok(if summary.failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Cargo takes a pattern that matches no test for an error.
fn has_kernel_tests() -> bool {
    let entries = fs::read_dir(host::root().join("observer/tests"));
    entries.into_iter().flatten().flatten().any(|entry| {
        let path = entry.path();
        path.extension().is_some_and(|extension| extension == "rs")
            || path.join("main.rs").is_file()
    })
}

fn kernel_tests(filter: &[OsString]) -> Result<Command> {
    let mut test = shell::cargo();
    // One at a time: they count the events of the whole machine.
    test.args([
        "test",
        "--package",
        "observer",
        "--no-fail-fast",
        "--test",
        "*",
    ])
    .args(["--", "--test-threads=1", "--nocapture"])
    .args(filter)
    .env(SWITCH, "1");
    if !host::is_root() {
        // Cargo builds as the invoking user, and only the test binaries get root.
        let sudo = shell::sudo()?
            .into_string()
            .ok()
            .context("sudo's path is not UTF-8")?;
        let rustc = shell::output(Command::new("rustc").arg("-vV")).unwrap_or_default();
        let Some(version) = toolchain::parse_rustc(&rustc) else {
            bail!("`rustc -vV` names no host");
        };
        test.env(
            runner_variable(&version.host),
            format!("{sudo} --preserve-env={SWITCH},CARGO_MANIFEST_DIR,RUST_BACKTRACE"),
        );
    }
    Ok(test)
}

/// Cargo's variable for the program that runs a target's binaries.
fn runner_variable(host: &str) -> String {
    format!(
        "CARGO_TARGET_{}_RUNNER",
        host.to_uppercase().replace('-', "_")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runner_belongs_to_the_host() {
        assert_eq!(
            runner_variable("aarch64-unknown-linux-gnu"),
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER"
        );
    }
}
