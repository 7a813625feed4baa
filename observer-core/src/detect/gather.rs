//! Builds a sample from the snapshot of the last tick and the data of the jobs since.

mod awaited;
mod culprits;
mod elsewhere;
mod holders;
mod ports;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use observer_common::{ProcessKey, SYN_SENT, WAIT_PROGRAM_ACCEPT};

use self::{
    awaited::Servers,
    culprits::AllPeers,
    elsewhere::ByPort,
    holders::{NameKey, most_first},
};
use super::{
    finding::{Awaited, Holder},
    recorded_peers::RecordedPeers,
    sample::{
        CounterClasses, Counts, Descriptors, Listener, Name, Namespace, Process, Sample, Source,
        Worker,
    },
    settings::Thresholds,
};
use crate::{
    net::counters::NamespaceCounters,
    process::fd_kinds::FdKinds,
    table::{ListenAddress, ListenerStats, ProcessVitals, Snapshot, Vitals},
    walk::Waits,
};

/// The sources of a sample.
pub struct Inputs<'a> {
    /// The last tick's.
    pub snapshot: &'a Snapshot,
    /// Of the counters of its slots.
    pub classes: &'a CounterClasses,
    /// Of the processes whose kinds of descriptors were read.
    pub fd_kinds: &'a HashMap<ProcessKey, Arc<FdKinds>>,
    /// Of network namespaces with sockets.
    pub namespaces: &'a [NamespaceCounters],
    /// Of failed connects and RSTs.
    pub recorded_peers: &'a RecordedPeers,
    /// Of segments for closed ports.
    pub sources: Vec<Source>,
    /// The network namespace of a running process.
    pub netns: &'a dyn Fn(&ProcessKey) -> Option<u32>,
}

/// Puts samples together, one for each snapshot.
#[derive(Debug, Default)]
pub struct Gatherer {
    searches: ports::FailedSearches,
}

impl Gatherer {
    /// Failed searches are attributed by these thresholds of ports from the next sample on.
    pub fn set_thresholds(&mut self, thresholds: &Thresholds) {
        self.searches.set_thresholds(thresholds);
    }

    /// The next sample.
    #[must_use]
    pub fn gather(&mut self, inputs: Inputs<'_>) -> Sample {
        let Inputs {
            snapshot,
            classes,
            namespaces,
            ..
        } = inputs;
        let servers = Servers::new(snapshot);
        let listeners = listeners(snapshot, namespaces, &servers);
        let by_port = ByPort::new(&listeners, inputs.recorded_peers);
        let peers_of = AllPeers::new(inputs.recorded_peers, snapshot, by_port);
        let mut processes: Vec<_> = snapshot
            .processes
            .iter()
            .map(|it| process(it, &inputs, &peers_of, &servers))
            .collect();
        let running = running(&processes);
        let of_name = |it: &Process| match it.counts.handshakes_failed() {
            0 => 1,
            _ => running[&it.labels.name_key()].processes.len() as u32,
        };
        let of_names: Vec<_> = processes.iter().map(of_name).collect();
        let mut not_closed: HashMap<NameKey<'_>, u32> = HashMap::new();
        for (owner, labels) in &*snapshot.ended {
            let number = snapshot.walk.process(*owner).not_closed_by_peer;
            *not_closed.entry(labels.name_key()).or_default() += number;
        }
        let names = snapshot.names.iter().map(|it| {
            let labels = &it.vitals.labels;
            let running = running.get(&labels.name_key());
            let (waits, peers) = running.map(Running::waits).unwrap_or_default();
            Name {
                labels: Arc::clone(labels),
                running: running.map_or(0, |it| it.processes.len() as u32),
                counts: Counts::read(&it.vitals.counts.slot(), classes),
                syn_sent: it.vitals.live[usize::from(SYN_SENT)],
                syn_sent_over_3s: running.map_or(0, |it| it.syn_sent_over_3s),
                not_closed_by_peer: not_closed.get(&labels.name_key()).copied().unwrap_or(0)
                    + running.map_or(0, |it| it.not_closed_by_peer),
                waits,
                peers,
                culprits: peers_of.of_name(labels.name_key()),
            }
        });
        let names: Vec<_> = names.collect();
        for (process, of_name) in processes.iter_mut().zip(of_names) {
            process.of_name = of_name;
        }
        let mut ports = ports::ports(snapshot);
        let searches_failed_at =
            self.searches
                .attribute(&processes, &names, &mut ports, inputs.netns);
        Sample {
            now: Duration::from_nanos(snapshot.monotonic_ns),
            ports,
            searches_failed_at,
            listeners,
            namespaces: namespaces.iter().map(namespace).collect(),
            sources: inputs.sources,
            names,
            processes,
        }
    }
}

/// The running processes of a name.
#[derive(Default)]
struct Running<'a> {
    processes: Vec<&'a Process>,
    syn_sent_over_3s: u32,
    not_closed_by_peer: u32,
    /// Whether one of them has connections that wait for peers.
    is_waiting: bool,
    /// Whether one of them has given a connection up.
    gave_up: bool,
}

fn running(processes: &[Process]) -> HashMap<NameKey<'_>, Running<'_>> {
    let mut names: HashMap<_, Running<'_>> = HashMap::new();
    for process in processes {
        let running = names.entry(process.labels.name_key()).or_default();
        running.processes.push(process);
        running.syn_sent_over_3s += process.syn_sent_over_3s;
        running.not_closed_by_peer += process.not_closed_by_peer;
        running.is_waiting |= process.waits.unanswered_at_once > 0
            || process.peers.iter().any(|it| it.wait.is_judged);
        running.gave_up |= process.counts.gave_up.iter().any(|it| *it > 0);
    }
    names
}

impl Running<'_> {
    fn waits(&self) -> (Waits, Vec<Awaited>) {
        let (mut waits, mut peers) = (Waits::default(), Vec::new());
        if self.is_waiting || self.gave_up {
            for process in &self.processes {
                waits.merge(&process.waits);
            }
        }
        if self.is_waiting {
            for process in &self.processes {
                let all = process.peers.iter();
                let all = all.filter(|it| process.waits.is_for_request(&it.wait));
                peers.extend(all.cloned());
            }
        }
        peers.sort_by_key(|it| Reverse((it.wait.connections, it.wait.longest_ms)));
        (waits, peers)
    }
}

fn process(
    it: &ProcessVitals,
    inputs: &Inputs<'_>,
    peers_of: &AllPeers<'_>,
    servers: &Servers<'_>,
) -> Process {
    let resources = &it.resources;
    let descriptors = resources.open_fds.zip(resources.max_fds);
    let walk = &inputs.snapshot.walk;
    let walked = walk.process(it.owner);
    let reset_peer = peers_of.reset_peer(it.owner);
    Process {
        key: it.key,
        labels: Arc::clone(&it.vitals.labels),
        counts: Counts::read(&it.vitals.counts.slot(), inputs.classes),
        descriptors: descriptors.map(|(open, limit)| Descriptors {
            open,
            limit,
            measured_at: resources.measured_at,
        }),
        sees_allocations: inputs.classes.sees_allocations,
        fd_kinds: inputs.fd_kinds.get(&it.key).cloned(),
        walked_at: Some(walk.walked_at),
        syn_sent: it.vitals.live[usize::from(SYN_SENT)],
        syn_sent_over_3s: walked.syn_sent_over_3s,
        close_wait_over_10s: walked.close_wait_over_10s,
        close_wait_over_60s: walked.close_wait_over_60s,
        close_wait_of_servers: walked.close_wait_of_servers,
        close_wait_unanswered: walked.close_wait_unanswered,
        owned_fin_wait2: walked.owned_fin_wait2,
        not_closed_by_peer: walked.not_closed_by_peer,
        reset_peer: reset_peer.map(|it| it.key),
        reset_peer_labels: reset_peer.map(|it| Arc::clone(&it.vitals.labels)),
        waits: walk.waits(it.owner).cloned().unwrap_or_default(),
        peers: servers.awaited(it.owner),
        culprits: peers_of.of_process(it.owner),
        handshakes: inputs
            .snapshot
            .handshakes
            .get(&it.owner)
            .copied()
            .unwrap_or_default(),
        of_name: 1,
    }
}

fn namespace(it: &NamespaceCounters) -> Namespace {
    Namespace {
        netns: it.netns,
        time_wait_overflows: it.time_wait_overflows,
    }
}

/// The listening sockets by address. Numbers are those of names, which keep what ended processes counted;
/// the holders are the running processes.
fn listeners<'a>(
    snapshot: &'a Snapshot,
    namespaces: &[NamespaceCounters],
    servers: &Servers<'a>,
) -> Vec<Listener> {
    let mut all: BTreeMap<ListenAddress, Listener> = BTreeMap::new();
    for name in &snapshot.names {
        if name.vitals.listeners.is_empty() {
            continue;
        }
        let slot = name.vitals.counts.slot();
        for (place, stats) in by_address(&name.vitals) {
            let at = all.entry(place).or_insert_with(|| Listener::new(place));
            at.sockets += stats.sockets;
            at.backlog += stats.backlog;
            at.max_backlog += stats.max_backlog;
            at.fullest = at.fullest.max(stats.fullest);
            at.overflows += stats.overflows;
            if stats.sockets > 0 {
                // Of all its processes, because workers accept connections of their parent's listener.
                at.accepts += slot.accept.accepted;
                at.exhausted += slot.fd.exhausted[..2].iter().sum::<u64>();
            }
        }
    }
    for process in &snapshot.processes {
        let vitals = &process.vitals;
        if vitals.listeners.is_empty() {
            continue;
        }
        for (place, stats) in by_address(vitals).filter(|(_, stats)| stats.sockets > 0) {
            let Some(at) = all.get_mut(&place) else {
                continue;
            };
            let waits = snapshot.walk.waits(process.owner);
            let (stalled, longest_ms) =
                waits.map_or((0, 0), |it| it.stalled_for(WAIT_PROGRAM_ACCEPT));
            at.stalled = at.backlog.min(at.stalled + u64::from(stalled));
            at.stalled_ms = at.stalled_ms.max(longest_ms);
            at.holders.push(Holder {
                process: Some(process.key),
                labels: Arc::clone(&vitals.labels),
                count: stats.sockets,
            });
            at.workers.push(Worker {
                process: process.key,
                fullest: stats.fullest,
                accepts: vitals.counts.slot().accept.accepted,
            });
        }
    }
    let mut all: Vec<_> = all.into_values().filter(|it| it.sockets > 0).collect();
    for listener in &mut all {
        if listener.workers.len() < 2 {
            listener.workers.clear();
        }
        most_first(&mut listener.holders);
        let netns = listener.place.netns;
        let counters = namespaces.iter().find(|it| it.netns == netns);
        listener.syncookies = counters.map(|it| it.syncookies_sent);
        servers.add_to(listener, &snapshot.processes);
    }
    all
}

/// Addresses that have an entry of their own.
fn by_address(vitals: &Vitals) -> impl Iterator<Item = (ListenAddress, &ListenerStats)> {
    let all = vitals.listeners.iter();
    all.filter_map(|(place, stats)| Some(((*place)?, stats)))
}

#[cfg(test)]
mod tests;
