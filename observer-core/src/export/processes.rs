//! Processes and names for the API, from a snapshot only.

use std::{cmp::Reverse, time::Duration};

use observer_common::{BUCKETS, Histogram};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    anomalies::{Owners, Shown},
    collector::Exporter,
    destinations::{self, destinations},
    family::Family,
    sink::{Extra, Number, Sink},
};
use crate::{
    clock::Clock,
    table::{Labels, NameVitals, ProcessVitals, Resources, Snapshot, Vitals},
    walk::{Destination, PeerWait, ProcessUse, Waits, wait_name},
};

/// The answer to `/api/v1/processes`.
#[derive(Debug, Serialize)]
pub struct Processes {
    monotonic_ns: u64,
    running: usize,
    processes: Vec<Process>,
    names: Vec<Name>,
    /// When the last walk over connections ended; `None` before the first.
    walked_at_ns: Option<u64>,
    destinations: Vec<destinations::Destination>,
}

#[derive(Debug, Serialize)]
struct Process {
    pid: u32,
    start_boottime_ns: u64,
    #[serde(flatten)]
    series: Series,
    open_fds: Option<u64>,
    max_fds: Option<u64>,
    hard_max_fds: Option<u64>,
    fd_high_water: Option<u64>,
    fds_measured_at_ns: Option<u64>,
    syn_sent_over_3s: u32,
    close_wait_over_10s: u32,
    close_wait_over_60s: u32,
    close_wait_of_servers: u32,
    close_wait_unanswered: u32,
    owned_fin_wait2: u32,
    unguarded: u32,
    /// Stalled connections by reason.
    stalled: Vec<Stalled>,
    /// Quiet connections.
    quiet: Vec<Quiet>,
    /// For whom connections wait.
    waits_for: Vec<WaitsFor>,
    anomalies: Vec<Shown>,
}

#[derive(Debug, Serialize)]
struct Stalled {
    reason: &'static str,
    connections: u32,
    longest_seconds: f64,
}

#[derive(Debug, Serialize)]
struct Quiet {
    turn: &'static str,
    seconds: u32,
    connections: u32,
}

#[derive(Debug, Serialize)]
struct WaitsFor {
    /// A reason of a stall, or `peer` if it is the peer's turn.
    reason: &'static str,
    netns: u32,
    address: String,
    /// The port connected to.
    port: u16,
    /// Whether the peer is a client of the process.
    is_client: bool,
    connections: u32,
    longest_seconds: f64,
}

#[derive(Debug, Serialize)]
struct Name {
    alive: bool,
    #[serde(flatten)]
    series: Series,
    anomalies: Vec<Shown>,
}

#[derive(Debug, Serialize)]
struct Series {
    comm: String,
    unit: String,
    sockets: u64,
    connections: Map<String, Value>,
    time_wait: u64,
    counters: Map<String, Value>,
    listeners: Vec<Listener>,
    ports: Vec<Ports>,
}

#[derive(Debug, Serialize)]
struct Listener {
    /// `None` for the sum of further ones.
    address: Option<String>,
    netns: Option<u32>,
    sockets: u64,
    backlog: u64,
    backlog_max: u64,
    fullest_ratio: f64,
    drops: u64,
    overflows: u64,
}

#[derive(Debug, Serialize)]
struct Ports {
    /// `None` for the sum of further ones.
    source: Option<String>,
    destination: Option<String>,
    netns: Option<u32>,
    used: u32,
    blocked: u32,
    blocked_by_all: u32,
    available: u32,
}

impl Exporter {
    /// At most `limit` processes and `limit` names of a snapshot, those with the most sockets
    /// first, with their findings. Reads neither the table nor the kernel.
    #[must_use]
    pub fn processes(&self, snapshot: &Snapshot, limit: usize, clock: Clock) -> Processes {
        let anomalies = Owners::new(self.findings(), clock);
        let mut names: Vec<_> = snapshot.names.iter().collect();
        names.sort_by_key(|name| Reverse(name.vitals.sockets()));
        names.truncate(limit);
        let process = |process: &ProcessVitals| {
            let ProcessUse {
                owner: _,
                syn_sent_over_3s,
                close_wait_over_10s,
                close_wait_over_60s,
                close_wait_of_servers,
                close_wait_unanswered,
                owned_fin_wait2,
                // Only what is given up is judged by it.
                not_closed_by_peer: _,
                unguarded,
            } = snapshot.walk.process(process.owner);
            let Resources {
                open_fds,
                max_fds,
                hard_max_fds,
                fd_high_water,
                measured_at,
            } = process.resources;
            let waits = snapshot.walk.waits(process.owner);
            let stalls = waits.into_iter().flat_map(Waits::stalls);
            let quiets = waits.into_iter().flat_map(Waits::quiets);
            let peers = snapshot.walk.peers(process.owner).iter();
            let peers = peers.filter(|it| !it.is_for_tls());
            Process {
                pid: process.key.tgid,
                start_boottime_ns: process.key.start_boottime_ns,
                series: self.series(&process.vitals),
                open_fds,
                max_fds,
                hard_max_fds,
                fd_high_water,
                fds_measured_at_ns: nanoseconds(measured_at),
                syn_sent_over_3s,
                close_wait_over_10s,
                close_wait_over_60s,
                close_wait_of_servers,
                close_wait_unanswered,
                owned_fin_wait2,
                unguarded,
                stalled: stalls
                    .map(|(reason, connections, longest_ms)| Stalled {
                        reason,
                        connections,
                        longest_seconds: f64::from(longest_ms) / 1e3,
                    })
                    .collect(),
                quiet: quiets
                    .map(|(turn, seconds, connections)| Quiet {
                        turn,
                        seconds,
                        connections,
                    })
                    .collect(),
                waits_for: peers.map(waits_for).collect(),
                anomalies: anomalies.of_process(process.key),
            }
        };
        let name = |name: &NameVitals| Name {
            alive: name.alive,
            series: self.series(&name.vitals),
            anomalies: anomalies.of_name(&name.vitals.labels),
        };
        Processes {
            monotonic_ns: snapshot.monotonic_ns,
            running: snapshot.processes.len(),
            processes: snapshot.busiest(limit).into_iter().map(process).collect(),
            names: names.into_iter().map(name).collect(),
            walked_at_ns: nanoseconds(snapshot.walk.walked_at),
            destinations: destinations(snapshot, limit),
        }
    }

    fn series(&self, vitals: &Vitals) -> Series {
        let Vitals {
            labels,
            live: _,
            time_wait,
            counts,
            listeners,
            ports,
        } = vitals;
        let mut counters = Counters::default();
        self.write_counters(&mut counters, labels, &counts.slot());
        let listeners = listeners.iter().map(|(at, it)| Listener {
            address: at.map(|at| at.address.to_string()),
            netns: at.map(|at| at.netns),
            sockets: it.sockets,
            backlog: it.backlog,
            backlog_max: it.max_backlog,
            fullest_ratio: it.fullest,
            drops: it.drops,
            overflows: it.overflows,
        });
        let ports = ports.iter().map(|it| {
            let of = |part: fn(&Destination) -> String| it.destination.as_ref().map(part);
            Ports {
                source: of(|it| it.source.to_string()),
                destination: of(|it| it.remote.to_string()),
                netns: it.destination.map(|it| it.netns),
                used: it.used,
                blocked: it.blocked,
                blocked_by_all: it.blocked_by_all,
                available: it.available,
            }
        });
        Series {
            comm: labels.comm().to_owned(),
            unit: labels.unit().to_owned(),
            sockets: vitals.sockets(),
            connections: vitals
                .connections()
                .map(|(state, count)| (state.to_owned(), count.into()))
                .collect(),
            time_wait: *time_wait,
            counters: counters.0,
            listeners: listeners.collect(),
            ports: ports.collect(),
        }
    }
}

fn waits_for(it: &PeerWait) -> WaitsFor {
    WaitsFor {
        reason: wait_name(it.waits_for),
        netns: it.peer.netns,
        address: it.peer.address.to_string(),
        port: it.peer.port,
        is_client: it.peer.is_client,
        connections: it.connections,
        longest_seconds: f64::from(it.longest_ms) / 1e3,
    }
}

/// A time of CLOCK_MONOTONIC; `None` if it was not yet.
fn nanoseconds(time: Duration) -> Option<u64> {
    (!time.is_zero()).then_some(time.as_nanos() as u64)
}

/// Counters by the metric's name without `socket_` and `_total`, and by the value of each label within.
#[derive(Default)]
struct Counters(Map<String, Value>);

impl Sink for Counters {
    fn sample(&mut self, family: Family, _: Option<&Labels>, extra: Extra<'_>, value: Number) {
        let name = family.metric().name;
        let name = name.strip_prefix("socket_").unwrap_or(name);
        let name = name.strip_suffix("_total").unwrap_or(name);
        let mut at = self.0.entry(name);
        for (_, label) in extra {
            let inner = at.or_insert_with(|| Map::new().into());
            let Value::Object(inner) = inner else { return };
            at = inner.entry(*label);
        }
        at.or_insert(match value {
            Number::Integer(value) => value.into(),
            Number::Float(value) => value.into(),
        });
    }

    fn histogram(
        &mut self,
        _: Family,
        _: &Labels,
        _: Extra<'_>,
        _: &'static [u64; BUCKETS - 1],
        _: &Histogram,
    ) {
    }
}
