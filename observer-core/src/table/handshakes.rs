//! TLS handshakes in progress, of each name and process.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use observer_common::{SLOT_FIRST, TLS_ROLES, TlsSeen};

use super::{
    in_progress::{Handshakes, OfProcesses},
    labels::Labels,
    port_views::Holder,
    store::Table,
};

impl Table {
    /// Takes in the handshakes in progress at `now` (CLOCK_MONOTONIC), of which those of `slow_after` take too long.
    /// Returns those of processes that have ended, to be counted as failed.
    pub fn update_handshakes(
        &mut self,
        seen: &[TlsSeen],
        now: Duration,
        slow_after: Duration,
    ) -> Vec<TlsSeen> {
        let mut by_name: BTreeMap<Holder, Handshakes> = BTreeMap::new();
        let mut of_processes = OfProcesses::new();
        let mut abandoned = Vec::new();
        for it in seen {
            let handshake = &it.handshake;
            let owner = (handshake.slot, handshake.generation);
            let role = handshake.role as usize;
            if role >= TLS_ROLES.len() {
                continue;
            }
            let has_ended = || {
                !self
                    .entry(owner.0, owner.1)
                    .is_some_and(|entry| entry.alive)
            };
            if owner.0 >= SLOT_FIRST && has_ended() {
                abandoned.push(*it);
                continue;
            }
            let age = now.saturating_sub(Duration::from_nanos(handshake.began_ns));
            let name = Holder::Name(self.name_of_slot(owner.0, owner.1));
            let of_name = by_name.entry(name).or_default();
            of_name.add(role, age, slow_after);
            if owner.0 >= SLOT_FIRST {
                let of_process = of_processes.entry(owner).or_default();
                of_process.add(role, age, slow_after);
            }
        }
        self.handshakes.by_name = by_name;
        self.handshakes.of_processes = Arc::new(of_processes);
        abandoned
    }

    /// Forgets the handshakes in progress, because they could not be read.
    pub fn forget_handshakes(&mut self) {
        self.handshakes.by_name.clear();
        self.handshakes.of_processes = Arc::default();
    }

    /// Takes in how many files are probed, by library and by how the functions were found.
    pub fn update_tls_files(&mut self, files: Vec<(&'static str, &'static str, u64)>) {
        self.handshakes.files = files;
    }

    /// Handshakes in progress of names that have any.
    pub fn handshakes(&self) -> impl Iterator<Item = (Arc<Labels>, &Handshakes)> {
        let all = self.handshakes.by_name.iter();
        all.map(|(name, handshakes)| (self.labels_of(*name), handshakes))
    }

    /// Those of each running process that has any.
    #[must_use]
    pub fn handshakes_of_processes(&self) -> Arc<OfProcesses> {
        Arc::clone(&self.handshakes.of_processes)
    }

    /// Files that are probed, by library and by how the functions were found.
    #[must_use]
    pub fn tls_files(&self) -> &[(&'static str, &'static str, u64)] {
        &self.handshakes.files
    }
}
