//! Ports in use, of each name and of each process.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{labels::Labels, names::NameId};
use crate::walk::{Destination, Waits};

/// The values of the ports in use of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct PortsView {
    /// The name or process.
    pub labels: Arc<Labels>,
    /// The destination; `None` for the sum of those without series of their own.
    pub destination: Option<Destination>,
    /// Ports in use.
    pub used: u32,
    /// Ports among them that connect() cannot use.
    pub blocked: u32,
    /// Ports to the destination that are blocked by all processes.
    pub blocked_by_all: u32,
    /// Ports that there are for the destination.
    pub available: u32,
}

impl PortsView {
    /// Ports blocked by all processes, as a fraction of those available.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        f64::from(self.blocked_by_all) / f64::from(self.available.max(1))
    }
}

/// Whose ports: a name's, or those of the process that has a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Holder {
    Name(NameId),
    Process(u32),
}

/// Ports in use, as of the last walk.
#[derive(Debug, Default)]
pub(super) struct Ports {
    pub views: Vec<(Holder, PortsView)>,
    pub available: BTreeMap<u32, u32>,
    /// [`crate::walk::ProcessUse::unguarded`], where it is not 0.
    pub unguarded: BTreeMap<Holder, u32>,
    /// Waits of the connections of each.
    pub waits: BTreeMap<Holder, Waits>,
    /// Duration of the last walk, and the time between the ends of the last two.
    pub walked: Option<(Duration, Duration)>,
}

impl Ports {
    /// The name was evicted.
    pub fn forget_name(&mut self, id: NameId) {
        self.forget(Holder::Name(id));
    }

    /// The process lost its slot.
    pub fn forget_process(&mut self, slot: u32) {
        self.forget(Holder::Process(slot));
    }

    fn forget(&mut self, holder: Holder) {
        self.views.retain(|(of, _)| *of != holder);
        self.unguarded.remove(&holder);
        self.waits.remove(&holder);
    }
}
