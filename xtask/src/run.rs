//! Builds the daemon and replaces this process by it, as root.

use std::{
    env,
    ffi::OsString,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{host, setup, shell, tracefs};

/// Builds observer and runs it as root.
#[derive(clap::Args)]
pub struct Args {
    /// Arguments of observer, such as `check` or `tail`; without a subcommand, those of `observer run`.
    #[arg(last = true)]
    args: Vec<OsString>,
}

pub fn main(args: &Args) -> Result<ExitCode> {
    let Args { args } = args;
    setup::ensure(setup::Needs::default())?;
    let binary = build()?;
    tracefs::ensure();

    let mut daemon = if host::is_root() {
        Command::new(&binary)
    } else {
        let mut sudo = Command::new(shell::sudo()?);
        let kept = kept_variables(env::vars_os().map(|(name, _)| name));
        if !kept.is_empty() {
            sudo.arg(format!("--preserve-env={}", kept.join(",")));
        }
        sudo.arg(&binary);
        sudo
    };
    daemon.args(with_subcommand(args));
    eprintln!("$ {}", shell::show(&daemon));
    // Replacing this process gives the daemon the terminal's signals and the caller its exit code directly.
    let error = daemon.exec();
    Err(error).with_context(|| format!("cannot run {}", binary.display()))
}

/// Builds the release binary as the invoking user, so that the target directory stays
/// theirs, and asks cargo where it is.
fn build() -> Result<PathBuf> {
    let mut build = shell::cargo();
    build
        .args([
            "build",
            "--release",
            "--package",
            "observer",
            "--bin",
            "observer",
        ])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit());
    let output = build.output().context("cargo does not start")?;
    if !output.status.success() {
        bail!("`{}` failed with {}", shell::show(&build), output.status);
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let binary = shell::executables(&messages).last();
    binary.context("cargo names no binary")
}

/// Inserts `run` if the first argument is an option: `run` has only options, so a first word without a dash is a subcommand.
fn with_subcommand(args: &[OsString]) -> Vec<OsString> {
    let named = args
        .first()
        .is_some_and(|first| !first.as_encoded_bytes().starts_with(b"-"));
    let default = (!named).then(|| OsString::from("run"));
    default.into_iter().chain(args.iter().cloned()).collect()
}

/// The daemon's own variables, which sudo would drop.
fn kept_variables(names: impl Iterator<Item = OsString>) -> Vec<String> {
    names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.starts_with("OBSERVER_") || name.starts_with("RUST_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(args: &[&str]) -> Vec<OsString> {
        with_subcommand(&args.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn run_is_the_default_subcommand() {
        assert_eq!(split(&[]), ["run"]);
        assert_eq!(
            split(&["--listen", "[::]:9435"]),
            ["run", "--listen", "[::]:9435"]
        );
    }

    #[test]
    fn a_named_subcommand_stays() {
        assert_eq!(split(&["check"]), ["check"]);
        assert_eq!(split(&["tail", "--json"]), ["tail", "--json"]);
        assert_eq!(split(&["run", "-v"]), ["run", "-v"]);
    }

    #[test]
    fn sudo_keeps_the_daemons_variables() {
        let names = ["OBSERVER_LISTEN", "RUST_LOG", "PATH", "RUSTFLAGS"].map(OsString::from);
        assert_eq!(
            kept_variables(names.into_iter()),
            ["OBSERVER_LISTEN", "RUST_LOG"]
        );
    }
}
