//! Ports in use by process: which destinations of a process are shown.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, btree_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

use observer_common::{SLOT_OVERFLOW, SLOT_UNATTRIBUTED};

use super::{Table, labels::Labels, listeners::is_process};
use crate::ports::{Destination, Share, Usage};

/// The most destinations shown by themselves, over all processes.
const DESTINATIONS: usize = 1000;

/// Ports rest for 60 seconds after their process may be gone; the labels of its group are
/// kept a little longer.
const REST: Duration = Duration::from_secs(90);

/// What a series says of the ports in use.
#[derive(Clone, Debug, PartialEq)]
pub struct PortsView {
    /// The process.
    pub labels: Arc<Labels>,
    /// The destination; `None` for all that are not shown by themselves.
    pub destination: Option<Destination>,
    /// Ports that the process uses.
    pub used: u32,
    /// Ports that all processes use, as a part of those available.
    pub ratio: f64,
}

/// Ports in use, as of the last walk.
#[derive(Debug, Default)]
pub(super) struct Ports {
    views: Vec<PortsView>,
    available: BTreeMap<u32, u32>,
    /// Groups of processes that have lost their slot, by slot and generation, and until when
    /// they are kept.
    departed: HashMap<(u32, u32), (Arc<Labels>, Option<Instant>)>,
}

impl Ports {
    /// Notes that a process lost its slot. Its series was `shown`.
    pub fn depart(&mut self, slot: u32, generation: u32, shown: Option<&Labels>) {
        let labels = match shown {
            Some(labels) => labels.exited(),
            None => Labels::new("other", "", ""),
        };
        self.departed
            .insert((slot, generation), (Arc::new(labels), None));
    }

    /// Forgets those that departed long ago.
    pub fn expire(&mut self, now: Instant) {
        self.departed.retain(|_, (_, until)| {
            let until = *until.get_or_insert(now + REST);
            now < until
        });
    }
}

impl Table {
    /// Takes in what a walk found. Each process shows its `top` busiest destinations.
    pub fn update_ports(&mut self, usage: &Usage, top: usize) {
        // In flat memory: there may be as many shares as connections, and what many small
        // allocations took stays with the process.
        let mut shares: Vec<(Arc<Labels>, &Share)> = usage
            .shares
            .iter()
            .map(|share| (self.labels_of(share.owner.0, share.owner.1), share))
            .collect();
        shares.sort_unstable_by(|a, b| (&a.0, a.1.destination).cmp(&(&b.0, b.1.destination)));
        let mut shown = Vec::new();
        let mut rest = BTreeMap::new();
        let mut hide = |view: PortsView| {
            let sum = rest
                .entry(Arc::clone(&view.labels))
                .or_insert_with(|| PortsView {
                    labels: view.labels,
                    destination: None,
                    used: 0,
                    ratio: 0.0,
                });
            sum.used += view.used;
            sum.ratio = sum.ratio.max(view.ratio);
        };
        for process in shares.chunk_by(|a, b| a.0 == b.0) {
            let mut destinations: Vec<_> = process
                .chunk_by(|a, b| a.1.destination == b.1.destination)
                .map(view_of)
                .collect();
            busiest_first(&mut destinations);
            let hidden = destinations.split_off(top.min(destinations.len()));
            hidden.into_iter().for_each(&mut hide);
            shown.append(&mut destinations);
        }
        busiest_first(&mut shown);
        let hidden = shown.split_off(DESTINATIONS.min(shown.len()));
        hidden.into_iter().for_each(&mut hide);
        shown.extend(rest.into_values());
        self.ports.views = shown;
        self.ports.available.clone_from(&usage.available);
    }

    /// Gives what processes that are gone by now use to their groups, until the next walk.
    pub(super) fn fold_ports(&mut self) {
        let gone =
            |view: &PortsView| is_process(&view.labels) && !self.own.contains_key(&view.labels);
        let mut groups: BTreeMap<_, PortsView> = BTreeMap::new();
        let folded: Vec<_> = self.ports.views.extract_if(.., |view| gone(view)).collect();
        if folded.is_empty() {
            return;
        }
        let group = |labels: &Labels| Arc::new(labels.exited());
        let folded = folded.into_iter().map(|view| PortsView {
            labels: group(&view.labels),
            ..view
        });
        let exited = self
            .ports
            .views
            .extract_if(.., |view| view.labels.pid() == "exited");
        for view in exited.collect::<Vec<_>>().into_iter().chain(folded) {
            match groups.entry((Arc::clone(&view.labels), view.destination)) {
                Entry::Vacant(entry) => {
                    entry.insert(view);
                }
                Entry::Occupied(mut entry) => {
                    let sum = entry.get_mut();
                    sum.used += view.used;
                    sum.ratio = sum.ratio.max(view.ratio);
                }
            }
        }
        self.ports.views.extend(groups.into_values());
    }

    /// Ports in use, by process and destination.
    #[must_use]
    pub fn ports(&self) -> &[PortsView] {
        &self.ports.views
    }

    /// Ports that there are for each destination, by network namespace.
    #[must_use]
    pub fn ports_available(&self) -> &BTreeMap<u32, u32> {
        &self.ports.available
    }

    /// The series of a process, which may have lost its slot a short while ago.
    pub(super) fn labels_of(&self, slot: u32, generation: u32) -> Arc<Labels> {
        let fixed = |pid| Arc::new(Labels::new(pid, "", ""));
        match slot {
            SLOT_UNATTRIBUTED => return fixed("unattributed"),
            SLOT_OVERFLOW => return fixed("other"),
            _ => {}
        }
        if self.generation(slot) == Some(generation) {
            let shown = self.process(slot).and_then(|(_, shown)| shown);
            return shown.map_or_else(|| fixed("other"), Arc::clone);
        }
        match self.ports.departed.get(&(slot, generation)) {
            Some((labels, _)) => Arc::clone(labels),
            None => fixed("exited"),
        }
    }
}

/// Of shares of one destination that have the same labels; one at least.
fn view_of(shares: &[(Arc<Labels>, &Share)]) -> PortsView {
    let (labels, first) = &shares[0];
    PortsView {
        labels: Arc::clone(labels),
        destination: Some(first.destination),
        used: shares.iter().map(|(_, share)| share.used).sum(),
        ratio: f64::from(first.used_by_all) / f64::from(first.available.max(1)),
    }
}

fn busiest_first(views: &mut [PortsView]) {
    views.sort_by(|a, b| {
        b.ratio
            .total_cmp(&a.ratio)
            .then_with(|| Reverse(a.used).cmp(&Reverse(b.used)))
            .then_with(|| (&a.labels, a.destination).cmp(&(&b.labels, b.destination)))
    });
}
