//! The settings of `observer run`.
//!
//! Each can be given as a flag, as an environment variable or as a key of a TOML file, in this
//! order of precedence; otherwise it has its default. All three are derived from the struct
//! [`Options`].

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::builder::BoolishValueParser;
use serde::Deserialize;

use crate::{
    contract::{Hooks, ObserveTls, SyscallTracepoints},
    detect::Thresholds,
    export::ProcessMetrics,
};

mod args;
mod example;
mod file;
#[cfg(test)]
mod tests;
mod value;

pub use args::RunArgs;
pub use example::example;
pub use file::{ConfigError, parse};
pub use value::{
    Bounded, CpuShare, Glob, Interval, LogFilter, LogFormat, RingBytes, ValueError,
    format_duration, format_size, parse_duration, parse_size,
};

/// The Unix socket, unless another one is given.
pub const DEFAULT_API_SOCKET: &str = "/run/observer/observer.sock";

/// 16 Mi connections of 96 bytes, with the hash table, take a few GB of kernel memory.
pub type MaxConnections = Bounded<16, 16_777_216>;
/// A name takes about 5 KB of memory, and up to 20 KB of a scrape.
pub type MaxNames = Bounded<1, 65_536>;
/// A process that is shown takes about 1 KB of a scrape.
pub type MaxProcesses = Bounded<0, 65_536>;
/// Each process takes a slot of 4,064 bytes of kernel memory.
pub type MaxTrackedProcesses = Bounded<16, 65_536>;
/// Responses under way at the same time. The server has 128 connections.
pub type MaxRequests = Bounded<1, 100>;
/// Destinations shown per process.
pub type TopDestinations = Bounded<0, 100>;
/// Processes whose descriptors are counted per tick.
pub type FdBatch = Bounded<1, 65_536>;

/// Defines [`Options`], [`Settings`] and the reload of settings from one list. Each setting has its
/// help, arguments of the flag, `key: type as given => type = default`, and whether SIGHUP changes it
/// (`live`) or a restart is needed (`restart`). The help ends with the default, which a test checks.
///
/// Naming rule: no key may be `port`, `service-*` or start with `port-`: a Kubernetes Service called
/// `observer` sets OBSERVER_PORT and OBSERVER_SERVICE_HOST in every pod.
macro_rules! settings {
    ($(
        $(#[doc = $doc:tt])+
        $(#[arg($($arg:tt)+)])+
        $field:ident: $given:ty => $value:ty = $default:expr, $reload:ident;
    )+) => {
        /// The settings as given by the user. A field is `None` if it was not given.
        #[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
        pub struct Options {
            $(
                $(#[doc = $doc])+
                #[arg(long, hide_env_values = true)]
                $(#[arg($($arg)+)])+
                pub $field: Option<$given>,
            )+
            /// Thresholds of the detectors, the section `[thresholds]` of the file.
            #[arg(skip)]
            pub thresholds: Option<Thresholds>,
        }

        impl Options {
            /// Takes settings that `self` does not have from `fallback`. A list replaces a list, so
            /// that a flag can narrow the file's list.
            #[must_use]
            pub fn or(self, fallback: Self) -> Self {
                Self {
                    $($field: self.$field.or(fallback.$field),)+
                    thresholds: self.thresholds.or(fallback.thresholds),
                }
            }
        }

        /// Every setting with its value.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Settings {
            $(
                $(#[doc = $doc])+
                pub $field: $value,
            )+
            /// Thresholds of the detectors.
            pub thresholds: Thresholds,
        }

        impl Settings {
            /// Fills in the defaults.
            #[must_use]
            pub fn new(options: Options) -> Self {
                Self {
                    $($field: options.$field.map_or_else(|| $default, <$value>::from),)+
                    thresholds: options.thresholds.unwrap_or_default(),
                }
            }

            /// The result of a reload (SIGHUP) from `self` to `new`.
            #[must_use]
            pub fn reload_diff(&self, new: &Self) -> ReloadDiff {
                let mut diff = ReloadDiff {
                    settings: self.clone(),
                    ..ReloadDiff::default()
                };
                $(
                    if self.$field != new.$field {
                        let key = stringify!($field).replace('_', "-");
                        settings!(@$reload diff, $field, new, key);
                    }
                )+
                if self.thresholds != new.thresholds {
                    diff.settings.thresholds.clone_from(&new.thresholds);
                    diff.live.push("thresholds".to_owned());
                }
                diff
            }
        }
    };
    (@live $diff:ident, $field:ident, $new:ident, $key:ident) => {
        $diff.settings.$field.clone_from(&$new.$field);
        $diff.live.push($key);
    };
    (@restart $diff:ident, $field:ident, $new:ident, $key:ident) => {
        $diff.needs_restart.push($key);
    };
}

settings! {
    /// Address to serve /metrics on; port 0 picks a free one [default: 127.0.0.1:9963]
    #[arg(help_heading = "HTTP", value_name = "ADDR:PORT", env = "OBSERVER_LISTEN")]
    #[arg(visible_alias = "web.listen-address")]
    listen: SocketAddr => SocketAddr = (Ipv4Addr::LOCALHOST, 9963).into(), restart;

    /// Unix socket that serves the same pages to clients on this host; `none` disables it [default:
    /// /run/observer/observer.sock]
    #[arg(help_heading = "HTTP", value_name = "PATH", env = "OBSERVER_API_SOCKET")]
    api_socket: PathBuf => Option<PathBuf> = None, restart;

    /// Group (name or gid) that may use the Unix socket, besides root [default: none]
    #[arg(help_heading = "HTTP", value_name = "GROUP", env = "OBSERVER_API_GROUP")]
    api_group: String => Option<String> = None, restart;

    /// YAML file with TLS and basic authentication settings, in the format of Prometheus' exporters
    /// [default: none]
    #[arg(help_heading = "HTTP", value_name = "FILE", env = "OBSERVER_WEB_CONFIG_FILE")]
    #[arg(visible_alias = "web.config.file")]
    web_config_file: PathBuf => Option<PathBuf> = None, restart;

    /// Maximum number of scrapes that are answered at the same time; further ones get status 503 [default: 8]
    #[arg(help_heading = "HTTP", value_name = "N", env = "OBSERVER_MAX_REQUESTS")]
    #[arg(visible_alias = "web.max-requests")]
    max_requests: MaxRequests => u32 = 8, restart;

    /// Show only processes whose name (comm) matches; may be repeated
    #[arg(help_heading = "Metrics", value_name = "GLOB", env = "OBSERVER_INCLUDE_COMM", value_delimiter = ',')]
    include_comm: Vec<Glob> => Vec<Glob> = Vec::new(), live;

    /// Do not show processes whose name (comm) matches; may be repeated
    #[arg(help_heading = "Metrics", value_name = "GLOB", env = "OBSERVER_EXCLUDE_COMM", value_delimiter = ',')]
    exclude_comm: Vec<Glob> => Vec<Glob> = Vec::new(), live;

    /// Show only processes whose systemd unit or container matches; may be repeated
    #[arg(help_heading = "Metrics", value_name = "GLOB", env = "OBSERVER_INCLUDE_UNIT", value_delimiter = ',')]
    include_unit: Vec<Glob> => Vec<Glob> = Vec::new(), live;

    /// Do not show processes whose systemd unit or container matches; may be repeated
    #[arg(help_heading = "Metrics", value_name = "GLOB", env = "OBSERVER_EXCLUDE_UNIT", value_delimiter = ',')]
    exclude_unit: Vec<Glob> => Vec<Glob> = Vec::new(), live;

    /// Number of destinations per process with series for ports in use; the others are summed up
    /// [default: 5]
    #[arg(help_heading = "Metrics", value_name = "N", env = "OBSERVER_TOP_DESTINATIONS")]
    top_destinations: TopDestinations => u32 = 5, live;

    /// Metrics with a series per process, in addition to those by name [default: all]
    #[arg(help_heading = "Metrics", value_name = "WHICH", env = "OBSERVER_PROCESS_METRICS")]
    process_metrics: ProcessMetrics => ProcessMetrics = ProcessMetrics::default(), restart;

    /// Size of the ring buffer for records, a power of two [default: 1MiB]
    #[arg(help_heading = "Limits", value_name = "SIZE", env = "OBSERVER_RING_BYTES")]
    ring_bytes: RingBytes => u32 = RingBytes::DEFAULT.get(), restart;

    /// Maximum number of sockets to track at the same time [default: 131072]
    #[arg(help_heading = "Limits", value_name = "N", env = "OBSERVER_MAX_CONNECTIONS")]
    max_connections: MaxConnections => u32 = 131_072, restart;

    /// Maximum number of names (comm and unit) with series of their own; further names count for
    /// <other> [default: 1000]
    #[arg(help_heading = "Limits", value_name = "N", env = "OBSERVER_MAX_NAMES")]
    max_names: MaxNames => u32 = 1_000, restart;

    /// Maximum number of processes with series by pid: first those with failures, then those with
    /// the most sockets and file descriptors [default: 400]
    #[arg(help_heading = "Limits", value_name = "N", env = "OBSERVER_MAX_PROCESSES")]
    max_processes: MaxProcesses => u32 = 400, restart;

    /// Maximum number of processes to track at the same time; further processes count for <other>
    /// [default: 4096]
    #[arg(help_heading = "Limits", value_name = "N", env = "OBSERVER_MAX_TRACKED_PROCESSES")]
    max_tracked_processes: MaxTrackedProcesses => u32 = 4_096, restart;

    /// Interval of the housekeeping loop [default: 1s]
    #[arg(help_heading = "Intervals", value_name = "DURATION", env = "OBSERVER_TICK_INTERVAL")]
    tick_interval: Interval => Duration = Duration::from_secs(1), live;

    /// Interval between two counts of a process's file descriptors in /proc. They are counted every
    /// second while 30 % of the limit are open, their number grows by 2 % of it, or the limit is
    /// 256 or less [default: 15s]
    #[arg(help_heading = "Intervals", value_name = "DURATION", env = "OBSERVER_FD_INTERVAL")]
    fd_interval: Interval => Duration = Duration::from_secs(15), live;

    /// Maximum number of processes whose file descriptors are counted per tick [default: 256]
    #[arg(help_heading = "Intervals", value_name = "N", env = "OBSERVER_FD_BATCH")]
    fd_batch: FdBatch => u32 = 256, live;

    /// Interval between two walks over all open files to update socket owners [default: 15s]
    #[arg(help_heading = "Intervals", value_name = "DURATION", env = "OBSERVER_RESYNC_INTERVAL")]
    resync_interval: Interval => Duration = Duration::from_secs(15), live;

    /// Interval between two comparisons of socket counts with the kernel's own [default: 10s]
    #[arg(help_heading = "Intervals", value_name = "DURATION", env = "OBSERVER_RECONCILE_INTERVAL")]
    reconcile_interval: Interval => Duration = Duration::from_secs(10), live;

    /// Share of one CPU that walks over connections may take; the more it is, the more often they
    /// update ports in use, stalled and quiet connections. Ten times as much while ports run out,
    /// or for 30 seconds after a finding that walks know more of is suspected [default: 0.2%]
    #[arg(help_heading = "Intervals", value_name = "PERCENT", env = "OBSERVER_WALK_CPU")]
    walk_cpu: CpuShare => f64 = 0.002, live;

    /// Minimum wait of a connection that is counted as stalled, at least 1s [default: 10s]
    #[arg(help_heading = "Metrics", value_name = "DURATION", env = "OBSERVER_STALL_AFTER")]
    stall_after: Interval => Duration = Duration::from_secs(10), live;

    /// Log level: off, error, warn, info, debug, trace, or directives such as
    /// info,observer::kernel=debug [default: info]
    #[arg(help_heading = "Logging", value_name = "LEVEL", env = "OBSERVER_LOG_LEVEL")]
    log_level: LogFilter => LogFilter = LogFilter::default(), live;

    /// Format of log lines [default: text]
    #[arg(help_heading = "Logging", value_name = "FORMAT", env = "OBSERVER_LOG_FORMAT")]
    log_format: LogFormat => LogFormat = LogFormat::default(), restart;

    /// Log each failure that the kernel programs report [default: false]
    #[arg(help_heading = "Logging", value_name = "BOOL", env = "OBSERVER_LOG_EVENTS")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    #[arg(value_parser = BoolishValueParser::new())]
    log_events: bool => bool = false, live;

    /// Kinds of kernel hook that may be used [default: any]
    #[arg(help_heading = "Kernel", value_name = "KIND", env = "OBSERVER_HOOKS")]
    hooks: Hooks => Hooks = Hooks::default(), restart;

    /// Whether to use tracepoints of system calls, which slow down every system call of the host by
    /// about 12 ns [default: auto]
    #[arg(help_heading = "Kernel", value_name = "WHEN", env = "OBSERVER_SYSCALL_TRACEPOINTS")]
    syscall_tracepoints: SyscallTracepoints => SyscallTracepoints = SyscallTracepoints::default(), restart;

    /// Whether to observe TLS handshakes of programs, with probes on functions of OpenSSL, GnuTLS and Go
    /// [default: auto]
    #[arg(help_heading = "Kernel", value_name = "WHEN", env = "OBSERVER_TLS")]
    tls: ObserveTls => ObserveTls = ObserveTls::default(), restart;

    /// At start, make connections in a separate network namespace to test that each hook on
    /// a kernel function fires [default: true]
    #[arg(help_heading = "Kernel", value_name = "BOOL", env = "OBSERVER_SELF_TEST")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    #[arg(value_parser = BoolishValueParser::new())]
    self_test: bool => bool = true, restart;

    /// Enable the kernel's run-time statistics of BPF programs while the observer runs; this slows
    /// down all BPF programs of the host slightly [default: false]
    #[arg(help_heading = "Kernel", value_name = "BOOL", env = "OBSERVER_BPF_STATS")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    #[arg(value_parser = BoolishValueParser::new())]
    bpf_stats: bool => bool = false, restart;

    /// Allow a pid or time namespace other than the host's, in which processes cannot be identified
    /// [default: false]
    #[arg(help_heading = "Kernel", value_name = "BOOL", env = "OBSERVER_ALLOW_PRIVATE_NAMESPACES")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    #[arg(value_parser = BoolishValueParser::new())]
    allow_private_namespaces: bool => bool = false, restart;

    /// User (name or uid) to become after the hooks are attached. Without it, root becomes
    /// `observer` if that user exists; `root` stays root [default: none]
    #[arg(help_heading = "Privileges", value_name = "USER", env = "OBSERVER_USER")]
    user: String => Option<String> = None, restart;

    /// Keep the user and all capabilities after the hooks are attached, without seccomp and
    /// Landlock [default: false]
    #[arg(help_heading = "Privileges", value_name = "BOOL", env = "OBSERVER_KEEP_CAPABILITIES")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    #[arg(value_parser = BoolishValueParser::new())]
    keep_capabilities: bool => bool = false, restart;
}

/// Patterns that select the processes with series by pid.
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

impl Default for Settings {
    /// The defaults.
    fn default() -> Self {
        Self::new(Options::default())
    }
}

impl Settings {
    /// The processes to show.
    #[must_use]
    pub fn selection(&self) -> Selection {
        Selection {
            include_comm: self.include_comm.clone(),
            exclude_comm: self.exclude_comm.clone(),
            include_unit: self.include_unit.clone(),
            exclude_unit: self.exclude_unit.clone(),
        }
    }
}

/// The outcome of [`Settings::reload_diff`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReloadDiff {
    /// The settings from now on: new values of settings that can change while running, old values of
    /// the others.
    pub settings: Settings,
    /// Keys that changed and apply now.
    pub live: Vec<String>,
    /// Keys that differ and need a restart.
    pub needs_restart: Vec<String>,
}
