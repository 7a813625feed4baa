//! Checks the dependencies against deny.toml.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::{consent, shell, toolchain};

/// Checks licences, sources and versions of the dependencies with cargo-deny, and known
/// vulnerabilities if the advisory database can be reached.
#[derive(clap::Args)]
pub struct Args {}

const VERSION: &str = "^0.20";

/// Whether cargo-deny is installed. Compiling it takes minutes, so `cargo xtask test` runs it only if it is.
pub fn installed() -> bool {
    toolchain::find_program("cargo-deny").is_some()
}

/// The checks that need only the registry.
pub fn offline() -> Command {
    let mut deny = shell::cargo();
    deny.args([
        "deny",
        "--workspace",
        "check",
        "licenses",
        "bans",
        "sources",
    ]);
    deny
}

pub fn main(_: &Args) -> Result<ExitCode> {
    if !installed() {
        consent::ask(&["by cargo: cargo-deny, which takes minutes to compile".to_owned()])?;
        let mut install = shell::cargo();
        install.args(["install", "--locked", "cargo-deny", "--version", VERSION]);
        shell::persist(&mut install, "check the network")?;
    }
    let advice = "see deny.toml for what is allowed, and why";
    shell::run(&mut offline(), advice)?;
    let mut fetch = shell::cargo();
    fetch.args(["deny", "fetch", "db"]);
    if shell::run(&mut fetch, "check the network").is_err() {
        println!(
            "not checked: known vulnerabilities, because the advisory database at \
             https://github.com/rustsec/advisory-db cannot be reached from here"
        );
        return Ok(ExitCode::SUCCESS);
    }
    let mut advisories = shell::cargo();
    advisories.args(["deny", "--workspace", "check", "advisories"]);
    if shell::run(&mut advisories, "update what it names").is_err() {
        bail!("a dependency has a known vulnerability, is unmaintained or was withdrawn");
    }
    Ok(ExitCode::SUCCESS)
}
