//! The values of each process and each name at one tick, for readers that neither take the table's
//! lock nor read the kernel: the API, the page, detectors.

use std::{cmp::Reverse, collections::HashMap, mem::offset_of, sync::Arc};

use observer_common::{
    CLOSE, COUNTERS, GAVE_UPS, METRICS, ProcessKey, STATES, Slot, TIME_WAIT, WaitCounters,
    state_name,
};

use super::{
    facts::{ProcessFacts, Resources},
    in_progress::OfProcesses,
    labels::Labels,
    listener_stats::{ListenAddress, ListenerStats},
    port_views::{Holder, PortsView},
    store::Table,
    view::{Kind, SeriesView},
};
use crate::{contract::KernelSource, walk::Walk};

/// All processes and names at one tick.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// When the tick began, by CLOCK_MONOTONIC in nanoseconds: what happened before is included. 0 before
    /// the first tick.
    pub monotonic_ns: u64,
    /// Running processes, in the order of their slots.
    pub processes: Vec<ProcessVitals>,
    /// Names, `<unattributed>` and `<other>` first.
    pub names: Vec<NameVitals>,
    /// The last walk over connections; the default from the table itself.
    pub walk: Arc<Walk>,
    /// TLS handshakes in progress, as of the last reading.
    pub handshakes: Arc<OfProcesses>,
    /// The names of processes that have ended and have ports of busy destinations or namespaces of `walk`, or
    /// recorded peers, by slot and generation; none from the table itself.
    pub ended: Arc<HashMap<(u32, u32), Arc<Labels>>>,
}

/// Values of a running process.
#[derive(Debug)]
pub struct ProcessVitals {
    /// The process.
    pub key: ProcessKey,
    /// Its slot and the slot's generation.
    pub owner: (u32, u32),
    /// Its descriptors.
    pub resources: Resources,
    /// Values common to processes and names.
    pub vitals: Vitals,
}

/// Values of the processes of a name, including ended ones.
#[derive(Debug)]
pub struct NameVitals {
    /// Whether any of them is running.
    pub alive: bool,
    /// Values common to names and processes.
    pub vitals: Vitals,
}

/// Values of a process or a name.
#[derive(Debug)]
pub struct Vitals {
    /// Its labels.
    pub labels: Arc<Labels>,
    /// Live sockets by state; 0 in CLOSE and TIME_WAIT.
    pub live: [u32; STATES],
    /// Sockets in TIME_WAIT.
    pub time_wait: u64,
    /// Counters.
    pub counts: Counts,
    /// Listening sockets by address, as of the last reading; `None` for the sum of further ones.
    pub listeners: Box<[(Option<ListenAddress>, ListenerStats)]>,
    /// Local ports in use by destination, as of the last walk. Empty for a process that is not shown by
    /// pid.
    pub ports: Box<[PortsView]>,
}

/// The counters that are metrics, without histograms. Those that are zero, which most are, take no memory.
#[derive(Debug, Default)]
pub struct Counts {
    /// Indices in [`Slot::counters`], in order.
    indices: Box<[u16]>,
    values: Box<[u64]>,
}

// There are thousands, at each tick anew.
const _: () = assert!(size_of::<ProcessVitals>() <= 240);

/// Whether each counter of a slot belongs to a [`CounterMetric`](observer_common::CounterMetric), or is one that only
/// detectors read.
static KEPT: [bool; COUNTERS] = {
    let mut kept = [false; COUNTERS];
    let mut signal = 0;
    while signal < METRICS.len() {
        let counters = METRICS[signal].counters;
        let mut counter = 0;
        while counter < counters.len() {
            let parts = counters[counter].parts;
            let mut part = 0;
            while part < parts.len() {
                let first = METRICS[signal].index_of(parts[part].offset);
                let mut index = first;
                while index < first + parts[part].len() {
                    kept[index] = true;
                    index += 1;
                }
                part += 1;
            }
            counter += 1;
        }
        signal += 1;
    }
    let waiting = offset_of!(Slot, waiting) - offset_of!(Slot, state);
    let gave_up = (waiting + offset_of!(WaitCounters, gave_up)) / size_of::<u64>();
    let mut kind = 0;
    while kind < GAVE_UPS {
        kept[gave_up + kind] = true;
        kind += 1;
    }
    let nothing_read = waiting + offset_of!(WaitCounters, nothing_read);
    kept[nothing_read / size_of::<u64>()] = true;
    kept
};

impl Counts {
    fn new(slot: &Slot) -> Self {
        // Nearly all are zero, so look at many at a time.
        const STRIDE: usize = 8;
        let (mut indices, mut values) = (Vec::new(), Vec::new());
        for (chunk, counts) in slot.counters().chunks(STRIDE).enumerate() {
            if counts.iter().fold(0, |all, count| all | count) == 0 {
                continue;
            }
            for (index, &count) in (chunk * STRIDE..).zip(counts) {
                if count != 0 && KEPT[index] {
                    indices.push(index as u16);
                    values.push(count);
                }
            }
        }
        Self {
            indices: indices.into(),
            values: values.into(),
        }
    }

    /// A slot that has these counters and nothing else.
    #[must_use]
    pub fn slot(&self) -> Slot {
        let mut slot = Slot::zeroed();
        let counters = slot.counters_mut();
        for (&index, &value) in self.indices.iter().zip(&self.values) {
            counters[usize::from(index)] = value;
        }
        slot
    }
}

impl Snapshot {
    /// The processes with the most sockets, most first.
    #[must_use]
    pub fn busiest(&self, limit: usize) -> Vec<&ProcessVitals> {
        let mut processes: Vec<_> = self.processes.iter().collect();
        processes.sort_by_key(|process| Reverse(process.vitals.sockets()));
        processes.truncate(limit);
        processes
    }
}

impl Vitals {
    fn new(view: &SeriesView<'_>) -> Self {
        let mut live = [0; STATES];
        for (state, (live, count)) in live
            .iter_mut()
            .zip(view.counts.live_by_state())
            .enumerate()
            .skip(1)
        {
            if ![usize::from(CLOSE), usize::from(TIME_WAIT)].contains(&state) {
                // Two CPUs may be seen out of order, so a gauge may be below zero for a moment.
                *live = count.clamp(0, u32::MAX.into()) as u32;
            }
        }
        Self {
            labels: Arc::clone(view.labels),
            live,
            time_wait: view.time_wait,
            counts: Counts::new(view.counts),
            listeners: Box::default(),
            ports: Box::default(),
        }
    }

    /// Number of live sockets.
    #[must_use]
    pub fn sockets(&self) -> u64 {
        self.live.iter().copied().map(u64::from).sum()
    }

    /// Live sockets by name of the state, without states that have none.
    pub fn connections(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let states = (0..).zip(self.live).filter(|(_, live)| *live > 0);
        states.filter_map(|(state, live)| Some((state_name(state)?, live)))
    }
}

impl Table {
    /// What [`Snapshot::ended`] has to be for `walk` and these `others`.
    #[must_use]
    pub fn ended_owners(
        &self,
        walk: &Walk,
        others: impl IntoIterator<Item = (u32, u32)>,
    ) -> HashMap<(u32, u32), Arc<Labels>> {
        let shares = walk.busy_destinations().flat_map(|it| walk.holders(it));
        let owners = shares.map(|share| share.owner);
        let namespaces = walk.namespaces.values().filter(|it| it.is_busy());
        let binders = namespaces.flat_map(|it| it.binders.iter().map(|(owner, _)| *owner));
        let runs = |&(slot, generation): &(u32, u32)| {
            let entry = self.entry(slot, generation);
            entry.is_some_and(|entry| entry.alive)
        };
        let ended = owners.chain(binders).chain(others);
        let ended = ended.filter(|owner| !runs(owner));
        let name = |owner: (u32, u32)| {
            let name = self.names.get(self.name_of_slot(owner.0, owner.1));
            (owner, Arc::clone(&name.labels))
        };
        ended.map(name).collect()
    }

    /// All running processes and all names, for a tick that began at `monotonic_ns`.
    #[must_use]
    pub fn snapshot(
        &self,
        monotonic_ns: u64,
        source: &dyn KernelSource,
        facts: &dyn ProcessFacts,
    ) -> Snapshot {
        let mut ports: HashMap<Holder, Vec<PortsView>> = HashMap::new();
        for (holder, view) in &self.ports.views {
            ports.entry(*holder).or_default().push(view.clone());
        }
        let mut snapshot = Snapshot {
            monotonic_ns,
            ..Snapshot::default()
        };
        self.visit(source, facts, &mut |view| {
            let mut vitals = Vitals::new(view);
            let by_address = match view.holder {
                Holder::Name(id) => self.listeners.by_name.get(&id),
                Holder::Process(slot) => self.listeners.by_process.get(&slot),
            };
            if let Some(by_address) = by_address {
                let by_address = by_address.0.iter();
                vitals.listeners = by_address
                    .map(|(address, (stats, _))| (*address, *stats))
                    .collect();
            }
            vitals.ports = ports.remove(&view.holder).unwrap_or_default().into();
            match (view.kind, view.holder) {
                (Kind::Process { key, resources, .. }, Holder::Process(slot)) => {
                    let generation = self.holder(slot).map_or(0, |entry| entry.generation);
                    snapshot.processes.push(ProcessVitals {
                        key,
                        owner: (slot, generation),
                        resources,
                        vitals,
                    });
                }
                (kind, _) => {
                    let alive = kind == Kind::Name { alive: true };
                    snapshot.names.push(NameVitals { alive, vitals });
                }
            }
        });
        snapshot
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
