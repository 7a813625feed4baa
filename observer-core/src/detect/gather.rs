//! A sample from what the daemon publishes: the snapshot of the last tick and what its jobs read since.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use super::{
    finding::Holder,
    sample::{
        CounterClasses, Counts, Descriptors, Listener, Name, Namespace, Ports, Process, Sample,
        Source,
    },
};
use observer_common::ProcessKey;

use crate::{
    net::counters::NamespaceCounters,
    process::fd_kinds::FdKinds,
    table::{Labels, ListenAddress, ListenerStats, ProcessVitals, Snapshot, Vitals},
    walk::{Destination, DestinationUse},
};

/// Ratio of blocked ports to available ones from which a failed search is put down to a destination that the
/// process has ports for.
const HALF: f64 = 0.5;
/// The same for any destination.
const FULL: f64 = 0.85;

/// What a sample is made of.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The last tick's.
    pub snapshot: &'a Snapshot,
    /// Of the counters of its slots.
    pub classes: &'a CounterClasses,
    /// Of the processes whose descriptors were looked at.
    pub fd_kinds: &'a HashMap<ProcessKey, Arc<FdKinds>>,
    /// Of network namespaces with sockets.
    pub namespaces: &'a [NamespaceCounters],
    /// Of segments for closed ports.
    pub sources: Vec<Source>,
}

/// Puts samples together, one for each snapshot.
#[derive(Debug, Default)]
pub struct Gatherer {
    searches: FailedSearches,
}

impl Gatherer {
    /// The next sample.
    #[must_use]
    pub fn gather(&mut self, inputs: Inputs<'_>) -> Sample {
        let Inputs {
            snapshot,
            classes,
            namespaces,
            ..
        } = inputs;
        let processes: Vec<_> = snapshot
            .processes
            .iter()
            .map(|it| process(it, &inputs))
            .collect();
        let mut running: HashMap<NameKey<'_>, (u32, u32)> = HashMap::new();
        for process in &processes {
            let (number, waiting) = running.entry(name_key(&process.labels)).or_default();
            *number += 1;
            *waiting += process.syn_sent_over_3s;
        }
        let names = snapshot.names.iter().map(|it| {
            let labels = &it.vitals.labels;
            let (running, syn_sent_over_3s) =
                running.get(&name_key(labels)).copied().unwrap_or_default();
            Name {
                labels: Arc::clone(labels),
                running,
                counts: Counts::read(&it.vitals.counts.slot(), classes),
                syn_sent_over_3s,
            }
        });
        let names: Vec<_> = names.collect();
        let mut ports = ports(snapshot);
        self.searches.attribute(&names, &mut ports);
        Sample {
            now: Duration::from_nanos(snapshot.monotonic_ns),
            ports,
            listeners: listeners(snapshot, namespaces),
            namespaces: self::namespaces(snapshot, namespaces),
            sources: inputs.sources,
            names,
            processes,
        }
    }
}

/// `comm` and `unit`.
type NameKey<'a> = (&'a str, &'a str);

fn name_key(labels: &Labels) -> NameKey<'_> {
    (labels.comm(), labels.unit())
}

fn process(it: &ProcessVitals, inputs: &Inputs<'_>) -> Process {
    let resources = &it.resources;
    let descriptors = resources.open_fds.zip(resources.max_fds);
    let walked = inputs.snapshot.walk.process(it.owner);
    Process {
        key: it.key,
        labels: Arc::clone(&it.vitals.labels),
        counts: Counts::read(&it.vitals.counts.slot(), inputs.classes),
        descriptors: descriptors.map(|(open, limit)| Descriptors {
            open,
            limit,
            measured_at: resources.measured_at,
        }),
        fd_kinds: inputs.fd_kinds.get(&it.key).cloned(),
        syn_sent_over_3s: walked.syn_sent_over_3s,
        close_wait_over_10s: walked.close_wait_over_10s,
        close_wait_over_60s: walked.close_wait_over_60s,
        close_wait_of_servers: walked.close_wait_of_servers,
        owned_fin_wait2: walked.owned_fin_wait2,
        reset_peer: None,
    }
}

/// Local ports of the destinations that may run out of them.
fn ports(snapshot: &Snapshot) -> Vec<Ports> {
    let walk = &snapshot.walk;
    let running: HashMap<_, _> = match walk.busy_destinations().next() {
        Some(_) => snapshot.processes.iter().map(|it| (it.owner, it)).collect(),
        None => return Vec::new(),
    };
    let of = |it: &DestinationUse| {
        // Processes that have ended are one holder for each name.
        let mut ended: BTreeMap<NameKey<'_>, Holder> = BTreeMap::new();
        let mut holders = Vec::new();
        for share in walk.holders(it).iter().filter(|share| share.blocked > 0) {
            let count = u64::from(share.blocked);
            if let Some(process) = running.get(&share.owner) {
                holders.push(Holder {
                    process: Some(process.key),
                    labels: Arc::clone(&process.vitals.labels),
                    count,
                });
            } else if let Some(labels) = snapshot.ended.get(&share.owner) {
                let holder = ended.entry(name_key(labels)).or_insert_with(|| Holder {
                    process: None,
                    labels: Arc::clone(labels),
                    count: 0,
                });
                holder.count += count;
            }
        }
        holders.extend(ended.into_values());
        most_first(&mut holders);
        Ports {
            destination: it.destination,
            walked_at: walk.walked_at,
            available: it.available,
            blocked: it.blocked,
            syn_sent: it.syn_sent,
            established: it.established,
            idle: it.idle,
            closing: it.closing,
            time_wait: it.time_wait,
            opened: it.opened,
            blocked_for: it.blocked_for,
            searches_failed: 0,
            holders,
        }
    };
    walk.busy_destinations().map(of).collect()
}

/// The kernel side counts failed searches for a port by process and not by destination.
#[derive(Debug, Default)]
struct FailedSearches {
    /// Of each name that has any, as of the last sample; `None` before the first one.
    by_name: Option<HashMap<Arc<Labels>, u64>>,
    /// What was attributed to each destination.
    by_destination: HashMap<Destination, u64>,
}

impl FailedSearches {
    /// Attributes what failed since the last sample: to the fullest destination that the name has ports for,
    /// else to the fullest of all, if it has hardly any left.
    fn attribute(&mut self, names: &[Name], ports: &mut [Ports]) {
        let ratio = |it: &Ports| f64::from(it.blocked) / f64::from(it.available.max(1));
        let fullest = |of: Option<&Labels>| {
            let has = |it: &&Ports| {
                let key = of.map(name_key);
                let mut names = it.holders.iter().map(|it| name_key(&it.labels));
                key.is_none_or(|key| names.any(|name| name == key))
            };
            let least = if of.is_some() { HALF } else { FULL };
            let candidates = ports.iter().filter(has).filter(|it| ratio(it) >= least);
            candidates
                .max_by(|a, b| ratio(a).total_cmp(&ratio(b)))
                .map(|it| it.destination)
        };
        let mut attributed = Vec::new();
        for name in names {
            let failed = name.counts.port_searches_failed;
            let before = self.by_name.as_ref().map_or(failed, |by_name| {
                by_name.get(&name.labels).copied().unwrap_or(0)
            });
            if failed > before
                && let Some(to) = fullest(Some(&name.labels)).or_else(|| fullest(None))
            {
                attributed.push((to, failed - before));
            }
        }
        let by_name = names.iter().filter(|it| it.counts.port_searches_failed > 0);
        let by_name = by_name.map(|it| (Arc::clone(&it.labels), it.counts.port_searches_failed));
        self.by_name = Some(by_name.collect());
        for (to, count) in attributed {
            *self.by_destination.entry(to).or_default() += count;
        }
        let busy: HashSet<_> = ports.iter().map(|it| it.destination).collect();
        self.by_destination.retain(|to, _| busy.contains(to));
        for it in ports {
            it.searches_failed = self
                .by_destination
                .get(&it.destination)
                .copied()
                .unwrap_or(0);
        }
    }
}

fn namespaces(snapshot: &Snapshot, counters: &[NamespaceCounters]) -> Vec<Namespace> {
    let of = |it: &NamespaceCounters| {
        let ports = snapshot.walk.namespaces.get(&it.netns);
        let ports = ports.copied().unwrap_or_default();
        Namespace {
            netns: it.netns,
            time_wait_overflows: it.time_wait_overflows,
            range: ports.range,
            bound: ports.bound,
        }
    };
    counters.iter().map(of).collect()
}

/// The listening sockets by address. Numbers are those of names, which keep what ended processes counted;
/// the holders are the running processes.
fn listeners(snapshot: &Snapshot, namespaces: &[NamespaceCounters]) -> Vec<Listener> {
    let mut all: BTreeMap<ListenAddress, Listener> = BTreeMap::new();
    for name in &snapshot.names {
        for (place, stats) in by_address(&name.vitals) {
            let at = all.entry(place).or_insert_with(|| Listener {
                place,
                sockets: 0,
                backlog: 0,
                max_backlog: 0,
                fullest: 0.0,
                overflows: 0,
                accepts: 0,
                exhausted: 0,
                syncookies: 0,
                holders: Vec::new(),
            });
            at.sockets += stats.sockets;
            at.backlog += stats.backlog;
            at.max_backlog += stats.max_backlog;
            at.fullest = at.fullest.max(stats.fullest);
            at.overflows += stats.overflows;
        }
    }
    for process in &snapshot.processes {
        let vitals = &process.vitals;
        if vitals.listeners.is_empty() {
            continue;
        }
        let slot = vitals.counts.slot();
        for (place, stats) in by_address(vitals).filter(|(_, stats)| stats.sockets > 0) {
            let Some(at) = all.get_mut(&place) else {
                continue;
            };
            at.accepts += slot.accept.accepted;
            at.exhausted += slot.fd.exhausted[..2].iter().sum::<u64>();
            at.holders.push(Holder {
                process: Some(process.key),
                labels: Arc::clone(&vitals.labels),
                count: stats.sockets,
            });
        }
    }
    let mut all: Vec<_> = all.into_values().filter(|it| it.sockets > 0).collect();
    for listener in &mut all {
        most_first(&mut listener.holders);
        let netns = listener.place.netns;
        let counters = namespaces.iter().find(|it| it.netns == netns);
        listener.syncookies = counters.map_or(0, |it| it.syncookies_sent);
    }
    all
}

/// Addresses that have an entry of their own.
fn by_address(vitals: &Vitals) -> impl Iterator<Item = (ListenAddress, &ListenerStats)> {
    let all = vitals.listeners.iter();
    all.filter_map(|(place, stats)| Some(((*place)?, stats)))
}

/// Maximum number of holders that a finding names.
const HOLDERS: usize = 10;

fn most_first(holders: &mut Vec<Holder>) {
    holders.sort_by_key(|it| (Reverse(it.count), it.process.map(|process| process.tgid)));
    holders.truncate(HOLDERS);
}

#[cfg(test)]
#[path = "gather_tests.rs"]
mod tests;
