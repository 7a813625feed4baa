//! An item of the report: something that is wrong or odd.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::follows::Origin;
use crate::{
    detect::Host,
    hints::{Advice, HINTS},
    table::Labels,
};

/// How bad it is. The order is that of the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Odd.
    Note,
    /// It will hurt.
    Warn,
    /// It hurts now.
    Fail,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Stable name of the kind.
    pub id: String,
    /// How bad.
    pub severity: Severity,
    /// The anomaly, if a detector found it.
    pub anomaly: Option<String>,
    /// With whom, as in `/api/v1/anomalies`.
    pub subject: Value,
    /// Since when, RFC 3339.
    pub since: Option<String>,
    /// Who does what.
    pub summary: String,
    /// The numbers, by name.
    pub evidence: Value,
    /// Time until calls fail.
    pub time_left_seconds: Option<f64>,
    /// The finding that explains this one.
    pub follows_from: Option<Origin>,
    /// Why, most likely first.
    pub causes: Vec<String>,
    /// Limits of the process, and how it keeps connections, where that matters.
    pub notes: Vec<String>,
    /// The fixes.
    pub fixes: Vec<String>,
    /// How to verify the fix.
    pub verify: Vec<String>,
    /// The facts behind that, each with the kernels for which it holds, its fix and its check.
    pub holds_for: Vec<Fact>,
}

/// A fact about the kernel, and what follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Id in docs/hints.md.
    pub hint: String,
    /// The fact.
    pub fact: String,
    /// On which kernels.
    pub kernels: String,
    /// The fix.
    pub fix: String,
    /// How to verify the fix.
    pub check: String,
    /// Conditions of which this host does not tell whether they hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
}

/// The fields from hints. The others are empty.
pub(super) fn with_hints(hints: &[&Advice]) -> Item {
    let texts = |part: fn(&Advice) -> &'static str| {
        let mut all: Vec<String> = Vec::new();
        for it in hints {
            let text = match it.unknown.is_empty() {
                true => part(it).to_owned(),
                false => format!("If {}: {}", it.unknown.join(" and "), part(it)),
            };
            if !all.contains(&text) {
                all.push(text);
            }
        }
        all
    };
    // Several causes may have the same hint.
    let mut known = HashSet::new();
    let once = hints.iter().filter(|it| known.insert(it.hint.id));
    let facts = once.map(|it| Fact {
        hint: it.hint.id.to_owned(),
        fact: it.hint.fact.to_owned(),
        kernels: it.hint.kernels.to_owned(),
        fix: it.hint.fix.to_owned(),
        check: it.hint.check.to_owned(),
        unknown: it.unknown.clone(),
    });
    Item {
        id: String::new(),
        severity: Severity::Note,
        anomaly: None,
        subject: Value::Null,
        since: None,
        summary: String::new(),
        evidence: Value::Null,
        time_left_seconds: None,
        follows_from: None,
        causes: Vec::new(),
        notes: Vec::new(),
        fixes: texts(|it| it.hint.fix),
        verify: texts(|it| it.hint.check),
        holds_for: facts.collect(),
    }
}

/// The hint with this id, if it applies.
pub(super) fn advice(id: &str, host: &Host, netns: Option<u32>) -> Option<Advice> {
    let hint = HINTS.iter().find(|it| it.id == id)?;
    Advice::new(hint, &host.known(netns, false))
}

/// The subject of an item about a name.
pub(super) fn of_name(labels: &Labels) -> Value {
    json!({"kind": "name", "comm": labels.comm(), "unit": labels.unit()})
}

/// A signal that is not observed on this host, or something else that may be wrong and not found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotLookedAt {
    /// The signal, or what it is.
    pub what: String,
    /// Why not.
    pub why: String,
}

/// The first of these, at most `most`, and at most half as many with labels of one unit, so that the programs of one user leave
/// room for those of others.
pub(super) fn within_limits<T>(
    all: impl IntoIterator<Item = T>,
    most: usize,
    labels: impl Fn(&T) -> Option<&Labels>,
) -> Vec<T> {
    let mut of_units = HashMap::<String, usize>::new();
    let mut listed = Vec::new();
    for it in all {
        if listed.len() == most {
            break;
        }
        let unit = labels(&it).map_or("", Labels::unit_group);
        let has_room = unit.is_empty() || {
            let of_unit = of_units.entry(unit.to_owned()).or_default();
            *of_unit += 1;
            *of_unit <= most / 2
        };
        if has_room {
            listed.push(it);
        }
    }
    listed
}
