//! The signals that are counted, and what became of each event.

/// State transitions of TCP sockets.
pub const SIGNAL_STATE: u32 = 0;
/// Outcomes of connection attempts.
pub const SIGNAL_CONNECT: u32 = 1;
/// Accepted connections.
pub const SIGNAL_ACCEPT: u32 = 2;
/// RST segments sent.
pub const SIGNAL_RESET_SENT: u32 = 3;
/// RST segments received.
pub const SIGNAL_RESET_RECEIVED: u32 = 4;
/// Sockets that entered TIME_WAIT.
pub const SIGNAL_TIME_WAIT: u32 = 5;
/// Failed setsockopt calls.
pub const SIGNAL_SETSOCKOPT: u32 = 6;
/// Descriptor exhaustion in socket and accept.
pub const SIGNAL_FD: u32 = 7;
/// Retransmitted segments.
pub const SIGNAL_RETRANSMIT: u32 = 8;
/// Sockets that left TIME_WAIT.
pub const SIGNAL_TIME_WAIT_END: u32 = 9;
/// TCP sockets that a process received from another one (SCM_RIGHTS, pidfd_getfd).
pub const SIGNAL_RECEIVED: u32 = 10;
/// Searches for a local port that found none.
pub const SIGNAL_PORTS: u32 = 11;
/// Connection requests that found an accept queue full.
pub const SIGNAL_LISTEN_OVERFLOW: u32 = 12;
/// Calls of bind() and listen() on TCP sockets that failed.
pub const SIGNAL_BIND: u32 = 13;
/// How many signals there are.
pub const SIGNALS: usize = 14;

/// Label values, in the order of the `SIGNAL_` numbers.
pub const SIGNAL_NAMES: [&str; SIGNALS] = [
    "state",
    "connect",
    "accept",
    "reset_sent",
    "reset_received",
    "time_wait",
    "setsockopt",
    "fd",
    "retransmit",
    "time_wait_end",
    "fd_received",
    "port_exhausted",
    "listen_overflow",
    "bind",
];

/// What became of the events of one signal, on one CPU. `seen` is counted on entry and
/// the other three at the one place each where an event's fate is decided, so
/// `seen == counted + unattributed + lost` holds only if no path forgets one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Outcomes {
    /// Events of this signal that the kernel showed us.
    pub seen: u64,
    /// Counted for a process.
    pub counted: u64,
    /// Counted, but for no process: the owner is not known.
    pub unattributed: u64,
    /// Not counted per process because a map was full.
    pub lost: u64,
}

crate::assert_layout!(Outcomes, 32, [seen: u64, counted: u64, unattributed: u64, lost: u64]);

/// Maps that can fill up.
pub const MAP_CONNECTIONS: u32 = 0;
/// The table of processes and their slots.
pub const MAP_PROCESSES: u32 = 1;
/// Counters of failed setsockopt calls.
pub const MAP_SOCKOPT: u32 = 2;
/// Sockets in TIME_WAIT.
pub const MAP_TIME_WAITS: u32 = 3;
/// Counters of TIME_WAIT, one per process.
pub const MAP_ACCOUNTS: u32 = 4;
/// Network namespaces.
pub const MAP_NETNS: u32 = 5;
/// Listening sockets.
pub const MAP_LISTENERS: u32 = 6;
/// How many maps can fill up.
pub const FULL_MAPS: usize = 7;
/// Label values, in the order of the `MAP_` numbers.
pub const FULL_MAP_NAMES: [&str; FULL_MAPS] = [
    "connections",
    "processes",
    "setsockopt_failures",
    "time_waits",
    "time_wait_accounts",
    "netns",
    "listeners",
];

/// Per-CPU statistics of the kernel side.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CpuStats {
    /// By signal.
    pub outcomes: [Outcomes; SIGNALS],
    /// Insertions refused, by map.
    pub map_full: [u64; FULL_MAPS],
    /// Entries made in the map of connections.
    pub connections_added: u64,
    /// Entries dropped from it.
    pub connections_removed: u64,
    /// Kinds of record that are read, one bit per `RECORD_` number; written by the daemon.
    pub record_mask: u64,
    /// Records written to the ring, by record kind.
    pub records: [u64; crate::RECORD_KINDS],
    /// Records lost because the ring was full, by record kind.
    pub records_lost: [u64; crate::RECORD_KINDS],
    /// The socket destroyed last on this CPU, by address: `tcp_v4_send_reset` answers
    /// late data of a socket after `tcp_destroy_sock` already ran for it.
    pub destroyed_sk: u64,
    /// A received RST not yet counted, because it may be our own abort on data that
    /// arrived after close: the socket's address, or 0.
    pub pending_sk: u64,
    /// When it was seen, `bpf_ktime_get_ns`.
    pub pending_ns: u64,
    /// The slot of `destroyed_sk`'s owner.
    pub destroyed_slot: u32,
    /// The slot of `pending_sk`'s owner.
    pub pending_slot: u32,
    /// The state `pending_sk` was in.
    pub pending_state: u32,
    /// Generation of `destroyed_slot` then.
    pub destroyed_generation: u32,
    /// Generation of `pending_slot` then.
    pub pending_generation: u32,
    /// That transition: from and to; the rest is zero.
    pub last_states: [u8; 4],
    /// The socket whose transition was handled last on this CPU.
    pub last_sk: u64,
    /// Sockets without a cookie that this CPU has noted down in TIME_WAIT.
    pub rested: u64,
    /// Entries into TIME_WAIT in other network namespaces than the daemon's.
    pub time_wait_elsewhere: u64,
}

crate::assert_layout!(CpuStats, 32 * SIGNALS + 8 * FULL_MAPS + 16 * crate::RECORD_KINDS + 96, [
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
    last_sk: u64,
    rested: u64,
    time_wait_elsewhere: u64,
]);
