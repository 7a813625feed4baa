//! The settings of `observer run`.
//!
//! Each can be given as a flag, as an environment variable or as a key of a TOML file, in this
//! order of precedence; otherwise it has its default. All three are derived from the struct
//! [`Options`].

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::builder::BoolishValueParser;
use serde::Deserialize;

use crate::{contract::Hooks, export::ProcessMetrics};

mod file;
#[cfg(test)]
mod tests;
mod value;

pub use file::{ConfigError, parse};
pub use value::{
    Bounded, Glob, Interval, LogFilter, LogFormat, RingBytes, ValueError, format_duration,
    format_size, parse_duration, parse_size,
};

/// 16 Mi connections of 80 bytes, with the hash table, take a few GB of kernel memory.
pub type MaxConnections = Bounded<16, 16_777_216>;
/// A name takes about 5 KB of memory, and up to 20 KB of a scrape.
pub type MaxNames = Bounded<1, 65_536>;
/// A process that is shown takes about 1 KB of a scrape.
pub type MaxProcesses = Bounded<0, 65_536>;
/// Each process takes a slot of 2,944 bytes of kernel memory.
pub type MaxTrackedProcesses = Bounded<16, 65_536>;
/// Destinations shown per process.
pub type TopDestinations = Bounded<0, 100>;
/// Processes whose descriptors are counted per tick.
pub type FdBatch = Bounded<1, 65_536>;

/// The settings as given by the user. A field is `None` if it was not given.
///
/// Naming rule: no key may be `port`, `service-*` or start with `port-`: a Kubernetes
/// Service called `observer` sets OBSERVER_PORT and OBSERVER_SERVICE_HOST in every pod.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Options {
    /// Address to serve /metrics on; port 0 picks a free one [default: 127.0.0.1:9963]
    #[arg(long, env = "OBSERVER_LISTEN", hide_env_values = true)]
    #[arg(value_name = "ADDR:PORT", help_heading = "Metrics")]
    pub listen: Option<SocketAddr>,

    /// Show only processes whose name (comm) matches; may be repeated
    #[arg(long, env = "OBSERVER_INCLUDE_COMM", hide_env_values = true)]
    #[arg(value_name = "GLOB", value_delimiter = ',', help_heading = "Metrics")]
    pub include_comm: Option<Vec<Glob>>,

    /// Do not show processes whose name (comm) matches; may be repeated
    #[arg(long, env = "OBSERVER_EXCLUDE_COMM", hide_env_values = true)]
    #[arg(value_name = "GLOB", value_delimiter = ',', help_heading = "Metrics")]
    pub exclude_comm: Option<Vec<Glob>>,

    /// Show only processes whose systemd unit or container matches; may be repeated
    #[arg(long, env = "OBSERVER_INCLUDE_UNIT", hide_env_values = true)]
    #[arg(value_name = "GLOB", value_delimiter = ',', help_heading = "Metrics")]
    pub include_unit: Option<Vec<Glob>>,

    /// Do not show processes whose systemd unit or container matches; may be repeated
    #[arg(long, env = "OBSERVER_EXCLUDE_UNIT", hide_env_values = true)]
    #[arg(value_name = "GLOB", value_delimiter = ',', help_heading = "Metrics")]
    pub exclude_unit: Option<Vec<Glob>>,

    /// Number of destinations per process with series for ports in use; the others are summed up
    /// [default: 5]
    #[arg(long, env = "OBSERVER_TOP_DESTINATIONS", hide_env_values = true)]
    #[arg(value_name = "N", help_heading = "Metrics")]
    pub top_destinations: Option<TopDestinations>,

    /// Metrics with a series per process, in addition to those by name [default: all]
    #[arg(long, env = "OBSERVER_PROCESS_METRICS", hide_env_values = true)]
    #[arg(value_name = "WHICH", help_heading = "Metrics")]
    pub process_metrics: Option<ProcessMetrics>,

    /// Size of the ring buffer for records, a power of two [default: 1MiB]
    #[arg(long, env = "OBSERVER_RING_BYTES", hide_env_values = true)]
    #[arg(value_name = "SIZE", help_heading = "Limits")]
    pub ring_bytes: Option<RingBytes>,

    /// Maximum number of sockets to track at the same time [default: 131072]
    #[arg(long, env = "OBSERVER_MAX_CONNECTIONS", hide_env_values = true)]
    #[arg(value_name = "N", help_heading = "Limits")]
    pub max_connections: Option<MaxConnections>,

    /// Maximum number of names (comm and unit) with series of their own; further names count for
    /// <other> [default: 1000]
    #[arg(long, env = "OBSERVER_MAX_NAMES", hide_env_values = true)]
    #[arg(value_name = "N", help_heading = "Limits")]
    pub max_names: Option<MaxNames>,

    /// Maximum number of processes with series by pid: first those with failures, then those with
    /// the most sockets and file descriptors [default: 400]
    #[arg(long, env = "OBSERVER_MAX_PROCESSES", hide_env_values = true)]
    #[arg(value_name = "N", help_heading = "Limits")]
    pub max_processes: Option<MaxProcesses>,

    /// Maximum number of processes to track at the same time; further processes count for <other>
    /// [default: 4096]
    #[arg(long, env = "OBSERVER_MAX_TRACKED_PROCESSES", hide_env_values = true)]
    #[arg(value_name = "N", help_heading = "Limits")]
    pub max_tracked_processes: Option<MaxTrackedProcesses>,

    /// Interval of the housekeeping loop [default: 1s]
    #[arg(long, env = "OBSERVER_TICK_INTERVAL", hide_env_values = true)]
    #[arg(value_name = "DURATION", help_heading = "Pace")]
    pub tick_interval: Option<Interval>,

    /// Interval between two counts of a process's file descriptors in /proc [default: 15s]
    #[arg(long, env = "OBSERVER_FD_INTERVAL", hide_env_values = true)]
    #[arg(value_name = "DURATION", help_heading = "Pace")]
    pub fd_interval: Option<Interval>,

    /// Maximum number of processes whose file descriptors are counted per tick [default: 256]
    #[arg(long, env = "OBSERVER_FD_BATCH", hide_env_values = true)]
    #[arg(value_name = "N", help_heading = "Pace")]
    pub fd_batch: Option<FdBatch>,

    /// Interval between two walks over all open files that update the owners of sockets
    /// [default: 15s]
    #[arg(long, env = "OBSERVER_RESYNC_INTERVAL", hide_env_values = true)]
    #[arg(value_name = "DURATION", help_heading = "Pace")]
    pub resync_interval: Option<Interval>,

    /// Interval between two comparisons of socket counts with the kernel's own [default: 10s]
    #[arg(long, env = "OBSERVER_RECONCILE_INTERVAL", hide_env_values = true)]
    #[arg(value_name = "DURATION", help_heading = "Pace")]
    pub reconcile_interval: Option<Interval>,

    /// Log level: off, error, warn, info, debug, trace, or directives such as
    /// info,observer::kernel=debug [default: info]
    #[arg(long, env = "OBSERVER_LOG_LEVEL", hide_env_values = true)]
    #[arg(value_name = "LEVEL", help_heading = "Logging")]
    pub log_level: Option<LogFilter>,

    /// Format of log lines [default: text]
    #[arg(long, env = "OBSERVER_LOG_FORMAT", hide_env_values = true)]
    #[arg(value_name = "FORMAT", help_heading = "Logging")]
    pub log_format: Option<LogFormat>,

    /// Log each failure that the kernel programs report [default: false]
    #[arg(long, env = "OBSERVER_LOG_EVENTS", hide_env_values = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    #[arg(value_name = "BOOL", value_parser = BoolishValueParser::new(), help_heading = "Logging")]
    pub log_events: Option<bool>,

    /// Kinds of kernel hook that may be used [default: any]
    #[arg(long, env = "OBSERVER_HOOKS", hide_env_values = true)]
    #[arg(value_name = "KIND", help_heading = "Kernel")]
    pub hooks: Option<Hooks>,

    /// At start, make connections in a separate network namespace to test that each hook fires
    /// [default: true]
    #[arg(long, env = "OBSERVER_SELF_TEST", hide_env_values = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    #[arg(value_name = "BOOL", value_parser = BoolishValueParser::new(), help_heading = "Kernel")]
    pub self_test: Option<bool>,

    /// Enable the kernel's run-time statistics of BPF programs while the observer runs; this slows
    /// down all BPF programs of the host slightly [default: false]
    #[arg(long, env = "OBSERVER_BPF_STATS", hide_env_values = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    #[arg(value_name = "BOOL", value_parser = BoolishValueParser::new(), help_heading = "Kernel")]
    pub bpf_stats: Option<bool>,

    /// Keep all capabilities after the hooks are attached [default: false]
    #[arg(long, env = "OBSERVER_KEEP_CAPABILITIES", hide_env_values = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    #[arg(value_name = "BOOL", value_parser = BoolishValueParser::new(), help_heading = "Kernel")]
    pub keep_capabilities: Option<bool>,
}

impl Options {
    /// Fills in from `fallback` what `self` does not have. A list replaces a list, so that a flag
    /// can narrow what the file says.
    #[must_use]
    pub fn or(self, fallback: Self) -> Self {
        let Self {
            listen,
            include_comm,
            exclude_comm,
            include_unit,
            exclude_unit,
            top_destinations,
            process_metrics,
            ring_bytes,
            max_connections,
            max_names,
            max_processes,
            max_tracked_processes,
            tick_interval,
            fd_interval,
            fd_batch,
            resync_interval,
            reconcile_interval,
            log_level,
            log_format,
            log_events,
            hooks,
            self_test,
            bpf_stats,
            keep_capabilities,
        } = self;
        Self {
            listen: listen.or(fallback.listen),
            include_comm: include_comm.or(fallback.include_comm),
            exclude_comm: exclude_comm.or(fallback.exclude_comm),
            include_unit: include_unit.or(fallback.include_unit),
            exclude_unit: exclude_unit.or(fallback.exclude_unit),
            top_destinations: top_destinations.or(fallback.top_destinations),
            process_metrics: process_metrics.or(fallback.process_metrics),
            ring_bytes: ring_bytes.or(fallback.ring_bytes),
            max_connections: max_connections.or(fallback.max_connections),
            max_names: max_names.or(fallback.max_names),
            max_processes: max_processes.or(fallback.max_processes),
            max_tracked_processes: max_tracked_processes.or(fallback.max_tracked_processes),
            tick_interval: tick_interval.or(fallback.tick_interval),
            fd_interval: fd_interval.or(fallback.fd_interval),
            fd_batch: fd_batch.or(fallback.fd_batch),
            resync_interval: resync_interval.or(fallback.resync_interval),
            reconcile_interval: reconcile_interval.or(fallback.reconcile_interval),
            log_level: log_level.or(fallback.log_level),
            log_format: log_format.or(fallback.log_format),
            log_events: log_events.or(fallback.log_events),
            hooks: hooks.or(fallback.hooks),
            self_test: self_test.or(fallback.self_test),
            bpf_stats: bpf_stats.or(fallback.bpf_stats),
            keep_capabilities: keep_capabilities.or(fallback.keep_capabilities),
        }
    }
}

/// Flags of `observer run`: the options, and the file that may hold them.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub struct RunArgs {
    /// TOML file with the options below as keys (listen = "127.0.0.1:9963")
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "OBSERVER_CONFIG",
        hide_env_values = true
    )]
    pub config: Option<PathBuf>,

    /// The settings, which the file can contain, too.
    #[command(flatten)]
    pub options: Options,
}

impl RunArgs {
    /// As if only `--config FILE` had been given.
    #[must_use]
    pub fn for_file(config: Option<PathBuf>) -> Self {
        Self {
            config,
            options: Options::default(),
        }
    }

    /// Reads the file, if there is one, and merges it with flags, environment and
    /// defaults. Called again on SIGHUP.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or does not hold what it should.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        let file = match &self.config {
            Some(path) => file::read(path)?,
            None => Options::default(),
        };
        Ok(Settings::new(self.options.clone().or(file)))
    }

    /// The file's path.
    #[must_use]
    pub fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }
}

/// Which processes get series of their own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// Comms to show; empty for all.
    pub include_comm: Vec<Glob>,
    /// Comms not to show.
    pub exclude_comm: Vec<Glob>,
    /// Units to show; empty for all.
    pub include_unit: Vec<Glob>,
    /// Units not to show.
    pub exclude_unit: Vec<Glob>,
}

impl Selection {
    /// Whether a process is selected: no exclude pattern matches, and each include list that is not
    /// empty has a match. A process without a unit has the unit "".
    #[must_use]
    pub fn selects(&self, comm: &str, unit: &str) -> bool {
        let passes = |include: &[Glob], exclude: &[Glob], name: &str| {
            let any = |globs: &[Glob]| globs.iter().any(|glob| glob.matches(name));
            (include.is_empty() || any(include)) && !any(exclude)
        };
        passes(&self.include_comm, &self.exclude_comm, comm)
            && passes(&self.include_unit, &self.exclude_unit, unit)
    }
}

/// Every setting with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Address of the HTTP server.
    pub listen: SocketAddr,
    /// Processes to show.
    pub selection: Selection,
    /// Destinations shown of each process.
    pub top_destinations: u32,
    /// Which metrics processes have.
    pub process_metrics: ProcessMetrics,
    /// Size of the ring, valid for the kernel.
    pub ring_bytes: u32,
    /// Capacity of the connection map.
    pub max_connections: u32,
    /// Names that counts are kept for.
    pub max_names: u32,
    /// Processes shown by pid.
    pub max_processes: u32,
    /// Capacity of the kernel's table of processes.
    pub max_tracked_processes: u32,
    /// Between two rounds of housekeeping.
    pub tick_interval: Duration,
    /// Between two counts of one process's descriptors.
    pub fd_interval: Duration,
    /// Processes per tick.
    pub fd_batch: u32,
    /// Between two resynchronisations of owners.
    pub resync_interval: Duration,
    /// Between two comparisons with the kernel's tables.
    pub reconcile_interval: Duration,
    /// What to log.
    pub log_level: LogFilter,
    /// How to log.
    pub log_format: LogFormat,
    /// Log failure records.
    pub log_events: bool,
    /// The best kind of hook to use.
    pub hooks: Hooks,
    /// Try the hooks out at the start.
    pub self_test: bool,
    /// Turn on the kernel's run-time statistics.
    pub bpf_stats: bool,
    /// Do not drop capabilities.
    pub keep_capabilities: bool,
}

impl Default for Settings {
    /// What applies when nothing is given.
    fn default() -> Self {
        Self::new(Options::default())
    }
}

impl Settings {
    /// Fills in the defaults.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let interval = |given: Option<Interval>, seconds| {
            given.map_or(Duration::from_secs(seconds), Interval::get)
        };
        let Options {
            listen,
            include_comm,
            exclude_comm,
            include_unit,
            exclude_unit,
            top_destinations,
            process_metrics,
            ring_bytes,
            max_connections,
            max_names,
            max_processes,
            max_tracked_processes,
            tick_interval,
            fd_interval,
            fd_batch,
            resync_interval,
            reconcile_interval,
            log_level,
            log_format,
            log_events,
            hooks,
            self_test,
            bpf_stats,
            keep_capabilities,
        } = options;
        Self {
            listen: listen.unwrap_or((Ipv4Addr::LOCALHOST, 9963).into()),
            selection: Selection {
                include_comm: include_comm.unwrap_or_default(),
                exclude_comm: exclude_comm.unwrap_or_default(),
                include_unit: include_unit.unwrap_or_default(),
                exclude_unit: exclude_unit.unwrap_or_default(),
            },
            top_destinations: top_destinations.map_or(5, TopDestinations::get),
            process_metrics: process_metrics.unwrap_or_default(),
            ring_bytes: ring_bytes.unwrap_or_default().get(),
            max_connections: max_connections.map_or(131_072, MaxConnections::get),
            max_names: max_names.map_or(1_000, MaxNames::get),
            max_processes: max_processes.map_or(400, MaxProcesses::get),
            max_tracked_processes: max_tracked_processes.map_or(4_096, MaxTrackedProcesses::get),
            tick_interval: interval(tick_interval, 1),
            fd_interval: interval(fd_interval, 15),
            fd_batch: fd_batch.map_or(256, FdBatch::get),
            resync_interval: interval(resync_interval, 15),
            reconcile_interval: interval(reconcile_interval, 10),
            log_level: log_level.unwrap_or_default(),
            log_format: log_format.unwrap_or_default(),
            log_events: log_events.unwrap_or(false),
            hooks: hooks.unwrap_or_default(),
            self_test: self_test.unwrap_or(true),
            bpf_stats: bpf_stats.unwrap_or(false),
            keep_capabilities: keep_capabilities.unwrap_or(false),
        }
    }

    /// What a reload (SIGHUP) from `self` to `new` comes to.
    #[must_use]
    pub fn reload_diff(&self, new: &Self) -> ReloadDiff {
        let mut diff = ReloadDiff {
            settings: self.clone(),
            ..ReloadDiff::default()
        };
        // Exhaustive, so that a new setting cannot be forgotten here.
        let Self {
            listen,
            selection,
            top_destinations,
            process_metrics,
            ring_bytes,
            max_connections,
            max_names,
            max_processes,
            max_tracked_processes,
            tick_interval,
            fd_interval,
            fd_batch,
            resync_interval,
            reconcile_interval,
            log_level,
            log_format,
            log_events,
            hooks,
            self_test,
            bpf_stats,
            keep_capabilities,
        } = &mut diff.settings;
        let Selection {
            include_comm,
            exclude_comm,
            include_unit,
            exclude_unit,
        } = selection;
        let from = &new.selection;
        let live = [
            adopt("include-comm", include_comm, &from.include_comm),
            adopt("exclude-comm", exclude_comm, &from.exclude_comm),
            adopt("include-unit", include_unit, &from.include_unit),
            adopt("exclude-unit", exclude_unit, &from.exclude_unit),
            adopt("top-destinations", top_destinations, &new.top_destinations),
            adopt("tick-interval", tick_interval, &new.tick_interval),
            adopt("fd-interval", fd_interval, &new.fd_interval),
            adopt("fd-batch", fd_batch, &new.fd_batch),
            adopt("resync-interval", resync_interval, &new.resync_interval),
            adopt(
                "reconcile-interval",
                reconcile_interval,
                &new.reconcile_interval,
            ),
            adopt("log-level", log_level, &new.log_level),
            adopt("log-events", log_events, &new.log_events),
        ];
        let restart = [
            ("listen", *listen != new.listen),
            ("process-metrics", *process_metrics != new.process_metrics),
            ("ring-bytes", *ring_bytes != new.ring_bytes),
            ("max-connections", *max_connections != new.max_connections),
            ("max-names", *max_names != new.max_names),
            ("max-processes", *max_processes != new.max_processes),
            (
                "max-tracked-processes",
                *max_tracked_processes != new.max_tracked_processes,
            ),
            ("log-format", *log_format != new.log_format),
            ("hooks", *hooks != new.hooks),
            ("self-test", *self_test != new.self_test),
            ("bpf-stats", *bpf_stats != new.bpf_stats),
            (
                "keep-capabilities",
                *keep_capabilities != new.keep_capabilities,
            ),
        ];
        diff.live = live.into_iter().flatten().collect();
        diff.needs_restart = restart
            .into_iter()
            .filter_map(|(key, differs)| differs.then_some(key))
            .collect();
        diff
    }
}

fn adopt<T: Clone + PartialEq>(key: &'static str, value: &mut T, new: &T) -> Option<&'static str> {
    if value == new {
        return None;
    }
    value.clone_from(new);
    Some(key)
}

/// The outcome of [`Settings::reload_diff`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReloadDiff {
    /// What applies from now on: the new value of what may change while running, the old
    /// value of the rest.
    pub settings: Settings,
    /// Keys that changed and apply at once.
    pub live: Vec<&'static str>,
    /// Keys that differ and wait for a restart.
    pub needs_restart: Vec<&'static str>,
}
