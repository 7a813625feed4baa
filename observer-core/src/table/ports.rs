//! Takes in walks over the ports in use, and chooses which destinations are shown.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

use observer_common::ProcessKey;

use super::{
    entry::Entry,
    labels::Labels,
    port_views::{Holder, Ports, PortsView},
    store::Table,
};
use crate::walk::{Share, Waits, Walk};

/// Maximum number of destinations with series of their own, over all names, and over all processes.
pub(crate) const DESTINATIONS: usize = 1000;

impl Table {
    /// Updates from a walk. Each name and process shows the `top` destinations with the most ports.
    pub fn update_ports(&mut self, walk: &Walk, top: usize) {
        let by_name = walk.shares.iter().map(|share| {
            let (slot, generation) = share.owner;
            (Holder::Name(self.name_of_slot(slot, generation)), share)
        });
        let mut views = self.views_of(by_name.collect(), top);
        let by_process = walk.shares.iter().filter_map(|share| {
            let (slot, generation) = share.owner;
            let entry = self.entry(slot, generation)?;
            entry.is_shown().then_some((Holder::Process(slot), share))
        });
        views.extend(self.views_of(by_process.collect(), top));
        self.ports.views = views;
        let namespaces = walk.namespaces.iter();
        self.ports.available = namespaces
            .map(|(netns, it)| (*netns, it.available()))
            .collect();
        let mut unguarded = BTreeMap::new();
        for process in walk.processes.iter().filter(|it| it.unguarded > 0) {
            let (slot, generation) = process.owner;
            let name = Holder::Name(self.name_of_slot(slot, generation));
            let process_holder = self.entry(slot, generation).map(|_| Holder::Process(slot));
            for holder in [Some(name), process_holder].into_iter().flatten() {
                *unguarded.entry(holder).or_default() += process.unguarded;
            }
        }
        self.ports.unguarded = unguarded;
        let mut waits: BTreeMap<Holder, Waits> = BTreeMap::new();
        for ((slot, generation), of_process) in &walk.waits {
            let name = self.name_of_slot(*slot, *generation);
            waits
                .entry(Holder::Name(name))
                .or_default()
                .merge(of_process);
            if self.entry(*slot, *generation).is_some() {
                waits.insert(Holder::Process(*slot), of_process.clone());
            }
        }
        self.ports.waits = waits;
        self.ports.walked = Some((walk.took, walk.interval));
    }

    /// Removes the ports in use, because they could not be read.
    pub fn forget_ports(&mut self) {
        self.ports = Ports::default();
    }

    // In flat memory: there may be as many shares as connections, and what many small
    // allocations took stays with the process.
    fn views_of(&self, mut shares: Vec<(Holder, &Share)>, top: usize) -> Vec<(Holder, PortsView)> {
        shares.sort_unstable_by_key(|(holder, share)| (*holder, share.destination));
        let mut shown = Vec::new();
        let mut others: BTreeMap<Holder, PortsView> = BTreeMap::new();
        let mut hide = |(holder, view): (Holder, PortsView)| {
            let sum = others.entry(holder).or_insert_with(|| PortsView {
                labels: Arc::clone(&view.labels),
                destination: None,
                used: 0,
                blocked: 0,
                blocked_by_all: 0,
                available: 0,
            });
            sum.used += view.used;
            sum.blocked += view.blocked;
            // Of the one with the highest ratio.
            if view.ratio() > sum.ratio() || sum.available == 0 {
                sum.blocked_by_all = view.blocked_by_all;
                sum.available = view.available;
            }
        };
        for of_holder in shares.chunk_by(|a, b| a.0 == b.0) {
            let labels = self.labels_of(of_holder[0].0);
            let destinations = of_holder.chunk_by(|a, b| a.1.destination == b.1.destination);
            let mut destinations: Vec<_> = destinations
                .map(|shares| (shares[0].0, view_of(&labels, shares)))
                .collect();
            busiest_first(&mut destinations);
            let hidden = destinations.split_off(top.min(destinations.len()));
            hidden.into_iter().for_each(&mut hide);
            shown.append(&mut destinations);
        }
        busiest_first(&mut shown);
        let hidden = shown.split_off(DESTINATIONS.min(shown.len()));
        hidden.into_iter().for_each(&mut hide);
        shown.extend(others);
        shown
    }

    pub(super) fn labels_of(&self, holder: Holder) -> Arc<Labels> {
        match holder {
            Holder::Name(id) => Arc::clone(&self.names.get(id).labels),
            Holder::Process(slot) => {
                let labels = self.holder(slot).map(|entry| Arc::clone(&entry.labels));
                labels.unwrap_or_else(|| Arc::new(Labels::name(super::labels::OTHER, "")))
            }
        }
    }

    /// Whether it has series: a name, or a process that is shown.
    fn is_shown(&self, holder: Holder) -> bool {
        match holder {
            Holder::Name(_) => true,
            Holder::Process(slot) => self.holder(slot).is_some_and(Entry::is_shown),
        }
    }

    /// Ports in use, by name and by process that is shown, and destination.
    pub fn ports(&self) -> impl Iterator<Item = &PortsView> {
        let views = self.ports.views.iter();
        let views = views.filter(|(holder, _)| self.is_shown(*holder));
        views.map(|(_, view)| view)
    }

    /// Quiet connections of each name that nothing ends if the peer vanishes, where there are any.
    pub fn unguarded_of_names(&self) -> impl Iterator<Item = (Arc<Labels>, u32)> {
        let all = self.ports.unguarded.iter();
        let names = all.filter(|(holder, _)| matches!(holder, Holder::Name(_)));
        names.map(|(holder, count)| (self.labels_of(*holder), *count))
    }

    /// The same of each process.
    pub fn unguarded_of_processes(&self) -> impl Iterator<Item = (ProcessKey, u32)> {
        let all = self.ports.unguarded.iter();
        all.filter_map(|(holder, count)| match holder {
            Holder::Name(_) => None,
            Holder::Process(slot) => Some((self.holder(*slot)?.key, *count)),
        })
    }

    /// Waits of the connections of names and of shown processes.
    pub fn waits(&self) -> impl Iterator<Item = (Arc<Labels>, &Waits)> {
        let all = self.ports.waits.iter();
        let all = all.filter(|(holder, _)| self.is_shown(**holder));
        all.map(|(holder, waits)| (self.labels_of(*holder), waits))
    }

    /// Duration of the last walk over connections, and the time between the ends of the last two.
    #[must_use]
    pub fn walked(&self) -> Option<(Duration, Duration)> {
        self.ports.walked
    }

    /// Ports that there are for each destination, by network namespace.
    #[must_use]
    pub fn ports_available(&self) -> &BTreeMap<u32, u32> {
        &self.ports.available
    }
}

/// Of shares of one destination that have the same holder; one at least.
fn view_of(labels: &Arc<Labels>, shares: &[(Holder, &Share)]) -> PortsView {
    let (_, first) = &shares[0];
    PortsView {
        labels: Arc::clone(labels),
        destination: Some(first.destination),
        used: shares.iter().map(|(_, share)| share.used).sum(),
        blocked: shares.iter().map(|(_, share)| share.blocked).sum(),
        blocked_by_all: first.blocked_by_all,
        available: first.available,
    }
}

fn busiest_first(views: &mut [(Holder, PortsView)]) {
    views.sort_by(|(a_holder, a), (b_holder, b)| {
        b.ratio()
            .total_cmp(&a.ratio())
            .then_with(|| Reverse(a.used).cmp(&Reverse(b.used)))
            .then_with(|| (a_holder, a.destination).cmp(&(b_holder, b.destination)))
    });
}
