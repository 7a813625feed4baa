//! From a program that misbehaves to somebody who is told.

use std::process::ExitCode;

use anyhow::Result;

use crate::scenario;

/// Runs real programs that do something wrong, and the daemon, Prometheus and Alertmanager with the files of
/// deploy/prometheus: each alert reaches a webhook and ends. Takes ten minutes.
#[derive(clap::Args)]
pub struct Args {
    /// Run this scenario alone, of those of `cargo xtask scenario`.
    name: Option<String>,
}

pub fn main(args: &Args) -> Result<ExitCode> {
    let name = args.name.as_deref().unwrap_or("all");
    scenario::run("chain", "chain::", &[("OBSERVER_CHAIN", name)])
}
