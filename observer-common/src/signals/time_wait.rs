//! Sockets in TIME_WAIT: [`TimeWait`] where the kernel's functions can be hooked, [`TimeWaitOwner`]
//! where TIME_WAIT is inferred.

use core::mem::offset_of;

use crate::{
    metric::{CounterMetric, Part, Values},
    signal::{SIGNAL_TIME_WAIT, SIGNAL_TIME_WAIT_END},
};

/// Counters of sockets that a process left in TIME_WAIT. They outlive the process and its slot, until
/// the last such socket has ended.
///
/// Accounts below [`crate::SLOT_FIRST`] belong to the slots of the same numbers. Processes that found
/// no free account share that of [`crate::SLOT_OVERFLOW`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Account {
    /// Sockets that entered TIME_WAIT and had an entry in the map of such sockets.
    pub entered: u64,
    /// Of those, sockets that left it.
    pub ended: u64,
}

crate::assert_layout!(Account, 16, [entered: u64, ended: u64]);

impl Account {
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
    /// The owner's account.
    pub account: u32,
    /// Inode number of its network namespace.
    pub netns: u32,
    /// When it entered, `bpf_ktime_get_ns`.
    pub entered_ns: u64,
}

crate::assert_layout!(TimeWait, 24, [
    slot: u32, generation: u32, account: u32, netns: u32, entered_ns: u64,
]);

/// Initial states of a timewait socket: TIME_WAIT after the peer's FIN, FIN_WAIT2 before it. The later
/// change of the latter to TIME_WAIT has no event.
pub const TIME_WAIT_SUBSTATES: [u8; 2] = [crate::TIME_WAIT, crate::FIN_WAIT2];

const TIME_WAIT_SUBSTATE_NAMES: [&str; 2] = ["TIME_WAIT", "FIN_WAIT2"];

/// Element of the array of recent TIME_WAIT sockets, at one of the [`places_of`] its key.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TimeWaitOwner {
    /// The socket cookie, which a timewait socket copies from the socket that it replaces
    /// (`inet_twsk_alloc`); another number if the socket has none; 0 while the element is free or being
    /// written.
    pub key: u64,
    /// The owner's slot.
    pub slot: u32,
    /// Generation of the slot at that time.
    pub generation: u32,
    /// Address of its `struct net`.
    pub net: u64,
    /// Its `net_cookie`, which distinguishes it from a later one at the same address.
    pub net_cookie: u64,
    /// When it entered, as [`crate::coarse_time`].
    pub entered: u32,
    /// Local port, host order.
    pub local_port: u16,
    /// Remote port, host order.
    pub remote_port: u16,
    /// Local address as the bytes of a `struct in6_addr`, IPv4 as `::ffff:a.b.c.d`.
    pub local: [u32; 4],
    /// Remote address, likewise.
    pub remote: [u32; 4],
    /// `skc_hash`, under which the timewait socket is found.
    pub hash: u32,
    /// Explicit padding.
    pub reserved: u32,
}

crate::assert_layout!(TimeWaitOwner, 80, [
    key: u64, slot: u32, generation: u32, net: u64, net_cookie: u64, entered: u32, local_port: u16, remote_port: u16,
    local: [u32; 4], remote: [u32; 4], hash: u32, reserved: u32,
]);

/// Indices at which an array of `mask + 1` elements, a power of two up to 65,536, may have the element
/// with this key. With five indices, one insertion in a hundred finds no free element when the array
/// is half full. The first index is next to that of the previous key: each CPU assigns cookies in
/// sequence, so that consecutive elements are in the cache.
#[must_use]
#[inline(always)]
pub const fn places_of(key: u64, mask: u32) -> [u32; 5] {
    // The finalizer of MurmurHash3, whose every bit depends on every bit of the key.
    let hash = (key ^ (key >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    let hash = hash ^ (hash >> 33);
    [
        key as u32 & mask,
        hash as u32 & mask,
        (hash >> 16) as u32 & mask,
        (hash >> 32) as u32 & mask,
        (hash >> 48) as u32 & mask,
    ]
}

/// Duration of TIME_WAIT, `TCP_TIMEWAIT_LEN` (`include/net/tcp.h`).
pub const TIME_WAIT_NS: u64 = 60_000_000_000;

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

/// What [`TimeWaitCounters`] is shown as.
pub const TIME_WAIT_METRICS: &[CounterMetric] = &[
    CounterMetric {
        name: "socket_time_wait_entered_total",
        unit: "sockets",
        labels: &["substate"],
        hooks: "`inet_twsk_alloc`, else inferred",
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
        help: "Sockets closed without TIME_WAIT, because the limit net.ipv4.tcp_max_tw_buckets was reached or memory ran out. Absent if the end of TIME_WAIT is not observed.",
        query: "sum by (comm) (rate(socket_time_wait_overflows_total[5m])) > 0",
        failures_from: Some(0),
        process: None,
        parts: &[Part {
            signal: SIGNAL_TIME_WAIT_END,
            offset: offset_of!(TimeWaitCounters, overflows),
            values: &[],
        }],
    },
];
