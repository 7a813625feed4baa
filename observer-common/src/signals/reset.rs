//! Causes of RSTs, as indices of counters.

use core::mem::offset_of;

use crate::{
    metric::{CounterMetric, Part, ProcessMetric, Values},
    signal::{SIGNAL_RESET_RECEIVED, SIGNAL_RESET_SENT},
};

/// First index of the classes below, which are used for sent RSTs if the kernel gives no reason or
/// only `TCP_STATE`. Lower indices are numbers of the running kernel's `enum sk_rst_reason`, whose
/// names are in its BTF.
pub const RESET_CLASSES_FROM: u32 = 48;
/// Number of counters of sent RSTs.
pub const RESETS_SENT: usize = 64;

/// close() with unread data in the receive queue (`tcp_close`, RFC 2525 section 2.17).
pub const RESET_UNREAD_DATA: u32 = 48;
/// close() with SO_LINGER on and a zero timeout (`tcp_close` through `tcp_disconnect`).
pub const RESET_LINGER_ZERO: u32 = 49;
/// connect(AF_UNSPEC) on a live connection (`tcp_disconnect`).
pub const RESET_DISCONNECT: u32 = 50;
/// A listener was closed with a connection in its accept queue (`inet_csk_listen_stop`).
pub const RESET_UNACCEPTED: u32 = 51;
/// Another process aborted the connection: `ss -K`, `tcp_abort`.
pub const RESET_ABORTED: u32 = 52;
/// An orphan was aborted: negative `TCP_LINGER2`, or limits of memory or orphans.
pub const RESET_ORPHAN: u32 = 53;
/// Data arrived for a connection that this side had closed.
pub const RESET_DATA_AFTER_CLOSE: u32 = 54;
/// A segment arrived for a socket in TIME_WAIT.
pub const RESET_TIME_WAIT: u32 = 55;
/// A SYN or ACK was refused by a listening socket.
pub const RESET_LISTENER: u32 = 56;
/// A segment arrived for an address and port without a socket.
pub const RESET_NO_SOCKET: u32 = 57;
/// A segment was invalid for its connection.
pub const RESET_INVALID_SEGMENT: u32 = 58;
/// Keepalive probes were not answered.
pub const RESET_KEEPALIVE: u32 = 59;
/// None of the other classes.
pub const RESET_OTHER: u32 = 60;
/// close() with unread data in FIN_WAIT1 or FIN_WAIT2: after shutdown(SHUT_WR), and before the answer was read. The
/// kernel's reason is the same as without shutdown().
pub const RESET_UNREAD_AFTER_SHUTDOWN: u32 = 61;

/// Number of counters of received RSTs, by the state of the connection.
pub const RESETS_RECEIVED: usize = crate::STATES;

/// Label value of a class, for an index from [`RESET_CLASSES_FROM`] on. If the kernel (6.12 and later)
/// has a reason with the same meaning, the class has its name, so that the same query works on every
/// kernel.
#[must_use]
pub const fn reset_class_name(class: u32) -> Option<&'static str> {
    Some(match class {
        RESET_UNREAD_DATA => "TCP_ABORT_ON_CLOSE",
        RESET_LINGER_ZERO => "LINGER_ZERO",
        RESET_DISCONNECT => "DISCONNECT",
        RESET_UNACCEPTED => "UNACCEPTED_CHILD",
        RESET_ABORTED => "ABORTED_BY_ADMIN",
        RESET_ORPHAN => "TCP_ABORT_ON_LINGER",
        RESET_DATA_AFTER_CLOSE => "TCP_ABORT_ON_DATA",
        RESET_TIME_WAIT => "TCP_TIMEWAIT_SOCKET",
        RESET_LISTENER => "REFUSED_BY_LISTENER",
        RESET_NO_SOCKET => "NO_SOCKET",
        RESET_INVALID_SEGMENT => "INVALID_SEGMENT",
        RESET_KEEPALIVE => "TCP_KEEPALIVE_TIMEOUT",
        RESET_OTHER => "OTHER",
        RESET_UNREAD_AFTER_SHUTDOWN => "UNREAD_AFTER_SHUTDOWN",
        _ => return None,
    })
}

/// Label values of received RSTs, by the state of the connection. None arrives in state 0, which is
/// not in use, or for a TIME_WAIT socket, which is not a full one.
pub const RESET_RECEIVED_NAMES: [&str; RESETS_RECEIVED] = [
    "",
    "IN_ESTABLISHED",
    "REFUSED",
    "IN_SYN_RECV",
    "IN_FIN_WAIT1",
    "IN_FIN_WAIT2",
    "IN_TIME_WAIT",
    "IN_CLOSE",
    "IN_CLOSE_WAIT",
    "IN_LAST_ACK",
    "IN_LISTEN",
    "IN_CLOSING",
];

/// Label value of a received RST; `None` if the state is not in use.
#[must_use]
pub const fn reset_received_name(state: u8) -> Option<&'static str> {
    match state {
        0 => None,
        state if (state as usize) < RESETS_RECEIVED => Some(RESET_RECEIVED_NAMES[state as usize]),
        _ => None,
    }
}

/// Time after which a pending received RST is counted as the peer's, in nanoseconds. If it was this
/// side's own abort, an RST is sent within the same call of `tcp_v4_do_rcv`. This usually takes
/// microseconds, but a hypervisor or a real-time kernel may interrupt it.
pub const PENDING_NS: u64 = 100_000_000;

/// Counters of RSTs.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ResetCounters {
    /// RSTs sent; see [`RESET_CLASSES_FROM`].
    pub sent: [u64; RESETS_SENT],
    /// RSTs received, by the state of the connection.
    pub received: [u64; RESETS_RECEIVED],
}

crate::assert_layout!(ResetCounters, 8 * (RESETS_SENT + RESETS_RECEIVED), [
    sent: [u64; RESETS_SENT],
    received: [u64; RESETS_RECEIVED],
]);

/// Metrics of [`ResetCounters`].
pub const RESET_METRICS: &[CounterMetric] = &[CounterMetric {
    name: "socket_resets_total",
    unit: "segments",
    labels: &["direction", "reason"],
    hooks: "`tcp_send_reset`, `tcp_receive_reset`",
    help: "RST segments by direction and reason. The reason of a received RST is the state of the connection when it arrived.",
    query: "topk(5, sum by (comm, unit, direction, reason) (rate(socket_resets_total[5m])))",
    failures_from: Some(0),
    process: Some(ProcessMetric {
        name: "socket_process_resets_total",
        help: "RST segments of the process's sockets by direction and reason.",
        query: "topk(5, sum by (pid, comm, direction) (rate(socket_process_resets_total[5m])))",
    }),
    parts: &[
        Part {
            signal: SIGNAL_RESET_SENT,
            offset: offset_of!(ResetCounters, sent),
            values: &[Values::Names(&["sent"]), Values::ResetReasons(RESETS_SENT)],
        },
        Part {
            signal: SIGNAL_RESET_RECEIVED,
            offset: offset_of!(ResetCounters, received),
            values: &[
                Values::Names(&["received"]),
                Values::Names(&RESET_RECEIVED_NAMES),
            ],
        },
    ],
}];

/// Time over which the segments of a source are counted, in nanoseconds. Then a new count begins.
pub const SOURCE_WINDOW_NS: u64 = 60_000_000_000;

/// Source of segments for closed ports: key of the map of sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SourceKey {
    /// Source address as the bytes of a `struct in6_addr`, IPv4 as `::ffff:a.b.c.d`.
    pub address: [u32; 4],
    /// Inode number of the network namespace in which they arrived; 0 if unknown.
    pub netns: u32,
}

crate::assert_layout!(SourceKey, 20, [address: [u32; 4], netns: u32]);

/// Segments for closed ports from one source, within [`SOURCE_WINDOW_NS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SourceSegments {
    /// When the first one arrived, `bpf_ktime_get_ns`.
    pub began_ns: u64,
    /// When the last one arrived.
    pub last_ns: u64,
    /// Number of them.
    pub segments: u64,
    /// The ports by their lowest 8 bits: bit `n % 64` of word `n / 64` is port `n`.
    pub ports: [u64; 4],
}

crate::assert_layout!(SourceSegments, 56, [
    began_ns: u64, last_ns: u64, segments: u64, ports: [u64; 4],
]);

/// Output of the iterator over sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SourceSample {
    /// Its segments.
    pub segments: SourceSegments,
    /// The source.
    pub key: SourceKey,
    /// 0.
    pub padding: u32,
}

crate::assert_layout!(SourceSample, 80, [
    segments: SourceSegments, key: SourceKey, padding: u32,
]);
