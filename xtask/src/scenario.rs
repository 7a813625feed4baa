//! What real programs do wrong, and how soon it is found.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    native,
    setup::{self, Needs},
    summary::Summary,
    tracefs,
    vm::build::{self, What},
};

/// Runs real programs that do something wrong, and shows how soon it is found: all at once, which takes
/// five minutes.
#[derive(clap::Args)]
pub struct Args {
    /// Run this scenario alone.
    name: Option<String>,
    /// Write the table to docs/detectors.md.
    #[arg(long, conflicts_with = "name")]
    write_table: bool,
}

pub fn main(args: &Args) -> Result<ExitCode> {
    let Args { name, write_table } = args;
    setup::ensure(Needs {
        tests: true,
        ..Needs::default()
    })?;
    let binaries = build::build(What::KernelTests, None)?;
    tracefs::ensure();
    let name = name.as_deref().unwrap_or("all");
    let mut env = vec![("OBSERVER_SCENARIO", name)];
    if *write_table {
        env.push(("OBSERVER_UPDATE_DOCS", "1"));
    }
    let mut summary = Summary::default();
    summary.task("scenarios", || {
        native::run(&binaries, &["scenarios::"], &env)
    });
    print!("{summary}");
    Ok(if summary.failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
