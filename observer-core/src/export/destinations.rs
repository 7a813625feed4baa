//! Destinations for the API, from the last walk over connections.

use std::{cmp::Reverse, collections::HashMap};

use serde::Serialize;

use crate::{
    table::Snapshot,
    walk::{DestinationUse, Walk},
};

/// Holders shown of each destination.
const HOLDERS: usize = 10;

/// Local ports for a destination, of all processes.
#[derive(Debug, Serialize)]
pub(super) struct Destination {
    netns: u32,
    source: String,
    destination: String,
    available: u32,
    used: u32,
    blocked: u32,
    syn_sent: u32,
    established: u32,
    idle: u32,
    closing: u32,
    time_wait: u32,
    blocked_for_ms: u64,
    opened: u64,
    holders: Vec<Holder>,
}

#[derive(Debug, Serialize)]
struct Holder {
    /// `None` for a process that has ended, or is not known.
    pid: Option<u32>,
    used: u32,
    blocked: u32,
}

/// At most `limit` destinations, those with the highest share of blocked ports first.
pub(super) fn destinations(snapshot: &Snapshot, limit: usize) -> Vec<Destination> {
    let walk = &snapshot.walk;
    let mut all: Vec<_> = walk.destinations.iter().collect();
    all.sort_by(|a, b| {
        let key = |it: &DestinationUse| (Reverse(it.used), it.destination);
        b.ratio().total_cmp(&a.ratio()).then(key(a).cmp(&key(b)))
    });
    all.truncate(limit);
    let processes = snapshot.processes.iter();
    let pids = processes.map(|it| (it.owner, it.key.tgid)).collect();
    all.into_iter()
        .map(|it| destination(walk, it, &pids))
        .collect()
}

fn destination(walk: &Walk, it: &DestinationUse, pids: &HashMap<(u32, u32), u32>) -> Destination {
    let holders = walk.holders(it).iter().take(HOLDERS).map(|share| Holder {
        pid: pids.get(&share.owner).copied(),
        used: share.used,
        blocked: share.blocked,
    });
    Destination {
        netns: it.destination.netns,
        source: it.destination.source.to_string(),
        destination: it.destination.remote.to_string(),
        available: it.available,
        used: it.used,
        blocked: it.blocked,
        syn_sent: it.syn_sent,
        established: it.established,
        idle: it.idle,
        closing: it.closing,
        time_wait: it.time_wait,
        blocked_for_ms: it.blocked_for.as_millis() as u64,
        opened: it.opened,
        holders: holders.collect(),
    }
}
