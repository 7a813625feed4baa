//! Outcomes of the events of signals, and statistics by CPU.

use crate::signal::SIGNALS;

/// Outcomes of the events of one signal, on one CPU. `seen` is counted when a hook fires, and exactly
/// one of the others when the outcome is known, so `seen == counted + unattributed + lost` holds only
/// if no code path omits one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Outcomes {
    /// Events of this signal.
    pub seen: u64,
    /// Counted for a process.
    pub counted: u64,
    /// Counted without a process, because the owner is not known.
    pub unattributed: u64,
    /// Not counted for their process, because a map was full.
    pub lost: u64,
}

crate::assert_layout!(Outcomes, 32, [seen: u64, counted: u64, unattributed: u64, lost: u64]);

/// Entries of sockets. The first of the maps that can fill up.
pub const MAP_CONNECTIONS: u32 = 0;
/// The table of processes and their slots.
pub const MAP_PROCESSES: u32 = 1;
/// Counters of failed setsockopt calls.
pub const MAP_SOCKOPT: u32 = 2;
/// Sockets in TIME_WAIT.
pub const MAP_TIME_WAITS: u32 = 3;
/// Numbers of sockets in TIME_WAIT, by process.
pub const MAP_TIME_WAIT_COUNTS: u32 = 4;
/// Network namespaces.
pub const MAP_NETNS: u32 = 5;
/// Listening sockets.
pub const MAP_LISTENERS: u32 = 6;
/// TLS handshakes in progress.
pub const MAP_TLS: u32 = 7;
/// UDP sockets with drops.
pub const MAP_UDP_SOCKETS: u32 = 8;
/// How many maps can fill up.
pub const FULL_MAPS: usize = 9;
/// Label values, in the order of the `MAP_` numbers.
pub const FULL_MAP_NAMES: [&str; FULL_MAPS] = [
    "connections",
    "processes",
    "setsockopt_failures",
    "time_waits",
    "time_wait_counts",
    "netns",
    "listeners",
    "tls_handshakes",
    "udp_sockets",
];

/// Statistics of the programs, by CPU.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CpuStats {
    /// By signal.
    pub outcomes: [Outcomes; SIGNALS],
    /// Insertions refused, by map: it was full, or one process had its share of it.
    pub map_full: [u64; FULL_MAPS],
    /// Entries inserted into the map of connections.
    pub connections_added: u64,
    /// Entries removed from it.
    pub connections_removed: u64,
    /// Kinds of record to write, one bit per `RECORD_` number; written by the daemon.
    pub record_mask: u64,
    /// Records written to the ring, by record kind.
    pub records: [u64; crate::RECORD_KINDS],
    /// Records lost because the ring was full, by record kind.
    pub records_lost: [u64; crate::RECORD_KINDS],
    /// Address of the socket that was destroyed last on this CPU. `tcp_v4_send_reset` answers late
    /// data for a socket after `tcp_destroy_sock` has run for it.
    pub destroyed_sk: u64,
    /// Address of the socket of a pending received RST, or 0. Such an RST is not counted yet, because
    /// it may be this side's own abort on data that arrived after close(). [`PENDING_COMMITS`] while it is counted.
    pub pending_sk: u64,
    /// When it was received, `bpf_ktime_get_ns`.
    pub pending_ns: u64,
    /// Slot of the owner of `destroyed_sk`.
    pub destroyed_slot: u32,
    /// Slot of the owner of `pending_sk`.
    pub pending_slot: u32,
    /// State of `pending_sk` then.
    pub pending_state: u32,
    /// Generation of `destroyed_slot` then.
    pub destroyed_generation: u32,
    /// Generation of `pending_slot` then.
    pub pending_generation: u32,
    /// Old and new state of the last handled transition; the rest is zero.
    pub last_states: [u8; 4],
    /// 1 while the map of connections refuses entries because it is full, else 0.
    pub connections_full: u32,
    /// Zero.
    pub reserved: u32,
    /// Address of its socket.
    pub last_sk: u64,
    /// Zero: CPUs would otherwise share cache lines.
    pub padding: [u64; CPU_STATS_PADDING],
}

/// No address of a socket.
pub const PENDING_COMMITS: u64 = 1;

/// Of 64 bytes, the cache lines of x86-64 and of most of arm64.
const CPU_STATS_PADDING: usize = {
    let used = size_of::<Outcomes>() * SIGNALS + 8 * FULL_MAPS + 16 * crate::RECORD_KINDS + 88;
    (used.next_multiple_of(64) - used) / 8
};

crate::assert_layout!(CpuStats, 32 * SIGNALS + 8 * FULL_MAPS + 16 * crate::RECORD_KINDS + 88 + 8 * CPU_STATS_PADDING, [
    outcomes: [Outcomes; SIGNALS],
    map_full: [u64; FULL_MAPS],
    connections_added: u64,
    connections_removed: u64,
    record_mask: u64,
    records: [u64; crate::RECORD_KINDS],
    records_lost: [u64; crate::RECORD_KINDS],
    destroyed_sk: u64,
    pending_sk: u64,
    pending_ns: u64,
    destroyed_slot: u32,
    pending_slot: u32,
    pending_state: u32,
    destroyed_generation: u32,
    pending_generation: u32,
    last_states: [u8; 4],
    connections_full: u32,
    reserved: u32,
    last_sk: u64,
    padding: [u64; CPU_STATS_PADDING],
]);
