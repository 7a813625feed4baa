//! Local ports in use.

use core::mem::offset_of;

use crate::{
    metric::{CounterMetric, Part, ProcessMetric, Values},
    signal::SIGNAL_PORTS,
};

/// The port is in use for every destination: of a listener, or chosen by bind().
pub const PORT_BOUND: u16 = 1 << 0;
/// The socket has no destination: it listens, or was closed and keeps its port.
pub const PORT_UNCONNECTED: u16 = 1 << 1;
/// In TIME_WAIT, of a connection with timestamps (`tw_ts_recent_stamp` is not 0).
pub const PORT_TIMESTAMPS: u16 = 1 << 2;
/// A timewait socket that waits for the peer's FIN (`tw_substate` is FIN_WAIT2).
pub const PORT_FIN_WAIT2: u16 = 1 << 3;
/// In TIME_WAIT, bound to the loopback device.
pub const PORT_LOOPBACK_DEVICE: u16 = 1 << 4;
/// The child of a listener, which has no port of its own.
pub const SEEN_PASSIVE: u16 = 1 << 5;
/// In CLOSE_WAIT or FIN_WAIT2, and a descriptor refers to it: `sk_socket`, which `sock_graft` sets in
/// accept() and `sock_orphan` clears in close().
pub const SEEN_DESCRIPTOR: u16 = 1 << 6;
/// In ESTABLISHED, with neither SO_KEEPALIVE nor TCP_USER_TIMEOUT: a peer that vanishes is not noticed.
pub const SEEN_UNGUARDED: u16 = 1 << 7;
/// Waits for the peer ([`crate::WAIT_PEER`]), and the last data was sent a tenth of a second or
/// more after the last data was received, so it is no immediate reaction, such as a frame of HTTP/2
/// or an acknowledgement of the program. Or waits for the program ([`crate::WAIT_PROGRAM`],
/// [`crate::WAIT_PROGRAM_READ`], [`crate::WAIT_PROGRAM_EOF`]), a server that was sent something and has sent nothing at all.
pub const SEEN_ASKED: u16 = 1 << 8;
/// Has more unread data than a TLS session ticket or close_notify.
pub const SEEN_MUCH_UNREAD: u16 = 1 << 9;
/// Has unread data, and the program has read some before.
pub const SEEN_PARTLY_READ: u16 = 1 << 10;
/// Minimum of unread bytes for [`SEEN_MUCH_UNREAD`].
pub const MUCH_UNREAD: u32 = 4096;

/// Output of the iterators for each connection and each socket in TIME_WAIT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SocketSeen {
    /// The owner's slot.
    pub slot: u32,
    /// Of the slot, at that time.
    pub generation: u32,
    /// Inode number of the network namespace; 0 if the kernel has none.
    pub netns: u32,
    /// `PORT_` and `SEEN_` flags.
    pub flags: u16,
    /// State; [`crate::TIME_WAIT`] for a timewait socket. 0 in an empty record.
    pub state: u8,
    /// What it waits for in ESTABLISHED and CLOSE_WAIT, a `WAIT_` number.
    pub waits_for: u8,
    /// Time in that state, in units of [`crate::coarse_time`].
    pub age: u32,
    /// Milliseconds, 0 if unknown. In ESTABLISHED since data was sent or received; in TIME_WAIT since the
    /// timestamp that `tcp_tw_reuse_delay` is compared with.
    pub idle_ms: u32,
    /// For how long it waits at least, milliseconds.
    pub waited_ms: u32,
    /// Since the first event of a connection, in units of [`crate::coarse_time`].
    pub alive: u32,
    /// Local port, host order; 0 if it is not known. The child of a listener ([`SEEN_PASSIVE`]) has its
    /// listener's, if it has waited for a second.
    pub local_port: u16,
    /// Remote port, host order.
    pub remote_port: u16,
    /// Local address as the bytes of a `struct in6_addr`, IPv4 as `::ffff:a.b.c.d`.
    pub local: [u32; 4],
    /// Remote address, in the same format.
    pub remote: [u32; 4],
}

crate::assert_layout!(SocketSeen, 68, [
    slot: u32, generation: u32, netns: u32, flags: u16, state: u8, waits_for: u8,
    age: u32, idle_ms: u32, waited_ms: u32, alive: u32,
    local_port: u16, remote_port: u16,
    local: [u32; 4], remote: [u32; 4],
]);

/// Numbers of the iterators that keep a [`Walk`].
pub const WALK_CONNECTIONS: u32 = 0;
/// See [`WALK_CONNECTIONS`].
pub const WALK_TIME_WAITS: u32 = 1;

/// What an iterator over sockets keeps between them. Only one instance of each runs at a time.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Walk {
    /// The time of the last socket.
    pub jiffies: u64,
    /// CONFIG_HZ; 0 if it is not known.
    pub rate: u64,
    /// The `struct net` of the last socket.
    pub net: u64,
    /// Its inode number.
    pub netns: u32,
    /// 1 if it is recorded for the iterator over network namespaces.
    pub noted: u32,
    /// Fields of the socket, at the offsets that they have in it. A `struct tcp_sock` has 2304 bytes in Linux 6.18; the
    /// verifier refuses the iterator on a kernel that has one of the fields after these bytes.
    pub fields: [u64; 512],
}

crate::assert_layout!(Walk, 32 + 4096, [
    jiffies: u64, rate: u64, net: u64, netns: u32, noted: u32, fields: [u64; 512],
]);

/// Words of a bitmap with one bit for each port.
pub const PORT_WORDS: usize = 65_536 / 64;

/// Maximum number of bytes of a `struct net` that are copied for its sysctls.
pub const NET_SETTINGS: usize = 2048;

/// Output of the iterator over network namespaces: the ports that the kernel may choose
/// (`struct netns_ipv4`, for IPv6 as well).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PortSpace {
    /// When an iterator last visited one of its sockets, `bpf_ktime_get_ns`.
    pub seen_ns: u64,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// First port of `ip_local_port_range`.
    pub low: u16,
    /// Last port of it.
    pub high: u16,
    /// `tcp_tw_reuse`: [`TW_REUSE_ALWAYS`], [`TW_REUSE_LOOPBACK`], else never.
    pub tw_reuse: u32,
    /// `tcp_tw_reuse_delay`, milliseconds.
    pub tw_reuse_delay_ms: u32,
    /// Bytes in `settings`; 0 if they could not be read.
    pub settings_length: u32,
    /// 0.
    pub padding: u32,
    /// The bytes of `struct net` that contain the sysctls.
    pub settings: [u8; NET_SETTINGS],
    /// `ip_local_reserved_ports`: bit `n % 64` of word `n / 64` is port `n`.
    pub reserved: [u64; PORT_WORDS],
}

impl PortSpace {
    /// All zero.
    #[must_use]
    pub const fn zeroed() -> Self {
        Self {
            seen_ns: 0,
            netns: 0,
            low: 0,
            high: 0,
            tw_reuse: 0,
            tw_reuse_delay_ms: 0,
            settings_length: 0,
            padding: 0,
            settings: [0; NET_SETTINGS],
            reserved: [0; PORT_WORDS],
        }
    }
}

crate::assert_layout!(PortSpace, 32 + NET_SETTINGS + 8 * PORT_WORDS, [
    seen_ns: u64, netns: u32, low: u16, high: u16, tw_reuse: u32, tw_reuse_delay_ms: u32,
    settings_length: u32, padding: u32, settings: [u8; NET_SETTINGS],
    reserved: [u64; PORT_WORDS],
]);

/// `tcp_tw_reuse`: connect() may reuse any port in TIME_WAIT.
pub const TW_REUSE_ALWAYS: u32 = 1;
/// `tcp_tw_reuse`: on loopback only, the default since 4.19.
pub const TW_REUSE_LOOPBACK: u32 = 2;

/// Minimum time in TIME_WAIT before a port is reused, in milliseconds: the default of
/// `tcp_tw_reuse_delay`, and fixed before 6.14.
pub const TW_REUSE_DELAY_MS: u32 = 1000;

/// Value of the map of network namespaces; the key is the inode number.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct NetSeen {
    /// Address of the `struct net`.
    pub net: u64,
    /// When an iterator last visited one of its sockets.
    pub seen_ns: u64,
}

crate::assert_layout!(NetSeen, 16, [net: u64, seen_ns: u64]);

/// Index in [`PortCounters::exhausted`]: connect() of a socket without a local port.
pub const PORT_SEARCH_CONNECT: usize = 0;
/// bind() to port 0, or listen() on a socket that is not bound.
pub const PORT_SEARCH_BIND: usize = 1;
/// Label values, in the order of those indices.
pub const PORT_SEARCHES: [&str; 2] = ["connect", "bind"];

/// Counters of local ports.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PortCounters {
    /// Failed searches for a local port, in the order of [`PORT_SEARCHES`].
    pub exhausted: [u64; PORT_SEARCHES.len()],
}

crate::assert_layout!(PortCounters, 16, [
    exhausted: [u64; PORT_SEARCHES.len()],
]);

/// Metrics of [`PortCounters`].
pub const PORT_METRICS: &[CounterMetric] = &[CounterMetric {
    name: "socket_ephemeral_ports_exhausted_total",
    unit: "searches",
    labels: &["call"],
    hooks: "`__inet_hash_connect`, `inet_csk_get_port`, else `sys_exit_connect`, `sys_exit_bind`, `sys_exit_listen`",
    help: "Searches for a free local port that found none, by call (connect, bind). Does not count conflicts over an explicit port or addresses that are not local.",
    query: "sum by (comm, unit, call) (rate(socket_ephemeral_ports_exhausted_total[5m])) > 0",
    failures_from: Some(0),
    process: Some(ProcessMetric {
        name: "socket_process_ephemeral_ports_exhausted_total",
        help: "Searches of the process for a free local port that found none, by call (connect, bind).",
        query: "rate(socket_process_ephemeral_ports_exhausted_total[5m]) > 0",
    }),
    parts: &[Part {
        signal: SIGNAL_PORTS,
        offset: offset_of!(PortCounters, exhausted),
        values: &[Values::Names(&PORT_SEARCHES)],
    }],
}];
