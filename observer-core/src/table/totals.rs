//! Sums over several slots.

use std::collections::BTreeMap;

use observer_common::{SLOT_FIRST, Slot, SockoptKey, TimeWaitCount};

use crate::contract::{KernelControl, KernelSource};

/// A kind of failed setsockopt call, of any process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Failure {
    /// `level` argument.
    pub level: i32,
    /// `optname` argument.
    pub option: i32,
    /// Positive errno.
    pub errno: u16,
    /// Address family, 0 when the descriptor was no socket.
    pub family: u16,
    /// `sk_protocol`.
    pub protocol: u16,
    /// `sk_type`.
    pub socket_type: u16,
}

impl From<&SockoptKey> for Failure {
    fn from(key: &SockoptKey) -> Self {
        Self::of(key)
    }
}

impl Failure {
    /// The kind of a key, in constants too.
    const fn of(key: &SockoptKey) -> Self {
        let &SockoptKey {
            slot: _,
            generation: _,
            level,
            option,
            errno,
            family,
            protocol,
            socket_type,
        } = key;
        Self {
            level,
            option,
            errno,
            family,
            protocol,
            socket_type,
        }
    }

    /// The key of these failures of the process that has a slot.
    pub(super) fn key(&self, slot: u32, generation: u32) -> SockoptKey {
        let &Self {
            level,
            option,
            errno,
            family,
            protocol,
            socket_type,
        } = self;
        SockoptKey {
            slot,
            generation,
            level,
            option,
            errno,
            family,
            protocol,
            socket_type,
        }
    }

    /// The sum of kinds beyond the limit.
    pub const OTHER: Self = Self::of(&SockoptKey::rest(0, 0));
}

/// Failed setsockopt calls by kind.
pub type Failures = BTreeMap<Failure, u64>;

/// Counts of processes that have ended.
#[derive(Debug)]
pub(super) struct Totals {
    pub counts: Slot,
    pub failures: Failures,
    /// Numbers of their [`TimeWaitCount`]s whose sockets have not all left TIME_WAIT.
    time_wait_counts: Vec<u32>,
    /// Sockets that left TIME_WAIT, of all others.
    ended: u64,
}

impl Totals {
    pub fn new() -> Box<Self> {
        Box::new(Self {
            counts: Slot::zeroed(),
            failures: Failures::new(),
            time_wait_counts: Vec::new(),
            ended: 0,
        })
    }

    /// Adds the [`TimeWaitCount`] of a process that is folded.
    pub fn take_time_wait_count(&mut self, number: u32) {
        // One below belongs to no process.
        if number >= SLOT_FIRST {
            self.time_wait_counts.push(number);
        }
    }

    /// Gives those back all of whose sockets have left TIME_WAIT.
    pub fn close_time_wait_counts(&mut self, source: &dyn KernelControl) {
        let ended = &mut self.ended;
        self.time_wait_counts.retain(|&number| {
            let count = source.time_wait_count(number);
            let open = count.entered != count.ended;
            if !open {
                *ended = ended.wrapping_add(count.ended);
                source.free_time_wait_count(number);
            }
            open
        });
    }

    /// Sockets in TIME_WAIT now, and those that left it.
    pub fn time_waits(&self, source: &dyn KernelSource) -> TimeWaits {
        let closed = TimeWaits {
            live: 0,
            ended: self.ended,
        };
        let counts = self.time_wait_counts.iter();
        counts.fold(closed, |sum, &number| {
            sum.plus(source.time_wait_count(number))
        })
    }

    /// Whether sockets in TIME_WAIT count for it.
    pub fn has_time_waits(&self) -> bool {
        !self.time_wait_counts.is_empty()
    }

    /// Adds sockets that left TIME_WAIT while their process counted for this name, minus those that
    /// left while it counted for another one.
    pub fn add_ended(&mut self, ended: u64) {
        self.ended = self.ended.wrapping_add(ended);
    }

    /// Adds counts without live sockets; see [`settled`].
    pub fn add(&mut self, counts: &Slot) {
        add(&mut self.counts, counts);
    }

    /// Adds failures, whose kind is one that is shown.
    pub fn add_failures(&mut self, kind: Failure, count: u64) {
        *self.failures.entry(kind).or_default() += count;
    }
}

/// Sockets in TIME_WAIT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TimeWaits {
    /// Now.
    pub live: u64,
    /// That left it.
    pub ended: u64,
}

impl TimeWaits {
    /// Adds the sockets of one process.
    pub fn plus(self, count: TimeWaitCount) -> Self {
        Self {
            live: self.live + count.live(),
            // Counts of another name are subtracted first.
            ended: self.ended.wrapping_add(count.ended),
        }
    }
}

/// The counts of a process without its live sockets: it has none any more, or they count for another
/// name from now on. Otherwise the gauges of the old name would keep them forever.
pub(super) fn settled(counts: &Slot) -> Slot {
    let mut settled = *counts;
    for state in 0..observer_common::STATES as u8 {
        settled.state.adjust[usize::from(state)] -= counts.live(state);
    }
    settled
}

/// Adds the counters of `slot` to `total`, without the identity fields.
pub(super) fn add(total: &mut Slot, slot: &Slot) {
    for (total, count) in total.counters_mut().iter_mut().zip(slot.counters()) {
        *total = total.wrapping_add(*count);
    }
}

/// Subtracts the counters of `slot` from `total`, without the identity fields.
pub(super) fn subtract(total: &mut Slot, slot: &Slot) {
    for (total, count) in total.counters_mut().iter_mut().zip(slot.counters()) {
        *total = total.wrapping_sub(*count);
    }
}
