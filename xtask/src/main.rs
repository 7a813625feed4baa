//! `cargo xtask`: the project's commands, one for each task of a developer. One file per subcommand.

mod apt;
mod attach_types;
mod bench;
mod chain;
mod consent;
mod deny;
mod fuzz;
mod host;
mod interrupt;
mod libtest;
mod native;
mod package;
mod pip;
mod report;
mod run;
mod scenario;
mod setup;
mod shell;
mod summary;
mod test;
mod toolchain;
mod tracefs;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory as _, Parser, Subcommand};

/// Sets up, runs and tests observer.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    /// Install missing packages without asking, as with CI=true.
    #[arg(long, global = true)]
    yes: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    Setup(setup::Args),
    Run(run::Args),
    Scenario(scenario::Args),
    Chain(chain::Args),
    Test(test::Args),
    Fuzz(fuzz::Args),
    Deny(deny::Args),
    Vm(vm::Args),
    Package(package::Args),
    Bench(bench::Args),
}

fn help() -> Result<ExitCode> {
    Cli::command().print_help()?;
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    let Cli { yes, command } = Cli::parse();
    consent::set(yes);
    let result = match command {
        Some(Command::Setup(args)) => setup::main(&args),
        Some(Command::Run(args)) => run::main(&args),
        Some(Command::Scenario(args)) => scenario::main(&args),
        Some(Command::Chain(args)) => chain::main(&args),
        Some(Command::Test(args)) => test::main(&args),
        Some(Command::Fuzz(args)) => fuzz::main(&args),
        Some(Command::Deny(args)) => deny::main(&args),
        Some(Command::Vm(args)) => vm::main(&args),
        Some(Command::Package(args)) => package::main(&args),
        Some(Command::Bench(args)) => bench::main(&args),
        None => help(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
