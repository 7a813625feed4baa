//! Findings for the API.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use observer_common::ProcessKey;
use serde::Serialize;
use serde_json::{Map, Value};

use super::collector::Exporter;
use crate::{
    clock::Clock,
    detect::{Board, Change, Finding, Subject, change_summary, finding_summary},
    sync::read,
    table::Labels,
};

/// The answer to `/api/v1/anomalies`.
#[derive(Debug, Serialize)]
pub struct Anomalies {
    findings: Vec<Shown>,
    changes: Vec<ShownChange>,
}

/// A finding, with its summary and text for clients.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Shown {
    summary: String,
    since: String,
    #[serde(flatten)]
    finding: Finding,
}

#[derive(Debug, Serialize)]
struct ShownChange {
    at: String,
    at_monotonic_seconds: f64,
    change: &'static str,
    summary: String,
    finding: Shown,
}

impl Shown {
    pub fn new(finding: Finding, clock: Clock) -> Self {
        Self {
            summary: finding_summary(&finding),
            since: clock.rfc3339_at(finding.since),
            finding,
        }
    }
}

impl ShownChange {
    fn new(at: Duration, change: &Change, clock: Clock) -> Self {
        Self {
            at: clock.rfc3339_at(at),
            at_monotonic_seconds: at.as_secs_f64(),
            change: change.name(),
            summary: change_summary(change, at),
            finding: Shown::new(change.finding().clone(), clock),
        }
    }
}

/// A change as fields of a log line: those of `/api/v1/anomalies`, but causes by their ids.
#[must_use]
pub fn log_fields(change: &Change, clock: Clock) -> Map<String, Value> {
    let finding = change.finding();
    let mut fields = match serde_json::to_value(finding) {
        Ok(Value::Object(fields)) => fields,
        // All keys of a finding are strings.
        _ => Map::new(),
    };
    let causes = finding.causes.iter().map(|it| it.cause.id);
    fields.insert("causes".to_owned(), causes.collect());
    let hints = finding.causes.iter().flat_map(|it| &it.hints);
    let hints = hints.map(|it| it.hint.id).collect::<BTreeSet<_>>();
    fields.insert("hints".to_owned(), hints.into_iter().collect());
    fields.insert("change".to_owned(), change.name().into());
    fields.insert("since".to_owned(), clock.rfc3339_at(finding.since).into());
    fields.remove("since_monotonic_seconds");
    fields
}

impl Exporter {
    /// Current findings, the worst first, and at most `limit` of the last changes, the newest first.
    #[must_use]
    pub fn anomalies(&self, limit: usize, clock: Clock) -> Anomalies {
        // Text is made when the lock is free again.
        let (raised, changes) = {
            let engine = read(&self.inner.engine);
            let changes = engine.board().changes().rev().take(limit);
            (raised(engine.board()), changes.cloned().collect::<Vec<_>>())
        };
        let findings = worst_first(raised).into_iter();
        let changes = changes.iter();
        Anomalies {
            findings: findings.map(|it| Shown::new(it, clock)).collect(),
            changes: changes
                .map(|(at, change)| ShownChange::new(*at, change, clock))
                .collect(),
        }
    }

    /// Current findings, the worst first.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let raised = raised(read(&self.inner.engine).board());
        worst_first(raised)
    }
}

fn raised(board: &Board) -> Vec<Finding> {
    let raised = board.entries().filter(|it| it.cleared_at.is_none());
    raised.map(|entry| entry.finding.clone()).collect()
}

fn worst_first(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by(|a, b| {
        let severity = b.severity.cmp(&a.severity);
        let score = b.score.total_cmp(&a.score);
        severity.then(score).then(a.since.cmp(&b.since))
    });
    findings
}

/// Findings by whose they are.
#[derive(Default)]
pub(super) struct Owners {
    processes: HashMap<ProcessKey, Vec<Shown>>,
    names: HashMap<Arc<Labels>, Vec<Shown>>,
}

impl Owners {
    pub fn new(findings: Vec<Finding>, clock: Clock) -> Self {
        let mut this = Self::default();
        for finding in findings {
            let shown = Shown::new(finding, clock);
            let finding = &shown.finding;
            if let Subject::Name(labels) = &finding.subject {
                let key = Arc::clone(labels);
                this.names.entry(key).or_default().push(shown);
                continue;
            }
            let own = match &finding.subject {
                Subject::Process(key) => Some(*key),
                _ => None,
            };
            let held = finding.evidence.holders().iter();
            let held = held.filter_map(|holder| holder.process);
            for key in own.into_iter().chain(held).collect::<Vec<_>>() {
                let of = this.processes.entry(key).or_default();
                of.push(shown.clone());
            }
        }
        this
    }

    pub fn of_process(&self, key: ProcessKey) -> Vec<Shown> {
        self.processes.get(&key).cloned().unwrap_or_default()
    }

    pub fn of_name(&self, labels: &Labels) -> Vec<Shown> {
        self.names.get(labels).cloned().unwrap_or_default()
    }
}
