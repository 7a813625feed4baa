//! Failed setsockopt() calls.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::item::{Item, of_name, with_hints, within_limits};
use crate::{
    detect::{self, Host, number},
    hints::{FailedOption, for_option},
    table::Labels,
};

/// Maximum number of kinds of calls of a name that are listed: those with the most calls.
const OF_NAME: usize = 5;
/// Maximum number of names whose calls are listed: those that are running, then those with the most calls.
const NAMES: usize = 20;

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
    /// Whether a process of the name is running.
    pub is_running: bool,
}

/// One item for each, up to the limits, and one for the others.
pub(super) fn items(all: &[FailedOptions], host: &Host) -> Vec<Item> {
    let mut by_name: HashMap<&Labels, Vec<&FailedOptions>> = HashMap::new();
    for it in all {
        by_name.entry(&it.labels).or_default().push(it);
    }
    let mut names: Vec<_> = by_name.into_values().collect();
    for calls in &mut names {
        calls.sort_by_key(|it| (Reverse(it.count), &it.option, &it.errno));
    }
    names.sort_by_key(|calls| {
        let sum: u64 = calls.iter().map(|it| it.count).sum();
        let first = calls.first();
        let is_running = first.is_some_and(|it| it.is_running);
        (Reverse((is_running, sum)), first.map(|it| &it.labels))
    });
    let listed = within_limits(&names, NAMES, |calls| calls.first().map(|it| &*it.labels));
    let mut left_out = all.len();
    let mut programs: HashSet<_> = names
        .iter()
        .filter_map(|it| it.first())
        .map(|it| &it.labels)
        .collect();
    let mut items = Vec::new();
    for calls in listed {
        let shown = calls.iter().take(OF_NAME);
        items.extend(shown.map(|it| of(it, host)));
        left_out -= calls.len().min(OF_NAME);
        if let Some(first) = calls.first().filter(|_| calls.len() <= OF_NAME) {
            programs.remove(&first.labels);
        }
    }
    if left_out > 0 {
        items.push(Item {
            id: "setsockopt-fails".to_owned(),
            subject: serde_json::json!({"kind": "host"}),
            summary: format!(
                "{} more kinds of setsockopt() calls of {} programs have failed: see \
                 socket_setsockopt_failures_total",
                number(left_out as u64),
                number(programs.len() as u64),
            ),
            evidence: serde_json::json!({ "more": left_out }),
            ..with_hints(&[])
        });
    }
    items
}

fn of(failed: &FailedOptions, host: &Host) -> Item {
    let FailedOptions {
        labels,
        netns,
        family,
        protocol,
        option,
        errno,
        count,
        is_running: _,
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
        subject: of_name(labels),
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
