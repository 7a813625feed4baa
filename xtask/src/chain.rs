//! Tests the chain from a faulty program to a notification by Alertmanager.

use std::process::ExitCode;

use anyhow::Result;

use crate::scenario;

/// Runs real programs with faults, and the daemon, Prometheus and Alertmanager with the files of
/// deploy/prometheus: each alert reaches a webhook and ends. Takes ten minutes.
#[derive(clap::Args)]
pub struct Args {
    /// Run only this scenario of `cargo xtask scenario`.
    name: Option<String>,
}

pub fn main(args: &Args) -> Result<ExitCode> {
    let name = args.name.as_deref().unwrap_or("all");
    scenario::run("chain", "chain::", &[("OBSERVER_CHAIN", name)])
}
