//! Sockets in TIME_WAIT.

use core::mem::offset_of;

use crate::{
    metric::{CounterMetric, Part, Values},
    signal::{SIGNAL_TIME_WAIT, SIGNAL_TIME_WAIT_OVERFLOW},
};

/// Sockets that a process left in TIME_WAIT. They outlive the process and its slot, so these counters
/// do, too, until the last such socket has ended.
///
/// The counters with numbers below [`crate::SLOT_FIRST`] belong to the slots of the same numbers.
/// Processes that found no free ones share those of [`crate::SLOT_OVERFLOW`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TimeWaitCount {
    /// Sockets that entered TIME_WAIT and had an entry in the map of such sockets.
    pub entered: u64,
    /// Of those, sockets that left it.
    pub ended: u64,
}

crate::assert_layout!(TimeWaitCount, 16, [entered: u64, ended: u64]);

impl TimeWaitCount {
    /// Sockets in TIME_WAIT now. Saturates, because updates of two CPUs may be seen out of order.
    #[must_use]
    pub const fn live(&self) -> u64 {
        self.entered.saturating_sub(self.ended)
    }
}

/// A socket in TIME_WAIT; the key is the address of its `struct inet_timewait_sock`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TimeWait {
    /// The owner's slot.
    pub slot: u32,
    /// Generation of the slot when the socket entered.
    pub generation: u32,
    /// Number of the owner's [`TimeWaitCount`].
    pub count: u32,
    /// Inode number of its network namespace.
    pub netns: u32,
    /// When it entered, as [`coarse_time`].
    pub entered: u32,
    /// Its `skc_hash`.
    pub hash: u32,
}

crate::assert_layout!(TimeWait, 24, [
    slot: u32, generation: u32, count: u32, netns: u32, entered: u32, hash: u32,
]);

/// Initial states of a timewait socket: TIME_WAIT after the peer's FIN, FIN_WAIT2 before it. The later
/// change of the latter to TIME_WAIT has no event.
pub const TIME_WAIT_SUBSTATES: [u8; 2] = [crate::TIME_WAIT, crate::FIN_WAIT2];

const TIME_WAIT_SUBSTATE_NAMES: [&str; 2] = ["TIME_WAIT", "FIN_WAIT2"];

/// Nanoseconds in units of 2^20, about a millisecond; they wrap after 52 days.
#[must_use]
pub const fn coarse_time(nanoseconds: u64) -> u32 {
    (nanoseconds >> 20) as u32
}

/// Counters of TIME_WAIT.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TimeWaitCounters {
    /// Sockets that entered TIME_WAIT, in the order of [`TIME_WAIT_SUBSTATES`].
    pub entered: [u64; TIME_WAIT_SUBSTATES.len()],
    /// Sockets without TIME_WAIT because buckets or memory ran out.
    pub overflows: u64,
}

crate::assert_layout!(TimeWaitCounters, 24, [
    entered: [u64; TIME_WAIT_SUBSTATES.len()],
    overflows: u64,
]);

/// Metrics of [`TimeWaitCounters`].
pub const TIME_WAIT_METRICS: &[CounterMetric] = &[
    CounterMetric {
        name: "socket_time_wait_entered_total",
        unit: "sockets",
        labels: &["substate"],
        hooks: "`inet_twsk_alloc`, else `inet_sock_set_state`",
        help: "Sockets that entered TIME_WAIT, by initial substate: FIN_WAIT2 if the peer had not closed yet.",
        query: "sum by (comm, unit) (rate(socket_time_wait_entered_total[1m])) > 400",
        failures_from: None,
        process: None,
        parts: &[Part {
            signal: SIGNAL_TIME_WAIT,
            offset: offset_of!(TimeWaitCounters, entered),
            values: &[Values::Names(&TIME_WAIT_SUBSTATE_NAMES)],
        }],
    },
    CounterMetric {
        name: "socket_time_wait_overflows_total",
        unit: "sockets",
        labels: &[],
        hooks: "`inet_twsk_alloc`",
        help: "Sockets closed without TIME_WAIT, because the limit net.ipv4.tcp_max_tw_buckets was reached or memory ran out. Absent if `inet_twsk_alloc` is not hooked.",
        query: "sum by (comm) (rate(socket_time_wait_overflows_total[5m])) > 0",
        failures_from: Some(0),
        process: None,
        parts: &[Part {
            signal: SIGNAL_TIME_WAIT_OVERFLOW,
            offset: offset_of!(TimeWaitCounters, overflows),
            values: &[],
        }],
    },
];
