//! The `observer` binary.

use std::process::ExitCode;

use clap::Parser as _;
use observer::{
    cli::{Cli, Command},
    daemon, doctor, heap, preflight,
};

fn main() -> ExitCode {
    heap::keep_less();
    let result = match Cli::parse().command {
        Command::Run(args) => daemon::run(*args),
        Command::Check(args) => preflight::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Tail(args) => daemon::tail::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("observer: {error:#}");
        ExitCode::FAILURE
    })
}
