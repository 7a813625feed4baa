//! Local ports of destinations and namespaces that may run out of them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use observer_common::ProcessKey;

use super::holders::{NameKey, most_first};
use crate::{
    detect::{
        finding::{Holder, Subject},
        sample::{Counts, Name, Ports, Process, SearchesFailedAt},
        settings::Thresholds,
    },
    table::{Labels, ProcessVitals, Snapshot},
    walk::{DestinationUse, NamespaceUse, TIME_WAIT_LENGTH},
};

/// The process of a slot and its generation.
type Owner = (u32, u32);

/// Whose ports they are.
struct Owners<'a> {
    running: HashMap<Owner, &'a ProcessVitals>,
    ended: &'a HashMap<Owner, Arc<Labels>>,
}

impl Owners<'_> {
    /// Those of some ports, most first. Processes that have ended are one holder for each name.
    fn holders(&self, owners: impl Iterator<Item = (Owner, u32)>) -> Vec<Holder> {
        let mut ended: BTreeMap<NameKey<'_>, Holder> = BTreeMap::new();
        let mut holders = Vec::new();
        for (owner, count) in owners.filter(|(_, count)| *count > 0) {
            let count = u64::from(count);
            if let Some(process) = self.running.get(&owner) {
                holders.push(Holder {
                    process: Some(process.key),
                    labels: Arc::clone(&process.vitals.labels),
                    count,
                });
            } else if let Some(labels) = self.ended.get(&owner) {
                let holder = ended.entry(labels.name_key()).or_insert_with(|| Holder {
                    process: None,
                    labels: Arc::clone(labels),
                    count: 0,
                });
                holder.count += count;
            }
        }
        holders.extend(ended.into_values());
        most_first(&mut holders);
        holders
    }
}

/// Ports of the last walk.
pub(super) fn ports(snapshot: &Snapshot) -> Vec<Ports> {
    let walk = &snapshot.walk;
    let is_calm = !walk.namespaces.values().any(NamespaceUse::is_busy);
    if is_calm && walk.busy_destinations().next().is_none() {
        return Vec::new();
    }
    let processes = snapshot.processes.iter();
    let owners = Owners {
        running: processes.map(|it| (it.owner, it)).collect(),
        ended: &snapshot.ended,
    };
    let of_destination = |it: &DestinationUse| {
        let shares = walk.holders(it).iter();
        Ports {
            subject: Subject::Destination(it.destination),
            walked_at: walk.walked_at,
            available: it.available,
            blocked: it.blocked,
            syn_sent: it.syn_sent,
            established: it.established,
            idle: it.idle,
            closing: it.closing,
            time_wait: it.time_wait,
            fin_wait2: it.fin_wait2,
            opened: it.opened,
            blocked_for: it.blocked_for,
            searches_failed: 0,
            holders: owners.holders(shares.map(|share| (share.owner, share.blocked))),
        }
    };
    let of_namespace = |(netns, it): (&u32, &NamespaceUse)| Ports {
        subject: Subject::Namespace(*netns),
        walked_at: walk.walked_at,
        available: it.range,
        blocked: it.bound,
        syn_sent: 0,
        established: 0,
        idle: 0,
        closing: 0,
        time_wait: it.bound_time_wait,
        fin_wait2: 0,
        opened: it.bound_opened,
        // tcp_tw_reuse is for ports that connect() chose.
        blocked_for: TIME_WAIT_LENGTH,
        searches_failed: 0,
        holders: owners.holders(it.binders.iter().copied()),
    };
    let namespaces = walk.namespaces.iter().filter(|(_, it)| it.is_busy());
    let destinations = walk.busy_destinations().map(of_destination);
    destinations.chain(namespaces.map(of_namespace)).collect()
}

/// Says in which network namespace a running process is.
pub(super) type NetnsOf<'a> = &'a dyn Fn(&ProcessKey) -> Option<u32>;

/// The kernel side counts failed searches for a port by process and not by destination.
#[derive(Debug, Default)]
pub(super) struct FailedSearches {
    /// As of the last sample; `None` before the first one.
    last: Option<Counted>,
    /// What was attributed.
    attributed: HashMap<Subject, u64>,
    at: SearchesFailedAt,
    shares: Shares,
}

/// Blocked ports as a fraction of the available ones, from which a failed search is put down to them.
#[derive(Clone, Copy, Debug)]
struct Shares {
    /// Of ports of which the process has some.
    own: f64,
    /// Of any ports.
    any: f64,
}

impl Default for Shares {
    fn default() -> Self {
        Self::new(&Thresholds::default())
    }
}

impl Shares {
    fn new(thresholds: &Thresholds) -> Self {
        Self {
            own: thresholds.ports_half,
            any: thresholds.ports_full,
        }
    }
}

/// Searches by connect() and by bind().
type Searches = [u64; 2];

/// Failed searches of those that have any.
#[derive(Debug, Default)]
struct Counted {
    processes: HashMap<ProcessKey, Searches>,
    names: HashMap<Arc<Labels>, Searches>,
}

fn failed(counts: &Counts) -> Searches {
    [counts.port_searches_failed, counts.bind_searches_failed]
}

fn minus(a: Searches, b: Searches) -> Searches {
    std::array::from_fn(|kind| a[kind].saturating_sub(b[kind]))
}

/// The ports that a name's searches may have failed for.
struct Candidates<'a> {
    ports: &'a [Ports],
    labels: &'a Labels,
    /// The network namespace of its searches, if known.
    netns: Option<u32>,
    shares: Shares,
}

impl<'a> Candidates<'a> {
    fn is_own(&self, ports: &Ports) -> bool {
        let mut holders = ports.holders.iter();
        holders.any(|holder| holder.labels.name_key() == self.labels.name_key())
    }

    /// The fullest ports of which the name has some, from `ports-half` on; else the fullest of all in its network
    /// namespace, from `ports-full` on. Those of bind() are a namespace's.
    fn fullest(&self, by_bind: bool) -> Option<&'a Subject> {
        let ratio = |it: &Ports| f64::from(it.blocked) / f64::from(it.available.max(1));
        let candidates = self.ports.iter().filter(|it| {
            let of_namespace = matches!(it.subject, Subject::Namespace(_));
            let is_near = it.subject.netns() == self.netns;
            let full = match self.is_own(it) {
                true => (is_near || self.netns.is_none()) && ratio(it) >= self.shares.own,
                false => is_near && ratio(it) >= self.shares.any,
            };
            full && (of_namespace || !by_bind)
        });
        let fullest = candidates.max_by(|a, b| {
            let own = self.is_own(a).cmp(&self.is_own(b));
            own.then_with(|| ratio(a).total_cmp(&ratio(b)))
        });
        Some(&fullest?.subject)
    }
}

impl FailedSearches {
    pub fn set_thresholds(&mut self, thresholds: &Thresholds) {
        self.shares = Shares::new(thresholds);
    }

    /// Attributes the failed searches since the last sample: those of running processes, and the
    /// rest of their names, whose namespace is unknown. `netns` is called for processes with failed
    /// searches.
    pub fn attribute(
        &mut self,
        processes: &[Process],
        names: &[Name],
        ports: &mut [Ports],
        netns: NetnsOf<'_>,
    ) -> SearchesFailedAt {
        let busy: HashSet<_> = ports.iter().map(|it| &it.subject).collect();
        self.attributed.retain(|subject, _| busy.contains(subject));
        self.at.retain(|subject| busy.contains(subject));
        let last = self.last.take();
        let mut now = Counted::default();
        let mut of_running: HashMap<NameKey<'_>, (Searches, Option<Subject>)> = HashMap::new();
        for process in processes {
            let counts = failed(&process.counts);
            if counts == [0; 2] {
                continue;
            }
            now.processes.insert(process.key, counts);
            let before = last.as_ref().map_or(counts, |last| {
                last.processes
                    .get(&process.key)
                    .copied()
                    .unwrap_or_default()
            });
            let new = minus(counts, before);
            if new == [0; 2] {
                continue;
            }
            let candidates = Candidates {
                ports,
                labels: &process.labels,
                netns: netns(&process.key),
                shares: self.shares,
            };
            let at = self.count(new, &candidates);
            let name = of_running.entry(process.labels.name_key()).or_default();
            name.0 = std::array::from_fn(|kind| name.0[kind] + new[kind]);
            if let Some(at) = at {
                name.1 = Some(at.clone());
                self.at.processes.insert(process.key, at);
            }
        }
        for name in names {
            let counts = failed(&name.counts);
            if counts == [0; 2] {
                continue;
            }
            now.names.insert(Arc::clone(&name.labels), counts);
            let before = last.as_ref().map_or(counts, |last| {
                last.names.get(&name.labels).copied().unwrap_or_default()
            });
            let (running, at) = of_running
                .remove(&name.labels.name_key())
                .unwrap_or_default();
            let candidates = Candidates {
                ports,
                labels: &name.labels,
                netns: None,
                shares: self.shares,
            };
            let of_ended = minus(minus(counts, before), running);
            if let Some(at) = self.count(of_ended, &candidates).or(at) {
                self.at.names.insert(Arc::clone(&name.labels), at);
            }
        }
        self.at
            .processes
            .retain(|key, _| now.processes.contains_key(key));
        self.at
            .names
            .retain(|labels, _| now.names.contains_key(labels));
        self.last = Some(now);
        for it in ports {
            it.searches_failed = self.attributed.get(&it.subject).copied().unwrap_or(0);
        }
        self.at.clone()
    }

    /// Counts `new` searches where they may have failed.
    fn count(&mut self, new: Searches, candidates: &Candidates<'_>) -> Option<Subject> {
        let mut at = None;
        for (kind, new) in new.into_iter().enumerate().filter(|(_, new)| *new > 0) {
            if let Some(subject) = candidates.fullest(kind == 1) {
                *self.attributed.entry(subject.clone()).or_default() += new;
                at = Some(subject.clone());
            }
        }
        at
    }
}
