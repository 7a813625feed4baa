//! The table itself: its parts, its bounds, and how it is looked up in.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use observer_common::{ProcessKey, SLOT_UNATTRIBUTED, Slot};

use super::{
    entry::Entry,
    failed_calls,
    freed_slots::FreedSlots,
    in_progress::InProgress,
    listener_stats::Listeners,
    names::{FIXED, NameId, Names, OTHER_ID, UNATTRIBUTED_ID},
    port_views::Ports,
    sum::Sum,
    totals::Failures,
};
use crate::{net::sysctls::Sysctls, process::Unit};

/// Whether a process of this comm and unit counts for its name and may be shown by pid.
pub type Filter = Box<dyn Fn(&str, &str) -> bool + Send + Sync>;

/// Limits of the table.
pub struct TableConfig {
    /// Maximum number of names (comm and unit).
    pub max_names: usize,
    /// Maximum number of processes shown by pid.
    pub max_processes: usize,
    /// Minimum time without sockets before an exited process is folded.
    pub grace: Duration,
    /// Maximum number of tracked processes. Above three quarters of it, there is no grace period.
    pub slots: usize,
    /// Processes that it rejects count for `<other>`.
    pub filter: Option<Filter>,
}

impl Default for TableConfig {
    fn default() -> Self {
        Self {
            max_names: 1000,
            max_processes: 400,
            grace: Duration::from_secs(5),
            slots: 4096,
            filter: None,
        }
    }
}

/// Number of processes with a slot, by how they are shown, and number of names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessCounts {
    /// Running, shown by their pid.
    pub shown: u64,
    /// Running, and not shown by their pid.
    pub hidden: u64,
    /// Ended, and not folded yet.
    pub exited: u64,
    /// Names of running and ended processes.
    pub names: u64,
    /// Names that were evicted.
    pub names_evicted: u64,
}

/// The per-process table.
pub struct Table {
    pub(super) config: TableConfig,
    /// By slot.
    pub(super) entries: Vec<Option<Entry>>,
    /// The slot of the last process that got a pid.
    pub(super) by_pid: HashMap<u32, u32>,
    pub(super) names: Names,
    /// Failed setsockopt calls of no process in particular, by the name that they count for.
    pub(super) fixed_failures: [Failures; FIXED],
    pub(super) freed_slots: FreedSlots,
    pub(super) listeners: Listeners,
    pub(super) failed_binds: failed_calls::ByName,
    pub(super) ports: Ports,
    pub(super) handshakes: InProgress,
    pub(super) sysctls: Arc<Sysctls>,
    /// Number of processes shown by pid, including those that ended since the last tick.
    pub(super) shown: usize,
    /// When the processes to show were last selected; `None` while all are shown.
    pub(super) chosen: Option<Instant>,
    /// The filter changed since the last tick.
    pub(super) reselect: bool,
    /// As of the last tick.
    pub(super) now: Instant,
    pub(super) scratch: Box<Slot>,
    /// Memory of the last scrape, for the next one.
    pub(super) sums: Mutex<Vec<Sum>>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(config: TableConfig) -> Self {
        Self {
            entries: Vec::new(),
            by_pid: HashMap::new(),
            names: Names::new(config.max_names),
            config,
            fixed_failures: Default::default(),
            freed_slots: FreedSlots::default(),
            listeners: Listeners::default(),
            failed_binds: failed_calls::ByName::default(),
            ports: Ports::default(),
            handshakes: InProgress::default(),
            sysctls: Arc::default(),
            shown: 0,
            chosen: None,
            reselect: false,
            now: Instant::now(),
            scratch: Box::new(Slot::zeroed()),
            sums: Mutex::default(),
        }
    }

    /// Changes the filter from the next tick on. Existing counts do not move.
    pub fn set_filter(&mut self, filter: Filter) {
        self.config.filter = Some(filter);
        self.reselect = true;
    }

    /// Numbers of processes that hold a slot, and of names.
    #[must_use]
    pub fn processes(&self) -> ProcessCounts {
        let mut counts = ProcessCounts {
            names: self.names.len() as u64,
            names_evicted: self.names.evicted(),
            ..ProcessCounts::default()
        };
        for entry in self.entries.iter().flatten() {
            match (entry.alive, entry.is_shown()) {
                (false, _) => counts.exited += 1,
                (true, true) => counts.shown += 1,
                (true, false) => counts.hidden += 1,
            }
        }
        counts
    }

    /// The process that has a slot.
    #[must_use]
    pub fn process(&self, slot: u32) -> Option<&ProcessKey> {
        self.holder(slot).map(|entry| &entry.key)
    }

    /// All processes that have a slot.
    pub fn keys(&self) -> impl Iterator<Item = &ProcessKey> {
        self.entries.iter().flatten().map(|entry| &entry.key)
    }

    /// The units of all names and of processes that are shown, by the label.
    #[must_use]
    pub fn units(&self) -> BTreeMap<&str, &Unit> {
        let names = self.names.iter().map(|(_, name)| &name.unit);
        // The others' are those of their names.
        let entries = self.entries.iter().flatten();
        let unnamed = entries.filter(|entry| entry.name == OTHER_ID && entry.is_shown());
        let units = names.chain(unnamed.map(|entry| &entry.unit));
        units.map(|unit| (unit.name.as_str(), &**unit)).collect()
    }

    /// The entry of a slot.
    pub(super) fn holder(&self, slot: u32) -> Option<&Entry> {
        self.entries.get(slot as usize)?.as_ref()
    }

    /// The entry of a slot, if it still belongs to this generation.
    pub(super) fn entry(&self, slot: u32, generation: u32) -> Option<&Entry> {
        let entry = self.holder(slot)?;
        (entry.generation == generation).then_some(entry)
    }

    /// The name that a slot counts for, or counted for until recently.
    pub(super) fn name_of_slot(&self, slot: u32, generation: u32) -> NameId {
        if slot == SLOT_UNATTRIBUTED {
            return UNATTRIBUTED_ID;
        }
        match self.entry(slot, generation) {
            Some(entry) => entry.name,
            None => self.freed_slots.name(slot, generation).unwrap_or(OTHER_ID),
        }
    }
}
