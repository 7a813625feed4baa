//! The `observer` binary.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use observer::{
    cli::{Cli, Command, package_files},
    daemon, doctor, heap, preflight,
};

fn main() -> ExitCode {
    heap::keep_less();
    let result = match Cli::parse().command {
        Command::Run(args) => daemon::run(*args),
        Command::Check(args) => Ok(preflight::run(&args)),
        Command::Doctor(args) => doctor::run(&args),
        Command::Tail(args) => daemon::tail::run(&args),
        Command::PackageFiles(args) => package_files::run(Cli::command(), &args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("observer: {error:#}");
        ExitCode::FAILURE
    })
}
