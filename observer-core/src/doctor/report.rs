//! The report and how it is made.

use std::{collections::HashMap, sync::Arc};

use observer_common::ProcessKey;
use serde::{Deserialize, Serialize};

use super::{
    follows::{Listening, id, origin},
    item::{Item, Severity, with_hints},
    notes::{ProcessState, notes},
    odd::Odd,
    settings::{Setting, Verdict, settings},
};
use crate::{
    clock::Clock,
    contract,
    detect::{self, Finding, Host, headline},
    hints::{FailedOption, for_option},
    table::Labels,
};

/// A signal that is not observed on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotLookedAt {
    /// The signal.
    pub what: String,
    /// Why not.
    pub why: String,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Worst first.
    pub findings: Vec<Item>,
    /// Those of the host first.
    pub settings: Vec<Setting>,
    /// By signal.
    pub not_looked_at: Vec<NotLookedAt>,
}

/// Failed setsockopt() calls of a name, by the labels of `socket_setsockopt_failures_total`.
#[derive(Clone, Debug)]
pub struct FailedOptions {
    /// Whose.
    pub labels: Arc<Labels>,
    /// The network namespace of its processes, if it is one and known.
    pub netns: Option<u32>,
    /// Address family.
    pub family: String,
    /// Protocol.
    pub protocol: String,
    /// Option.
    pub option: String,
    /// Errno.
    pub errno: String,
    /// Number of calls.
    pub count: u64,
}

/// The sources of a report.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// Findings of the detectors, worst first.
    pub findings: &'a [Finding],
    /// Processes by key.
    pub processes: &'a HashMap<ProcessKey, ProcessState>,
    /// Failed setsockopt() calls since the daemon started.
    pub failed_options: &'a [FailedOptions],
    /// Where programs listen.
    pub listening: &'a [Listening],
    /// What no detector raises.
    pub odd: &'a Odd,
    /// What is known of the host.
    pub host: &'a Host,
    /// The verdict on each hook.
    pub verdicts: &'a [contract::Verdict],
    /// For wall-clock times.
    pub clock: Clock,
}

impl Report {
    /// Puts a report together.
    #[must_use]
    pub fn new(inputs: &Inputs<'_>) -> Self {
        let found = inputs.findings.iter();
        let mut findings: Vec<_> = found.map(|it| of_finding(it, inputs)).collect();
        let options = inputs.failed_options.iter();
        findings.extend(options.map(|it| of_options(it, inputs.host)));
        findings.extend(inputs.odd.items(inputs.host, inputs.findings));
        findings.sort_by_key(|it| std::cmp::Reverse(it.severity));
        Self {
            findings,
            settings: settings(&inputs.host.sysctls, inputs.findings),
            not_looked_at: not_looked_at(inputs.verdicts),
        }
    }

    /// The exit status of `observer doctor`: 0 if nothing is wrong, 1 for warnings, 2 for failures.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        let worst = self.findings.iter().map(|it| it.severity).max();
        let settings = self.settings.iter().map(|it| it.verdict).max();
        match (worst, settings) {
            (Some(Severity::Fail), _) => 2,
            (Some(Severity::Warn), _) | (_, Some(Verdict::Warn)) => 1,
            _ => 0,
        }
    }
}

fn of_finding(finding: &Finding, inputs: &Inputs<'_>) -> Item {
    let hints: Vec<_> = finding.causes.iter().flat_map(|it| &it.hints).collect();
    Item {
        id: id(finding.anomaly),
        severity: match finding.severity {
            detect::Severity::Warning => Severity::Warn,
            detect::Severity::Critical => Severity::Fail,
        },
        anomaly: Some(finding.anomaly.name().to_owned()),
        subject: serde_json::to_value(&finding.subject).unwrap_or_default(),
        since: Some(inputs.clock.rfc3339_at(finding.since)),
        summary: headline(finding),
        evidence: serde_json::to_value(&finding.evidence).unwrap_or_default(),
        time_left_seconds: finding.time_left.map(|left| left.as_secs_f64()),
        follows_from: origin(finding, inputs.findings, inputs.listening),
        notes: notes(finding, inputs.processes, &inputs.host.sysctls),
        causes: finding
            .causes
            .iter()
            .map(|it| it.cause.text.to_owned())
            .collect(),
        ..with_hints(&hints)
    }
}

fn of_options(failed: &FailedOptions, host: &Host) -> Item {
    let FailedOptions {
        labels,
        netns,
        family,
        protocol,
        option,
        errno,
        count,
    } = failed;
    let call = FailedOption {
        family,
        protocol,
        option,
        errno,
    };
    let hints = for_option(&call, &host.known(*netns, false));
    let socket = match (family.as_str(), protocol.as_str()) {
        (family, "") => family.to_owned(),
        ("inet" | "inet6", protocol) => protocol.to_owned(),
        (family, protocol) => format!("{family} {protocol}"),
    };
    let calls = if *count == 1 { "call" } else { "calls" };
    Item {
        id: "setsockopt-fails".to_owned(),
        subject: serde_json::json!({"kind": "name", "comm": labels.comm(), "unit": labels.unit()}),
        summary: format!(
            "{}: {count} setsockopt({option}) {calls} failed with {errno} on {socket} sockets",
            detect::named(labels)
        ),
        evidence: serde_json::json!({
            "family": family, "protocol": protocol, "option": option, "errno": errno, "count": count,
        }),
        ..with_hints(&hints.iter().collect::<Vec<_>>())
    }
}

fn not_looked_at(verdicts: &[contract::Verdict]) -> Vec<NotLookedAt> {
    let missing = contract::summaries(verdicts).into_iter().filter_map(|it| {
        let why = match (it.hooks.is_empty(), it.unavailable) {
            (true, Some(verdict)) => format!("{}: {}", verdict.hook, verdict.detail),
            (true, None) => "no hook for it was tried".to_owned(),
            (false, _) if it.inferred => format!("not counted, but {}", it.remarks.join("; ")),
            (false, _) => return None,
        };
        Some(NotLookedAt {
            what: it.signal.to_owned(),
            why,
        })
    });
    missing.collect()
}
