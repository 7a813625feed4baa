//! The report and how it is made.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use observer_common::ProcessKey;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    follows::{Listening, id, origin},
    item::{Item, NotLookedAt, Severity, with_hints},
    losses::Losses,
    notes::{ProcessState, notes},
    odd::Odd,
    options::{self, FailedOptions},
    settings::{Setting, Verdict, settings},
};
use crate::{
    clock::Clock,
    contract,
    detect::{self, Finding, Host, Limit, Subject, Unlisted, duration, headline, number},
    table::{Labels, SESSIONS},
};

/// How long a daemon has to run until `observer doctor` does not say that it is new: the time in which most findings are
/// raised.
const NEW: Duration = Duration::from_secs(300);
/// Maximum number of units that are named whose findings are not listed.
const UNITS: usize = 3;
/// The same in the evidence.
const EVIDENCE: usize = 10;

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Worst first.
    pub findings: Vec<Item>,
    /// Those of the host first.
    pub settings: Vec<Setting>,
    /// What time was too short for, then what is incomplete, then by signal.
    pub not_looked_at: Vec<NotLookedAt>,
}

/// The sources of a report.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// Findings of the detectors, worst first.
    pub findings: &'a [Finding],
    /// Findings for which there was no room.
    pub unlisted: &'a [Unlisted],
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
    /// How long the detectors have had samples.
    pub observed_for: Duration,
    /// What could not be counted.
    pub losses: &'a Losses,
    /// Fill levels.
    pub maps: &'a [contract::MapFill],
    /// For wall-clock times.
    pub clock: Clock,
}

impl Report {
    /// Puts a report together.
    #[must_use]
    pub fn new(inputs: &Inputs<'_>) -> Self {
        let found = inputs.findings.iter();
        let mut findings: Vec<_> = found.map(|it| of_finding(it, inputs)).collect();
        findings.extend(options::items(inputs.failed_options, inputs.host));
        findings.extend(inputs.odd.items(inputs.host, inputs.findings));
        findings.extend(of_unlisted(inputs.unlisted));
        findings.sort_by_key(|it| std::cmp::Reverse(it.severity));
        Self {
            findings,
            settings: settings(&inputs.host.sysctls, inputs.findings),
            not_looked_at: not_looked_at(inputs),
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
        notes: others(finding, inputs.unlisted)
            .into_iter()
            .chain(notes(finding, inputs.processes, &inputs.host.sysctls))
            .collect(),
        causes: finding
            .causes
            .iter()
            .map(|it| it.cause.text.to_owned())
            .collect(),
        ..with_hints(&hints)
    }
}

/// That more processes of its name would have the same finding.
fn others(finding: &Finding, unlisted: &[Unlisted]) -> Option<String> {
    let labels = finding.labels.as_ref()?;
    let others = unlisted.iter().find(|it| {
        let name = it.name.as_ref().map(Labels::name_key);
        it.anomaly == finding.anomaly && it.limit == Limit::Name && name == Some(labels.name_key())
    })?;
    let is_process = matches!(finding.subject, Subject::Process(_));
    is_process.then(|| match others.count {
        1 => "one more process of this name has the same finding".to_owned(),
        count => format!(
            "{} more processes of this name have the same finding",
            number(count as u64)
        ),
    })
}

/// That there are more findings than can be listed, and whose they are.
fn of_unlisted(unlisted: &[Unlisted]) -> Option<Item> {
    let mut by_anomaly: BTreeMap<&str, usize> = BTreeMap::new();
    let mut by_unit: BTreeMap<&str, usize> = BTreeMap::new();
    for it in unlisted.iter().filter(|it| it.limit != Limit::Name) {
        *by_anomaly.entry(it.anomaly.name()).or_default() += it.count;
        let unit = it.name.as_ref().map_or("", Labels::unit_group);
        *by_unit.entry(unit).or_default() += it.count;
    }
    let texts: Vec<_> = by_anomaly
        .iter()
        .map(|(anomaly, count)| format!("{} {anomaly}", number(*count as u64)))
        .collect();
    let mut units: Vec<_> = by_unit.into_iter().collect();
    units.sort_by_key(|(_, count)| Reverse(*count));
    let named = units.iter().take(UNITS).map(|(unit, count)| {
        let count = number(*count as u64);
        match *unit {
            "" => format!("{count} without a unit"),
            SESSIONS => format!("{count} of sessions of users"),
            _ => format!("{count} of {unit}"),
        }
    });
    let mut named: Vec<_> = named.collect();
    if let Some(others) = units.len().checked_sub(UNITS).filter(|it| *it > 0) {
        named.push(format!(
            "the others of {} more units",
            number(others as u64)
        ));
    }
    units.truncate(EVIDENCE);
    (!texts.is_empty()).then(|| Item {
        id: "findings-unlisted".to_owned(),
        severity: Severity::Warn,
        subject: json!({"kind": "host"}),
        summary: format!(
            "there are more findings than are listed, which may hide some ({}): {}",
            texts.join(", "),
            named.join(", ")
        ),
        evidence: json!({
            "by_anomaly": by_anomaly,
            "by_unit": units.into_iter().collect::<BTreeMap<_, _>>(),
        }),
        ..with_hints(&[])
    })
}

fn not_looked_at(inputs: &Inputs<'_>) -> Vec<NotLookedAt> {
    let too_new = (inputs.observed_for < NEW).then(|| NotLookedAt {
        what: "problems that take minutes to show".to_owned(),
        why: format!(
            "leaks, sockets in CLOSE_WAIT, rare failures: this host has been observed for {} only",
            duration(inputs.observed_for)
        ),
    });
    let lost = inputs.losses.not_looked_at(inputs.maps, inputs.clock);
    let missing = contract::summaries(inputs.verdicts)
        .into_iter()
        .filter_map(|it| {
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
    too_new.into_iter().chain(lost).chain(missing).collect()
}
