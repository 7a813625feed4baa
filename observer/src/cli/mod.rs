//! The command line, and the output of its commands ([`check`], [`tail`]) that is not in
//! `observer_core::record`.

use std::{path::PathBuf, sync::LazyLock, time::Duration};

use clap::{Args, Parser, Subcommand};
use observer_core::{
    config::{Glob, RingBytes, RunArgs, ValueError, parse_duration},
    contract::Hooks,
    export::BuildInfo,
    record::{Filter, Kind},
};

pub mod check;
pub mod package_files;
pub mod tail;
#[cfg(test)]
mod tests;

const EXAMPLES: &str = "\
Examples:
  observer check                      show what can be observed on this host
  observer doctor                     show what is wrong on this host, its cause and fix
  observer tail                       print every connection as it ends
  observer tail --kind reset-sent     print each RST sent, with its process and reason
  observer run                        serve metrics on http://127.0.0.1:9963/metrics
  observer run -c /etc/observer/observer.toml
                                      the same, with the settings of the package

Run `observer <COMMAND> --help` for the options of a command.";

const RUN_EXAMPLES: &str = "\
Each option can also be set by the environment variable shown with it, or by a key of the same
name in the file given by --config. A flag overrides a variable, a variable overrides the file.

Durations: 500ms, 15s, 1m. Sizes: 4096, 64KiB, 1MiB. Patterns: * matches any text, ? any one
character; separate several patterns by commas.

Examples:
  observer run --listen 0.0.0.0:9963
  observer run --exclude-comm 'kube*,node_exporter' --log-format json
  OBSERVER_LOG_LEVEL=debug observer run --config /etc/observer/observer.toml

Exit status: 0 after SIGTERM or SIGINT, 1 if it cannot run, 2 if the command line is wrong.";

const CHECK_EXAMPLES: &str = "\
Loads and attaches every hook, reports which hooks observe each signal, and detaches. Nothing keeps
running or stays mounted.

Exit status: 0 when every signal has a hook, 1 when some signal or feature is missing, 2
when the observer cannot run on this host (or the command line is wrong).

Examples:
  sudo observer check
  sudo observer check --verbose    every hook that was tried, and why it is not attached
  sudo observer check --json | jq '.verdicts[] | select(.status != \"attached\")'";

const DOCTOR_EXAMPLES: &str = "\
Asks the running daemon, which needs the permission to use its socket and no other privilege.
Where none answers, it observes the host itself for a while, as root; problems that take
minutes to show, such as leaks, are then not found.

Exit status: 0 when nothing is wrong, 1 for warnings, 2 when something fails now, 3 when the
host could not be observed (2 also when the command line is wrong).

Examples:
  observer doctor
  sudo observer doctor --for 1m
  observer doctor --json | jq -r '.findings[] | [.severity, .summary] | @tsv'";

const TAIL_EXAMPLES: &str = "\
Attaches its own hooks; a daemon can run at the same time. Drops privileges as `observer run`
does, whose settings file (--config) applies to hooks, user and capabilities. A record has to
match all filters; for each filter, one of its values. Standard error shows the number of
records lost because the ring buffer was full.

Examples:
  observer tail --comm 'nginx*' --port 443    connections of nginx on port 443
  observer tail --kind reset-sent,reset-received --json
  observer tail --states --duration 10s       every state transition for ten seconds
  observer tail --kind close --json | jq 'select(.states.CLOSE_WAIT > 60)'";

/// Version and revision of this program.
#[must_use]
pub fn build() -> BuildInfo {
    BuildInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: option_env!("OBSERVER_REVISION")
            .unwrap_or("unknown")
            .to_owned(),
    }
}

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let BuildInfo { version, revision } = build();
    match option_env!("OBSERVER_REVISION") {
        Some(_) => format!("{version} ({revision})"),
        None => version,
    }
});

/// Version and, when known at build time, the revision it was built from.
#[must_use]
pub fn version() -> &'static str {
    VERSION.as_str()
}

/// Observes the lifecycle of every TCP connection of this host and reports, per process,
/// connection leaks, floods and failures with their reasons
#[derive(Clone, Debug, Parser)]
#[command(name = "observer", version = version(), about, after_help = EXAMPLES)]
#[command(max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the daemon: follow connections and serve Prometheus metrics
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),
    /// Report which signals can be observed on this host, and why others cannot
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),
    /// Show what is wrong with the connections of this host now, which process causes it, and how to fix it
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(DoctorArgs),
    /// Print connections, resets and failures as they happen
    #[command(after_help = TAIL_EXAMPLES)]
    Tail(TailArgs),
    /// Write manual pages, completions and an example of the configuration file, for packages
    #[command(hide = true)]
    PackageFiles(PackageFilesArgs),
}

/// Flags of `observer check`.
#[derive(Clone, Debug, Default, Args)]
pub struct CheckArgs {
    /// Write one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    /// Also show the host and every hook that was tried
    #[arg(short, long, conflicts_with = "json")]
    pub verbose: bool,
    /// Check with the settings of this file
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "OBSERVER_CONFIG",
        hide_env_values = true
    )]
    pub config: Option<PathBuf>,
}

/// Flags of `observer doctor`.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// Write one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// How long to observe the host if no daemon is running
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = nonzero_duration)]
    #[arg(conflicts_with = "api_socket")]
    pub look_for: Duration,
    /// Unix socket of the daemon to ask, which has to run [default: /run/observer/observer.sock]
    #[arg(
        long,
        value_name = "PATH",
        env = "OBSERVER_API_SOCKET",
        hide_env_values = true
    )]
    pub api_socket: Option<PathBuf>,
}

/// Flags of `observer tail`.
#[derive(Clone, Debug, Default, Args)]
pub struct TailArgs {
    /// Only this process; may be repeated
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        help_heading = "Filters"
    )]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Vec<u32>,

    /// Only processes whose name (comm) matches; may be repeated
    #[arg(
        long,
        value_name = "GLOB",
        value_delimiter = ',',
        help_heading = "Filters"
    )]
    pub comm: Vec<Glob>,

    /// Only connections with this port at either end; may be repeated
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        help_heading = "Filters"
    )]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Vec<u16>,

    /// Only these kinds of record: close, connect-failed, reset-sent, reset-received,
    /// time-wait, setsockopt-failed, fd-exhausted, bind-failed, state [default: all but state]
    #[arg(
        long,
        value_name = "KIND",
        value_delimiter = ',',
        help_heading = "Filters"
    )]
    pub kind: Vec<Kind>,

    /// Also show state transitions
    #[arg(long, help_heading = "Filters")]
    pub states: bool,

    /// One JSON object per line
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// Stop after this many records
    #[arg(long, value_name = "N", help_heading = "Output")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Stop after this time, such as 10s
    #[arg(long, value_name = "DURATION", help_heading = "Output", value_parser = nonzero_duration)]
    pub duration: Option<Duration>,

    /// Size of the ring buffer, a power of two
    #[arg(long, value_name = "SIZE", help_heading = "Limits", default_value_t = RingBytes::DEFAULT)]
    pub ring_bytes: RingBytes,

    /// Kinds of kernel hook that may be used; overrides the settings file
    #[arg(
        long,
        value_name = "KIND",
        help_heading = "Kernel",
        env = "OBSERVER_HOOKS"
    )]
    #[arg(hide_env_values = true)]
    pub hooks: Option<Hooks>,

    /// Settings file of `observer run`
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "OBSERVER_CONFIG",
        hide_env_values = true
    )]
    pub config: Option<PathBuf>,
}

/// Flags of `observer package-files`.
#[derive(Clone, Debug, Args)]
pub struct PackageFilesArgs {
    /// Directory to write to, as the root of a file system
    pub directory: PathBuf,
}

impl TailArgs {
    /// The filter that these flags describe.
    #[must_use]
    pub fn filter(&self) -> Filter {
        Filter::new(
            self.pid.clone(),
            self.comm.clone(),
            self.port.clone(),
            &self.kind,
            self.states,
        )
    }
}

fn nonzero_duration(text: &str) -> Result<Duration, ValueError> {
    parse_duration(text)
}
