//! Runs real programs with faults and measures the time to detection, or real programs without faults.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    native,
    setup::{self, Needs},
    summary::Summary,
    tracefs,
    vm::build::{self, What},
};

/// Runs real programs with faults, most at once, and shows the time to detection; takes six minutes.
#[derive(clap::Args)]
pub struct Args {
    /// Run only this scenario.
    name: Option<String>,
    /// Run programs without faults instead, for this number of minutes, and show false alarms.
    #[arg(long, value_name = "MINUTES", num_args = 0..=1, default_missing_value = "60",
        conflicts_with = "name", value_parser = clap::value_parser!(u64).range(1..))]
    soak: Option<u64>,
    /// Write the table to docs/detectors.md.
    #[arg(long, conflicts_with = "name")]
    write_table: bool,
}

pub fn main(args: &Args) -> Result<ExitCode> {
    let Args {
        name,
        soak,
        write_table,
    } = args;
    let seconds = soak.map(|minutes| (60 * minutes).to_string());
    let (tests, variable) = match &seconds {
        Some(seconds) => ("benign::", ("OBSERVER_BENIGN_SECONDS", seconds.as_str())),
        None => {
            let name = name.as_deref().unwrap_or("all");
            ("scenarios::", ("OBSERVER_SCENARIO", name))
        }
    };
    let mut env = vec![variable];
    if *write_table {
        env.push(("OBSERVER_UPDATE_DOCS", "1"));
    }
    run("scenarios", tests, &env)
}

/// Runs the tests on the running kernel whose names contain `filter`.
pub fn run(title: &'static str, filter: &str, env: &[(&str, &str)]) -> Result<ExitCode> {
    setup::ensure(Needs {
        tests: true,
        ..Needs::default()
    })?;
    let binaries = build::build(What::KernelTests, None)?;
    tracefs::ensure();
    let mut summary = Summary::default();
    summary.task(title, || native::run(&binaries, &[filter], env));
    print!("{summary}");
    Ok(if summary.failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
