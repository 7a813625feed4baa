//! Local ports of destinations and namespaces that may run out of them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::holders::{NameKey, most_first};
use crate::{
    detect::{
        finding::{Holder, Subject},
        sample::{Counts, Name, Ports},
    },
    table::{Labels, ProcessVitals, Snapshot},
    walk::{DestinationUse, NamespaceUse, TIME_WAIT_LENGTH},
};

/// Ratio of blocked ports to available ones from which a failed search is put down to ports of which the
/// process has some.
const HALF: f64 = 0.5;
/// The same for any ports.
const FULL: f64 = 0.85;

/// Who has a slot and its generation.
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

/// The kernel side counts failed searches for a port by process and not by destination.
#[derive(Debug, Default)]
pub(super) struct FailedSearches {
    /// By connect() and by bind(), of each name that has any, as of the last sample; `None` before the first
    /// one.
    by_name: Option<HashMap<Arc<Labels>, [u64; 2]>>,
    /// What was attributed.
    attributed: HashMap<Subject, u64>,
}

/// Failed searches by connect() and by bind().
fn failed(counts: &Counts) -> [u64; 2] {
    [counts.port_searches_failed, counts.bind_searches_failed]
}

/// Where a search of a process named `labels` may have failed: the fullest ports of which it has some, else
/// the fullest of all, if hardly any is left. Those of bind() are a namespace's.
fn failed_at<'a>(ports: &'a [Ports], labels: &Labels, by_bind: bool) -> Option<&'a Subject> {
    let ratio = |it: &Ports| f64::from(it.blocked) / f64::from(it.available.max(1));
    let is_own = |it: &Ports| {
        let mut holders = it.holders.iter();
        holders.any(|holder| holder.labels.name_key() == labels.name_key())
    };
    let candidates = ports.iter().filter(|it| {
        let of_namespace = matches!(it.subject, Subject::Namespace(_));
        of_namespace || !by_bind
    });
    let full = candidates.filter(|it| ratio(it) >= if is_own(it) { HALF } else { FULL });
    let fullest = full.max_by(|a, b| {
        let own = is_own(a).cmp(&is_own(b));
        own.then_with(|| ratio(a).total_cmp(&ratio(b)))
    });
    Some(&fullest?.subject)
}

impl FailedSearches {
    /// Attributes what failed since the last sample.
    pub fn attribute(&mut self, names: &[Name], ports: &mut [Ports]) {
        for name in names {
            let now = failed(&name.counts);
            let before = self.by_name.as_ref().map_or(now, |by_name| {
                by_name.get(&name.labels).copied().unwrap_or_default()
            });
            for (kind, (now, before)) in now.into_iter().zip(before).enumerate() {
                let new = now.saturating_sub(before);
                if new > 0
                    && let Some(subject) = failed_at(ports, &name.labels, kind == 1)
                {
                    *self.attributed.entry(subject.clone()).or_default() += new;
                }
            }
        }
        let by_name = names.iter().filter(|it| failed(&it.counts) != [0; 2]);
        let by_name = by_name.map(|it| (Arc::clone(&it.labels), failed(&it.counts)));
        self.by_name = Some(by_name.collect());
        let busy: HashSet<_> = ports.iter().map(|it| &it.subject).collect();
        self.attributed.retain(|subject, _| busy.contains(subject));
        for it in ports {
            it.searches_failed = self.attributed.get(&it.subject).copied().unwrap_or(0);
        }
    }
}
