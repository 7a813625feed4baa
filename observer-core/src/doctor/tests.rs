use std::{collections::HashMap, sync::Arc, time::Duration};

use observer_common::Slot;

use super::*;
use crate::{
    clock::Clock,
    contract::{self, AttachType, Status},
    detect::{
        self, Anomaly, ConnectResult, Counts, Evidence, Explanation, Finding, Host, SentReset,
        Source, Subject, Unlisted, cause,
    },
    hints::Kernel,
    net::sysctls::Sysctls,
    table::{Labels, ListenAddress, Resources, fake::key},
};

mod binds;
mod follows;
mod limits;
mod odd;

const NETNS: u32 = 4_026_531_840;

fn exhausted(severity: detect::Severity) -> Finding {
    Finding {
        anomaly: Anomaly::FdExhaustion,
        subject: Subject::Process(key(5674, 1)),
        labels: Some(Arc::new(Labels::process(
            5674,
            "api\x1b[31m",
            "api.service",
        ))),
        netns: None,
        severity,
        score: 1.0,
        time_left: Some(Duration::ZERO),
        since: Duration::from_secs(10),
        evidence: Evidence::Descriptors {
            open: 1_024,
            limit: 1_024,
            growth_per_second: 0.0,
            emfile: 212,
            enfile: 0,
            newest: Vec::new(),
            peers: Vec::new(),
        },
        causes: explained(&cause::FD_LIMIT, &Host::default()),
    }
}

fn overflow() -> Finding {
    Finding {
        anomaly: Anomaly::TimeWaitOverflow,
        subject: Subject::Namespace(NETNS),
        labels: None,
        netns: Some(NETNS),
        evidence: Evidence::TimeWaitOverflows { overflows: 7 },
        causes: Vec::new(),
        time_left: None,
        ..exhausted(detect::Severity::Warning)
    }
}

fn host(sysctls: &Sysctls) -> Host {
    Host {
        kernel: Some(Kernel(5, 15)),
        sysctls: Arc::new(sysctls.clone()),
        ..Host::default()
    }
}

/// As the engine does it.
fn explained(cause: &'static cause::Cause, host: &Host) -> Vec<Explanation> {
    let mut causes = cause::explain(&[(cause, 1)]);
    host.advise(&mut causes, Some(NETNS), false);
    causes
}

fn report(findings: &[Finding], failed_options: &[FailedOptions], sysctls: &Sysctls) -> Report {
    report_with(findings, &[], failed_options, &Odd::default(), sysctls)
}

fn report_with(
    findings: &[Finding],
    unlisted: &[Unlisted],
    failed_options: &[FailedOptions],
    odd: &Odd,
    sysctls: &Sysctls,
) -> Report {
    let server = Arc::new(Labels::name("nginx", "nginx.service"));
    let place = |address: &str| ListenAddress {
        netns: NETNS,
        address: address.parse().unwrap(),
    };
    let verdict = |signal, status| contract::Verdict {
        signal,
        attach_type: AttachType::TpBtf,
        hook: "a_function",
        program: "program",
        status,
        detail: "no such function".to_owned(),
        required: false,
    };
    let resources = Resources {
        max_fds: Some(1_024),
        hard_max_fds: Some(524_288),
        ..Resources::default()
    };
    let state = ProcessState {
        resources,
        unguarded: 412,
    };
    Report::new(&Inputs {
        findings,
        processes: &HashMap::from([(key(5674, 1), state)]),
        failed_options,
        listening: &[(place("0.0.0.0:80"), server)],
        odd,
        unlisted,
        host: &host(sysctls),
        verdicts: &[
            verdict("fd_passing", Status::Unsupported),
            verdict("state", Status::Attached),
        ],
        observed_for: Duration::from_secs(300),
        losses: &Losses::default(),
        maps: &[],
        clock: Clock::now(),
    })
}

fn fast_open() -> FailedOptions {
    FailedOptions {
        labels: Arc::new(Labels::name("web", "web.service")),
        netns: Some(NETNS),
        family: "inet6".to_owned(),
        protocol: "mptcp".to_owned(),
        option: "TCP_FASTOPEN".to_owned(),
        errno: "ENOPROTOOPT".to_owned(),
        count: 3,
        is_running: true,
    }
}

#[test]
fn a_report_survives_json_and_names_culprit_and_fix() {
    let sysctls = Sysctls {
        host: [("fs.nr_open", 1_048_576)].into(),
        namespaces: [(NETNS, [("net.ipv4.tcp_max_tw_buckets", 500_000)].into())].into(),
    };
    let findings = [exhausted(detect::Severity::Critical)];
    let made = report(&findings, &[fast_open()], &sysctls);
    let json = serde_json::to_string(&made).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), made);
    assert_eq!(made.exit_status(), 2);
    let text = render(&made, None);
    assert!(text.is_ascii(), "{text}");
    assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    let narrow = render(&made, Some(60));
    assert!(narrow.lines().all(|line| line.len() <= 60), "{narrow}");
    assert_eq!(render(&made, Some(200)), text);
    let words: Vec<_> = text.split_whitespace().collect();
    let words = words.join(" ");
    for expected in [
        "FAIL fd-exhaustion api\\x1b[31m (pid 5674, api.service) has 1,024 of 1,024",
        "Cause has as many descriptors open as its limit allows",
        "Fix Close what is no longer needed; until then raise the limit",
        "NOTE setsockopt-fails web (web.service): 3 setsockopt(TCP_FASTOPEN) calls failed with \
         ENOPROTOOPT on mptcp sockets",
        "GODEBUG=multipathtcp=0",
        "2 settings were checked and are fine",
        "not checked fd_passing: a_function: no such function",
    ] {
        assert!(words.contains(expected), "{expected}\n{text}");
    }
    assert!(!words.contains("not checked state"), "{text}");
}

#[test]
fn the_exit_status_is_that_of_the_worst() {
    let nothing = Sysctls::default();
    assert_eq!(report(&[], &[], &nothing).exit_status(), 0);
    assert_eq!(report(&[], &[fast_open()], &nothing).exit_status(), 0);
    let warning = [exhausted(detect::Severity::Warning)];
    assert_eq!(report(&warning, &[], &nothing).exit_status(), 1);
    let both = [warning[0].clone(), exhausted(detect::Severity::Critical)];
    let both = report(&both, &[], &nothing);
    assert_eq!(both.exit_status(), 2);
    assert_eq!(
        both.findings[0].severity,
        Severity::Fail,
        "the worst comes first"
    );
    assert!(render(&report(&[], &[], &nothing), None).starts_with("OK "));
}

#[test]
fn a_setting_is_bad_where_something_runs_into_it() {
    let of = |findings: &[Finding], values: &[(&'static str, u64)]| {
        let sysctls = Sysctls {
            host: values.iter().copied().collect(),
            namespaces: [(NETNS, values.iter().copied().collect())].into(),
        };
        let settings = report(findings, &[], &sysctls).settings;
        let all = settings.into_iter().map(|it| (it.netns, it.verdict));
        let worst = all.max_by_key(|(_, verdict)| *verdict);
        worst.unwrap()
    };
    let buckets = [("net.ipv4.tcp_max_tw_buckets", 500_000)];
    assert_eq!(of(&[], &buckets).1, Verdict::Ok);
    assert_eq!(of(&[overflow()], &buckets), (Some(NETNS), Verdict::Warn));
    // In another namespace.
    let mut elsewhere = overflow();
    elsewhere.netns = Some(1);
    assert_eq!(of(&[elsewhere], &buckets).1, Verdict::Ok);
    let ports = Finding {
        anomaly: Anomaly::PortExhaustion,
        ..overflow()
    };
    let range = [("net.ipv4.ip_local_port_range_high", 33_000)];
    assert_eq!(of(&[], &range).1, Verdict::Ok);
    assert_eq!(of(&[ports], &range).1, Verdict::Warn);
    let queue = Finding {
        anomaly: Anomaly::ListenOverflow,
        ..overflow()
    };
    let abort = [("net.ipv4.tcp_abort_on_overflow", 1)];
    assert_eq!(of(&[], &abort).1, Verdict::Ok);
    assert_eq!(of(&[queue], &abort).1, Verdict::Warn);
    let process = |anomaly, cause, values: &[(&'static str, u64)]| {
        let sysctls = Sysctls {
            host: values.iter().copied().collect(),
            namespaces: [(NETNS, values.iter().copied().collect())].into(),
        };
        let finding = Finding {
            anomaly,
            netns: Some(NETNS),
            causes: cause::explain(&[(cause, 1)]),
            ..exhausted(detect::Severity::Warning)
        };
        let report = report(&[finding], &[], &sysctls);
        let settings = report.settings.into_iter();
        let warned = settings.filter(|it| it.verdict == Verdict::Warn);
        warned.map(|it| (it.netns, it.why)).collect::<Vec<_>>()
    };
    let retries = [
        ("net.ipv4.tcp_syn_retries", 6),
        ("net.ipv4.tcp_syn_linear_timeouts", 4),
    ];
    let [(Some(NETNS), why)] =
        &process(Anomaly::ConnectFailures, &cause::SYN_DROPPED, &retries)[..]
    else {
        panic!("the retries of SYNs");
    };
    assert!(why.ends_with("hangs for 131 s"), "{why}");
    let of_refused = process(Anomaly::ConnectFailures, &cause::NOTHING_LISTENS, &retries);
    assert_eq!(of_refused, []);
    let few = [("net.ipv4.tcp_syn_retries", 4)];
    let of_few = process(Anomaly::ConnectFailures, &cause::SYN_DROPPED, &few);
    assert_eq!(of_few, []);
    let silent = [
        ("net.ipv4.tcp_keepalive_time", 7_200),
        ("net.ipv4.tcp_retries2", 15),
    ];
    let of_silent = process(Anomaly::SilentPeers, &cause::NOT_ACKNOWLEDGED, &silent);
    assert_eq!(of_silent.len(), 2, "{of_silent:?}");
    assert!(of_silent[1].1.contains("ends after 925 s"), "{of_silent:?}");
    let files = [("fs.file-max", 1_000)];
    let of_files = process(Anomaly::FdExhaustion, &cause::FILE_TABLE, &files);
    assert!(matches!(&of_files[..], [(None, why)] if why.contains("ENFILE")));
    assert_eq!(process(Anomaly::FdExhaustion, &cause::FD_LIMIT, &files), []);
    let orphans = [("net.ipv4.tcp_max_orphans", 1_000)];
    let of_orphans = process(Anomaly::RstStorm, &cause::ORPHANS, &orphans);
    assert_eq!(of_orphans.len(), 1);
    let tracked = |count| {
        [
            ("net.netfilter.nf_conntrack_max", 1_000),
            ("net.netfilter.nf_conntrack_count", count),
        ]
    };
    assert_eq!(of(&[], &tracked(899)).1, Verdict::Ok);
    assert_eq!(of(&[], &tracked(900)), (None, Verdict::Warn));
}
