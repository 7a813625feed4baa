use clap::{CommandFactory as _, error::ErrorKind};

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

fn help(line: &str) -> String {
    let error = parse(line).unwrap_err();
    assert_eq!(error.exit_code(), 0);
    error.to_string()
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn misuse_exits_with_2() {
    for line in [
        "observer",
        "observer walk",
        "observer run --listen nowhere",
        "observer run --ring-bytes 5000",
        "observer run --tick-interval 0s",
        "observer run --log-events maybe",
        "observer run --include-comm=",
        "observer tail --kind resets",
        "observer tail --pid 0",
        "observer tail --port 70000",
        "observer tail --duration 0s",
        "observer tail --count 0",
        "observer check extra",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
    let error = parse("observer run --ring-bytes 5000")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(
            "invalid value '5000' for '--ring-bytes <SIZE>': 5000 bytes is not a power of two; \
             the nearest are 4KiB and 8KiB"
        ),
        "{error}"
    );
    let error = parse("observer tail --kind resets")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("not one of close, connect-failed, reset-sent"),
        "{error}"
    );
}

#[test]
fn flags_arrive() {
    let Command::Tail(tail) = parse(
        "observer tail --pid 7 --port 80,443 --json --count 3 --duration 10s --ring-bytes 64KiB",
    )
    .unwrap()
    .command
    else {
        panic!("not tail");
    };
    assert_eq!((tail.pid, tail.port), (vec![7], vec![80, 443]));
    assert!(tail.json && !tail.states);
    assert_eq!(tail.count, Some(3));
    assert_eq!(tail.duration, Some(Duration::from_secs(10)));
    assert_eq!(tail.ring_bytes.get(), 65_536);

    let Command::Run(run) = parse("observer run --log-events --bpf-stats=no")
        .unwrap()
        .command
    else {
        panic!("not run");
    };
    assert_eq!(run.options.log_events, Some(true));
    assert_eq!(run.options.bpf_stats, Some(false));
    assert_eq!(run.options.keep_capabilities, None);

    let Command::Check(check) = parse("observer check --json").unwrap().command else {
        panic!("not check");
    };
    assert!(check.json);
}

#[test]
fn help_is_grouped_and_has_examples() {
    let top = help("observer --help");
    for word in ["run", "check", "tail", "Examples:", "observer check  "] {
        assert!(top.contains(word), "{word}: {top}");
    }
    let run = help("observer run --help");
    for word in [
        "Metrics:",
        "Limits:",
        "Intervals:",
        "Logging:",
        "Kernel:",
        "Examples:",
    ] {
        assert!(run.contains(&format!("\n{word}\n")), "{word}: {run}");
    }
    assert!(run.contains("[env: OBSERVER_LISTEN]") && run.contains("[default: 127.0.0.1:9963]"));
    let tail = help("observer tail --help");
    for word in ["Filters:", "Output:", "[default: 1MiB]"] {
        assert!(tail.contains(word), "{word}: {tail}");
    }
    for kind in observer_common::RECORD_NAMES {
        assert!(
            tail.contains(&kind.replace('_', "-")),
            "{kind} is not in the help"
        );
    }
    assert!(help("observer check --help").contains("Exit status: 0 when"));
}

#[test]
fn version_is_the_packages() {
    let error = parse("observer --version").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DisplayVersion);
    assert!(
        error
            .to_string()
            .starts_with(concat!("observer ", env!("CARGO_PKG_VERSION")))
    );
    assert!(version().starts_with(env!("CARGO_PKG_VERSION")));
}
