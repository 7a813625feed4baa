//! A process that holds a slot.

use std::{sync::Arc, time::Instant};

use observer_common::{ProcessKey, SLOT_FIRST, TimeWaitCount};

use super::{
    labels::Labels,
    names::{Kinds, NameId},
    priority::Priority,
    tally::Tally,
    totals::Failures,
};
use crate::{contract::KernelSource, process::Unit};

/// Since when a process has been without sockets; an ended one for how many ticks.
#[derive(Debug)]
pub(super) struct WithoutSockets {
    pub since: Instant,
    pub ticks: u32,
    /// Of a running process, the number of transitions of its sockets by then.
    pub transitions: u64,
}

/// A process that holds a slot.
#[derive(Debug)]
pub(super) struct Entry {
    pub key: ProcessKey,
    pub generation: u32,
    /// The name that it counts for.
    pub name: NameId,
    /// The labels of its own series.
    pub labels: Arc<Labels>,
    pub unit: Arc<Unit>,
    /// Whether the filter selects it.
    pub selected: bool,
    pub alive: bool,
    pub priority: Priority,
    pub without_sockets: Option<WithoutSockets>,
    /// See [`observer_common::Slot::time_wait_count`].
    pub time_wait_count: u32,
    /// Its counts for earlier names.
    pub before: Option<Box<Tally>>,
    /// Failed setsockopt calls, as of the last tick.
    pub failures: Failures,
    /// The counts that its own series include.
    pub kinds: Kinds,
    /// Number of changes of its comm.
    pub renames: u8,
}

impl Entry {
    /// Its sockets that entered TIME_WAIT and left it. None if it shares their number with others.
    pub fn time_waits(&self, source: &dyn KernelSource) -> TimeWaitCount {
        match self.time_wait_count {
            ..SLOT_FIRST => TimeWaitCount::default(),
            number => source.time_wait_count(number),
        }
    }

    /// Whether it has series of its own.
    pub fn is_shown(&self) -> bool {
        self.alive && self.priority.shown
    }

    /// Whether it may have them.
    pub fn may_be_shown(&self) -> bool {
        self.alive && self.selected
    }
}
