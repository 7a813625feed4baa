//! Takes in readings of listening sockets, and shows them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use observer_common::ListenerSample;

use super::{
    labels::Labels,
    listener_stats::{Counts, ListenAddress, ListenerStats, Listeners, ListenersByAddress},
    names::UNATTRIBUTED_ID,
    store::Table,
};
use crate::net::overflows::Overflows;

impl Table {
    /// Updates from a reading of all listeners, including those that ended since the last one.
    /// `overflows` is `None` if the samples contain them.
    pub fn update_listeners(&mut self, samples: &[ListenerSample], overflows: Option<&Overflows>) {
        self.forget_listeners();
        let mut counted = HashMap::with_capacity(samples.len());
        for sample in samples {
            let listener = &sample.listener;
            let known = self.listeners.counted.get(&sample.key).copied();
            let (drops, exact) = known.unwrap_or_default();
            // The last sample of a listener whose end was missed has lower values than before.
            let new_drops = match listener.closed {
                0 => listener.dropped().wrapping_sub(drops),
                _ => listener.dropped().saturating_sub(drops),
            };
            let counts = Counts {
                drops: u64::from(new_drops),
                overflows: match overflows {
                    None => listener.overflows.saturating_sub(exact),
                    Some(_) => 0,
                },
            };
            self.count_listener(sample, &counts, Some(sample));
            if listener.closed == 0 {
                counted.insert(sample.key, (listener.dropped(), listener.overflows));
            }
        }
        self.listeners.counted = counted;
        if let Some(Overflows {
            attributed,
            unattributed,
        }) = overflows
        {
            for (sample, overflows) in attributed {
                let counts = Counts {
                    drops: 0,
                    overflows: *overflows,
                };
                self.count_listener(sample, &counts, None);
            }
            if *unattributed > 0 {
                let by_address = self.listeners.by_name.entry(UNATTRIBUTED_ID).or_default();
                by_address.at(None, self.now).overflows += unattributed;
            }
        }
        let Listeners {
            by_name,
            by_process,
            counted: _,
        } = &mut self.listeners;
        by_name.retain(|_, by_address| by_address.prune());
        by_process.retain(|_, by_address| by_address.prune());
    }

    /// Removes the gauges, because the last reading is outdated or failed.
    pub fn forget_listeners(&mut self) {
        self.listeners
            .by_address()
            .for_each(ListenersByAddress::forget_gauges);
    }

    fn count_listener(
        &mut self,
        at: &ListenerSample,
        counts: &Counts,
        sample: Option<&ListenerSample>,
    ) {
        let (slot, generation) = (at.listener.slot, at.listener.generation);
        let address = Some(ListenAddress::from(at));
        let id = self.name_of_slot(slot, generation);
        let living = self
            .entry(slot, generation)
            .is_some_and(|entry| entry.alive);
        let Listeners {
            by_name,
            by_process,
            counted: _,
        } = &mut self.listeners;
        let by_address = by_name.entry(id).or_default();
        by_address.at(address, self.now).add(counts, sample);
        if living {
            let by_address = by_process.entry(slot).or_default();
            by_address.at(address, self.now).add(counts, sample);
        }
    }

    /// Calls `visit` for each address at which a name has sockets, with its running processes that have any, shown or not; with
    /// the name if none of them is known.
    pub fn visit_holders(&self, visit: &mut dyn FnMut(&ListenAddress, &Arc<Labels>)) {
        let mut holders: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (slot, by_address) in &self.listeners.by_process {
            let Some(entry) = self.holder(*slot) else {
                continue;
            };
            for place in by_address.listening() {
                let of_name = holders.entry((entry.name, place)).or_default();
                of_name.push(&entry.labels);
            }
        }
        for (id, by_address) in &self.listeners.by_name {
            for place in by_address.listening() {
                match holders.get(&(*id, place)) {
                    Some(processes) => processes.iter().for_each(|it| visit(place, it)),
                    None => visit(place, &self.names.get(*id).labels),
                }
            }
        }
    }

    /// Calls `visit` for each series with its address (`None` for the sum of further ones) and values.
    pub fn visit_listeners(
        &self,
        visit: &mut dyn FnMut(&Labels, Option<&ListenAddress>, &ListenerStats),
    ) {
        let names = self.listeners.by_name.iter();
        let names = names.map(|(id, by_address)| (&*self.names.get(*id).labels, by_address));
        let processes = self.listeners.by_process.iter();
        let processes = processes.filter_map(|(slot, by_address)| {
            let entry = self.holder(*slot)?;
            entry.is_shown().then_some((&*entry.labels, by_address))
        });
        for (labels, by_address) in names.chain(processes) {
            for (address, (stats, _)) in &by_address.0 {
                visit(labels, address.as_ref(), stats);
            }
        }
    }
}
