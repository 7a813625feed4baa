//! TLS handshakes in progress in the table.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use observer_common::TLS_ROLES;

use super::{names::NameId, port_views::Holder};

/// TLS handshakes in progress, by the `TLS_` number of the role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshakes {
    /// Number.
    pub in_progress: [u32; TLS_ROLES.len()],
    /// Number of those that are too slow.
    pub slow: [u32; TLS_ROLES.len()],
    /// Age of the oldest.
    pub oldest: [Duration; TLS_ROLES.len()],
}

impl Handshakes {
    /// Adds one.
    pub(super) fn add(&mut self, role: usize, age: Duration, slow_after: Duration) {
        self.in_progress[role] += 1;
        self.slow[role] += u32::from(age >= slow_after);
        self.oldest[role] = self.oldest[role].max(age);
    }

    /// Those of each role that has any: role, number, age of the oldest.
    pub fn roles(&self) -> impl Iterator<Item = (&'static str, u32, Duration)> {
        let all = TLS_ROLES.iter().zip(self.in_progress).zip(self.oldest);
        let some = all.filter(|((_, count), _)| *count > 0);
        some.map(|((role, count), oldest)| (*role, count, oldest))
    }
}

/// Those of each process, by slot and generation.
pub type OfProcesses = HashMap<(u32, u32), Handshakes>;

/// As of the last reading.
#[derive(Debug, Default)]
pub(super) struct InProgress {
    /// Of each name.
    pub by_name: BTreeMap<Holder, Handshakes>,
    /// Of each process.
    pub of_processes: Arc<OfProcesses>,
    /// Files that are probed, by library and by how the functions were found.
    pub files: Vec<(&'static str, &'static str, u64)>,
}

impl InProgress {
    /// The name was evicted.
    pub fn forget_name(&mut self, id: NameId) {
        self.by_name.remove(&Holder::Name(id));
    }
}
