use std::{collections::BTreeSet, io::Write as _, process::Command};

use clap::{Args as _, FromArgMatches as _};
use proptest::prelude::*;

use super::*;
use crate::export::ProcessMetrics;

fn command() -> clap::Command {
    RunArgs::augment_args(clap::Command::new("run"))
}

fn args(flags: &[&str]) -> RunArgs {
    let matches = command()
        .try_get_matches_from([&["run"], flags].concat())
        .unwrap();
    RunArgs::from_arg_matches(&matches).unwrap()
}

fn file_error(text: &str) -> String {
    file::parse(text).unwrap_err()
}

/// One valid value for each key, none of them the default.
const FULL: &str = r#"
listen = "[::]:0"
api-socket = "/run/other.sock"
api-group = "adm"
web-config-file = "/etc/observer/web.yml"
max-requests = 40
include-comm = ["nginx*", "p?p"]
exclude-comm = ["sshd"]
include-unit = ["*.service"]
exclude-unit = []
top-destinations = 3
process-metrics = "gauges"
ring-bytes = "64KiB"
max-connections = 4096
max-names = 32
max-processes = 64
max-tracked-processes = 256
tick-interval = "500ms"
fd-interval = "1m"
fd-batch = 10
resync-interval = "1m 30s"
reconcile-interval = "20s"
walk-cpu = "0.5%"
stall-after = "1m"
log-level = "debug"
log-format = "json"
log-events = true
hooks = "kprobe"
syscall-tracepoints = "never"
tls = "never"
self-test = false
bpf-stats = true
allow-private-namespaces = true
user = "nobody"
keep-capabilities = true

[thresholds]
rst-rate = 20
"#;

#[test]
fn every_option_is_a_flag_a_variable_and_a_key() {
    let arguments = Options::augment_args(clap::Command::new("run"));
    let mut flags = BTreeSet::new();
    for argument in arguments.get_arguments() {
        let name = argument.get_long().unwrap();
        let variable = argument.get_env().unwrap().to_str().unwrap();
        assert_eq!(
            variable,
            format!("OBSERVER_{}", name.to_uppercase().replace('-', "_"))
        );
        assert!(
            !variable.starts_with("OBSERVER_PORT") && !variable.starts_with("OBSERVER_SERVICE")
        );
        assert!(
            argument.get_help_heading().is_some(),
            "{name} has no heading"
        );
        flags.insert(name.to_owned());
    }
    let error = toml::from_str::<Options>("x = 1").unwrap_err().to_string();
    let mut keys: BTreeSet<String> = error
        .split('`')
        .skip(3)
        .step_by(2)
        .map(str::to_owned)
        .collect();
    assert!(keys.remove("thresholds"), "a section, and no flag");
    assert_eq!(flags, keys);
    let mut full: toml::Table = toml::from_str(FULL).unwrap();
    assert!(full.remove("thresholds").is_some());
    assert_eq!(flags, full.keys().cloned().collect());
}

#[test]
fn help_names_the_real_defaults() {
    let Settings {
        listen,
        api_socket,
        api_group,
        web_config_file,
        max_requests,
        include_comm: _,
        exclude_comm: _,
        include_unit: _,
        exclude_unit: _,
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
        walk_cpu,
        stall_after,
        log_level,
        log_format,
        log_events,
        hooks,
        syscall_tracepoints,
        tls,
        self_test,
        bpf_stats,
        allow_private_namespaces,
        user,
        keep_capabilities,
        thresholds: _,
    } = Settings::default();
    let defaults = [
        ("listen", listen.to_string()),
        (
            "api-socket",
            api_socket.map_or(DEFAULT_API_SOCKET.to_owned(), |it| it.display().to_string()),
        ),
        ("api-group", api_group.unwrap_or_else(|| "none".to_owned())),
        (
            "web-config-file",
            web_config_file.map_or("none".to_owned(), |it| it.display().to_string()),
        ),
        ("max-requests", max_requests.to_string()),
        ("top-destinations", top_destinations.to_string()),
        (
            "process-metrics",
            format!("{process_metrics:?}").to_lowercase(),
        ),
        ("ring-bytes", format_size(ring_bytes.into())),
        ("max-connections", max_connections.to_string()),
        ("max-names", max_names.to_string()),
        ("max-processes", max_processes.to_string()),
        ("max-tracked-processes", max_tracked_processes.to_string()),
        ("tick-interval", format_duration(tick_interval)),
        ("fd-interval", format_duration(fd_interval)),
        ("fd-batch", fd_batch.to_string()),
        ("resync-interval", format_duration(resync_interval)),
        ("reconcile-interval", format_duration(reconcile_interval)),
        ("walk-cpu", format!("{}%", walk_cpu * 100.0)),
        ("stall-after", format_duration(stall_after)),
        ("log-level", log_level.to_string()),
        ("log-format", log_format.to_string()),
        ("log-events", log_events.to_string()),
        ("hooks", format!("{hooks:?}").to_lowercase()),
        (
            "syscall-tracepoints",
            format!("{syscall_tracepoints:?}").to_lowercase(),
        ),
        ("tls", format!("{tls:?}").to_lowercase()),
        ("self-test", self_test.to_string()),
        ("bpf-stats", bpf_stats.to_string()),
        (
            "allow-private-namespaces",
            allow_private_namespaces.to_string(),
        ),
        ("user", user.unwrap_or_else(|| "none".to_owned())),
        ("keep-capabilities", keep_capabilities.to_string()),
    ];
    let command = command();
    for (name, default) in defaults {
        let argument = command
            .get_arguments()
            .find(|a| a.get_long() == Some(name))
            .unwrap();
        let help = argument.get_help().unwrap().to_string();
        assert!(
            help.contains(&format!("[default: {default}]")),
            "{name}: {help}"
        );
    }
}

#[test]
fn file_is_read_and_every_key_arrives() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(FULL.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    let settings = args(&["--config", path]).settings().unwrap();
    let globs = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect();
    let expected = Settings {
        listen: "[::]:0".parse().unwrap(),
        api_socket: Some("/run/other.sock".into()),
        api_group: Some("adm".to_owned()),
        web_config_file: Some("/etc/observer/web.yml".into()),
        max_requests: 40,
        include_comm: globs(&["nginx*", "p?p"]),
        exclude_comm: globs(&["sshd"]),
        include_unit: globs(&["*.service"]),
        exclude_unit: vec![],
        top_destinations: 3,
        process_metrics: ProcessMetrics::Gauges,
        ring_bytes: 65_536,
        max_connections: 4096,
        max_names: 32,
        max_processes: 64,
        max_tracked_processes: 256,
        tick_interval: Duration::from_millis(500),
        fd_interval: Duration::from_mins(1),
        fd_batch: 10,
        resync_interval: Duration::from_secs(90),
        reconcile_interval: Duration::from_secs(20),
        walk_cpu: 0.005,
        stall_after: Duration::from_mins(1),
        log_level: "debug".parse().unwrap(),
        log_format: LogFormat::Json,
        log_events: true,
        hooks: Hooks::Kprobe,
        syscall_tracepoints: SyscallTracepoints::Never,
        tls: ObserveTls::Never,
        self_test: false,
        bpf_stats: true,
        allow_private_namespaces: true,
        user: Some("nobody".to_owned()),
        keep_capabilities: true,
        thresholds: Thresholds {
            rst_rate: 20.0,
            ..Thresholds::default()
        },
    };
    assert_eq!(settings, expected);

    // Flags win over the file, a list replaces a list, and a switch can be turned off.
    let flags = [
        "--config",
        path,
        "--listen=127.0.0.1:1",
        "--include-comm=a,b",
        "--log-events=no",
    ];
    let settings = args(&flags).settings().unwrap();
    assert_eq!(
        settings,
        Settings {
            listen: "127.0.0.1:1".parse().unwrap(),
            include_comm: globs(&["a", "b"]),
            log_events: false,
            ..expected
        }
    );
}

/// The environment belongs to a whole process, so this runs itself in a new one.
#[test]
fn environment_stands_between_flags_and_file() {
    if std::env::var_os("TEST_PRECEDENCE_FILE").is_none() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(FULL.as_bytes()).unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "config::tests::environment_stands_between_flags_and_file",
            ])
            .env("TEST_PRECEDENCE_FILE", file.path())
            .env("OBSERVER_CONFIG", file.path())
            .env("OBSERVER_FD_BATCH", "11")
            .env("OBSERVER_MAX_PROCESSES", "65")
            .env("OBSERVER_EXCLUDE_COMM", "x*,y")
            .env("OBSERVER_LOG_EVENTS", "0")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
        return;
    }
    let settings = args(&["--fd-batch", "12"]).settings().unwrap();
    assert_eq!(settings.fd_batch, 12, "flag over variable");
    assert_eq!(settings.max_processes, 65, "variable over file");
    assert_eq!(settings.exclude_comm.len(), 2);
    assert!(!settings.log_events);
    assert_eq!(settings.ring_bytes, 65_536, "file over default");
}

#[test]
fn file_errors_have_line_column_key_and_hint() {
    assert_eq!(
        file_error("listen = \"[::]:0\"\nlog_levl = \"info\"\n"),
        "TOML parse error at line 2, column 1\n  |\n2 | log_levl = \"info\"\n  | ^^^^^^^^\n\
         unknown field `log_levl`, expected one of `listen`, `api-socket`, `api-group`, \
         `web-config-file`, `max-requests`, `include-comm`, `exclude-comm`, \
         `include-unit`, `exclude-unit`, `top-destinations`, \
         `process-metrics`, `ring-bytes`, `max-connections`, `max-names`, `max-processes`, \
         `max-tracked-processes`, \
         `tick-interval`, `fd-interval`, `fd-batch`, `resync-interval`, `reconcile-interval`, \
         `walk-cpu`, `stall-after`, `log-level`, `log-format`, `log-events`, `hooks`, `syscall-tracepoints`, `tls`, \
         `self-test`, `bpf-stats`, `allow-private-namespaces`, `user`, `keep-capabilities`, \
         `thresholds`\n\
         hint: did you mean `log-level`?"
    );
    assert_eq!(
        file_error("fd-batch = 3\nring-bytes = 65000\n"),
        "TOML parse error at line 2, column 14\n  |\n2 | ring-bytes = 65000\n  |              ^^^^^\n\
         65000 bytes is not a power of two; the nearest are 32KiB and 64KiB"
    );
    assert_eq!(
        file_error("tick-interval = 5"),
        "TOML parse error at line 1, column 17\n  |\n1 | tick-interval = 5\n  |                 ^\n\
         invalid type: integer `5`, expected a duration such as \"500ms\", \"15s\" or \"1m\""
    );
    let section = file_error("[metrics]\nlisten = \"[::]:0\"\n");
    assert!(
        section.contains("the only section is [thresholds]"),
        "{section}"
    );
    let threshold = file_error("fd-batch = 1\n[thresholds]\nrst_rate = 20\n");
    assert!(
        threshold.contains("line 3, column 1") && threshold.contains("did you mean `rst-rate`?"),
        "{threshold}"
    );
    let zero = file_error("[thresholds]\nrst-rate = 0\n");
    assert!(zero.contains("a threshold is a number above 0"), "{zero}");
    let syntax = file_error("listen = \n");
    assert!(
        syntax.contains("line 1, column 10") && !syntax.contains("hint"),
        "{syntax}"
    );
    let twice = file_error("fd-batch = 1\nfd-batch = 2\n");
    assert!(twice.contains("line 2, column 1"), "{twice}");

    let error = args(&["--config", "/nonexistent.toml"])
        .settings()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read configuration file /nonexistent.toml"
    );
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"log-format = \"xml\"").unwrap();
    let path = file.path().to_str().unwrap();
    let error = args(&["--config", path])
        .settings()
        .unwrap_err()
        .to_string();
    assert!(error.starts_with(&format!(
        "configuration file {path}: TOML parse error at line 1"
    )));
    assert!(error.contains("expected `text` or `json`"), "{error}");
}

#[test]
fn bad_values_say_what_is_wrong() {
    let error = |text: &str| text.parse::<RingBytes>().unwrap_err().to_string();
    assert_eq!(error("2048"), "2048 bytes is less than the minimum of 4096");
    assert_eq!(error("2GiB"), "the maximum is 1GiB");
    assert_eq!(error("8GiB"), "the maximum is 1GiB");
    assert_eq!(error("1MB"), "unknown unit \"MB\"; use B, KiB, MiB or GiB");
    assert_eq!(error("MiB"), "not a size; write 4096, 64KiB or 1MiB");
    assert_eq!(error("99999999999GiB"), "the number is too large");
    let error = |text: &str| text.parse::<Interval>().unwrap_err().to_string();
    assert_eq!(error("0s"), "a duration of zero makes no sense here");
    assert_eq!(error("1ms"), "1ms is outside the range of 10ms to 24h");
    assert!(error("1M").ends_with("is outside the range of 10ms to 24h"));
    assert!(error("15").ends_with("(write 500ms, 15s or 1m)"));
    let error = |text: &str| text.parse::<MaxTrackedProcesses>().unwrap_err().to_string();
    assert_eq!(error("0"), "0 is outside the range of 16 to 65536");
    assert_eq!(error("-1"), "-1 is outside the range of 16 to 65536");
    assert_eq!(error("many"), "not a whole number between 16 and 65536");
    assert!("".parse::<Glob>().is_err());
}

#[test]
fn log_filters_take_levels_and_directives_but_no_typos() {
    for good in [
        "off",
        "info",
        "WARN",
        "info,observer::kernel=debug",
        "observer[span{a=1}]=trace",
    ] {
        assert_eq!(good.parse::<LogFilter>().unwrap().directives(), good);
    }
    let error = "inof".parse::<LogFilter>().unwrap_err().to_string();
    assert!(error.starts_with("\"inof\" is not one of off, error, warn, info, debug, trace"));
    for bad in ["", "info,", "hyper", "a=verbose", "\u{a0}0="] {
        assert!(bad.parse::<LogFilter>().is_err(), "{bad}");
    }
}

#[test]
fn a_larger_page_raises_the_smallest_ring() {
    assert!(RingBytes::checked(4096, 65_536).is_err());
    assert!(RingBytes::checked(65_536, 65_536).is_ok());
}

#[test]
fn selection_excludes_first_and_needs_every_include_list() {
    let globs = |text: &str| {
        text.split(' ')
            .map(|t| t.parse().unwrap())
            .collect::<Vec<Glob>>()
    };
    let all = Selection::default();
    assert!(all.selects("nginx", "") && all.selects("", "nginx.service"));
    let some = Selection {
        include_comm: globs("nginx* redis"),
        exclude_comm: globs("nginx-debug"),
        include_unit: globs("*.service"),
        exclude_unit: vec![],
    };
    assert!(some.selects("nginx", "web.service"));
    assert!(!some.selects("nginx-debug", "web.service"));
    assert!(!some.selects("nginx", ""));
    assert!(
        !some.selects("my-redis", "web.service"),
        "the whole name has to match"
    );
}

#[test]
fn reload_adopts_what_may_change_and_names_the_rest() {
    let old = Settings::default();
    assert_eq!(old.reload_diff(&old).settings, old);
    let new = Settings::new(file::parse(FULL).unwrap());
    let diff = old.reload_diff(&new);
    assert_eq!(
        diff.live,
        [
            "include-comm",
            "exclude-comm",
            "include-unit",
            "top-destinations",
            "tick-interval",
            "fd-interval",
            "fd-batch",
            "resync-interval",
            "reconcile-interval",
            "walk-cpu",
            "stall-after",
            "log-level",
            "log-events",
            "thresholds",
        ]
    );
    assert_eq!(
        diff.needs_restart,
        [
            "listen",
            "api-socket",
            "api-group",
            "web-config-file",
            "max-requests",
            "process-metrics",
            "ring-bytes",
            "max-connections",
            "max-names",
            "max-processes",
            "max-tracked-processes",
            "log-format",
            "hooks",
            "syscall-tracepoints",
            "tls",
            "self-test",
            "bpf-stats",
            "allow-private-namespaces",
            "user",
            "keep-capabilities",
        ]
    );
    assert_eq!(diff.settings.fd_batch, 10);
    assert_eq!(diff.settings.listen, old.listen);
    let again = diff.settings.reload_diff(&new);
    assert!(again.live.is_empty(), "adopted once");
    assert_eq!(again.needs_restart, diff.needs_restart, "still waiting");
}

proptest! {
    #[test]
    fn sizes_round_trip(bytes: u64) {
        prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
    }

    #[test]
    fn round_sizes_round_trip_with_a_unit(number in 1_u64..4096, shift in 0_u32..5) {
        let bytes = number << (10 * shift);
        prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
    }

    #[test]
    fn durations_round_trip(nanoseconds in 1_u64..) {
        let duration = Duration::from_nanos(nanoseconds);
        prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in ".{0,24}") {
        let _ = text.parse::<RingBytes>();
        let _ = text.parse::<Interval>();
        let _ = text.parse::<MaxConnections>();
        let _ = text.parse::<Glob>();
        let _ = text.parse::<LogFilter>();
        let _ = file::parse(&text);
    }

    #[test]
    fn no_log_filter_makes_tracing_panic(text in "[a-z0-9:=,{}\\[\\]\" /~-]{0,24}") {
        let _ = text.parse::<LogFilter>();
    }

    #[test]
    fn accepted_rings_suit_the_kernel(exponent in 0_u32..40, more in 0_u64..3) {
        if let Ok(ring) = format!("{}", (1_u64 << exponent) + more).parse::<RingBytes>() {
            prop_assert!(ring.get().is_power_of_two() && ring.get() >= 4096);
        }
    }

    #[test]
    fn the_first_source_that_has_a_value_wins(
        flag in proptest::option::of(1_u32..100),
        file in proptest::option::of(1_u32..100),
    ) {
        let option = |n: Option<u32>| Options {
            fd_batch: n.map(|n| n.to_string().parse().unwrap()),
            ..Options::default()
        };
        let settings = Settings::new(option(flag).or(option(file)));
        prop_assert_eq!(settings.fd_batch, flag.or(file).unwrap_or(256));
    }
}
