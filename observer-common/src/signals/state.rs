//! States of TCP sockets, and errors that end connections.
//!
//! States have the kernel's numbers (`include/net/tcp_states.h`, stable since 2.6).

use core::mem::offset_of;

use crate::{
    BUCKETS, Histogram,
    errno::{ERRNOS, errno_indices, index_in},
    histogram::{MS, S},
    metric::{CounterMetric, HistogramMetric, Part, ProcessMetric, Values},
    signal::SIGNAL_STATE,
};

/// Size of an array by state. States 1 to 11 are in use; 12 (`TCP_NEW_SYN_RECV`) and higher ones are
/// those of request sockets and of `ss`, and never appear in `inet_sock_set_state`.
pub const STATES: usize = 12;

/// `TCP_ESTABLISHED`.
pub const ESTABLISHED: u8 = 1;
/// `TCP_SYN_SENT`.
pub const SYN_SENT: u8 = 2;
/// `TCP_SYN_RECV`.
pub const SYN_RECV: u8 = 3;
/// `TCP_FIN_WAIT1`.
pub const FIN_WAIT1: u8 = 4;
/// `TCP_FIN_WAIT2`.
pub const FIN_WAIT2: u8 = 5;
/// `TCP_TIME_WAIT`: only mini-sockets have this state.
pub const TIME_WAIT: u8 = 6;
/// `TCP_CLOSE`.
pub const CLOSE: u8 = 7;
/// `TCP_CLOSE_WAIT`.
pub const CLOSE_WAIT: u8 = 8;
/// `TCP_LAST_ACK`.
pub const LAST_ACK: u8 = 9;
/// `TCP_LISTEN`.
pub const LISTEN: u8 = 10;
/// `TCP_CLOSING`.
pub const CLOSING: u8 = 11;
/// `TCP_NEW_SYN_RECV`: the state of a request mini-socket.
pub const NEW_SYN_RECV: u8 = 12;

/// Names of the states by number, as in the kernel and RFC 9293. The number 0 is not in use.
pub const STATE_NAMES: [&str; STATES] = [
    "",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
];

/// Name of a state; `None` if the number is not in use.
#[must_use]
pub const fn state_name(state: u8) -> Option<&'static str> {
    match state {
        0 => None,
        state if (state as usize) < STATES => Some(STATE_NAMES[state as usize]),
        _ => None,
    }
}

/// Errno numbers that end established connections: from RSTs (`tcp_reset`), timeouts (`tcp_write_err`,
/// `tcp_keepalive_timer`) and ICMP messages before them (`icmp_err_convert`, `icmpv6_err_convert`),
/// aborts by an administrator (`tcp_abort`), TLS and MPTCP. All other errnos share one index.
pub const CONNECTION_ERRNOS: [u8; CONNECTION_ERRORS - 1] = [
    13,  // EACCES
    32,  // EPIPE
    64,  // ENONET
    71,  // EPROTO
    74,  // EBADMSG
    92,  // ENOPROTOOPT
    95,  // EOPNOTSUPP
    101, // ENETUNREACH
    103, // ECONNABORTED
    104, // ECONNRESET
    105, // ENOBUFS
    110, // ETIMEDOUT
    111, // ECONNREFUSED
    112, // EHOSTDOWN
    113, // EHOSTUNREACH
];

/// Number of counters of such errors: [`CONNECTION_ERRNOS`], then one for all others.
pub const CONNECTION_ERRORS: usize = 16;

/// Index of the errnos that are not in [`CONNECTION_ERRNOS`].
pub const CONNECTION_ERROR_OTHER: usize = CONNECTION_ERRORS - 1;

/// Index of each errno in [`StateCounters::errors`].
pub static CONNECTION_ERROR_INDICES: [u8; ERRNOS] =
    errno_indices(&CONNECTION_ERRNOS, 0, CONNECTION_ERROR_OTHER);

/// Index of an errno in [`StateCounters::errors`].
#[must_use]
pub fn connection_error_index(errno: u32) -> usize {
    index_in(&CONNECTION_ERROR_INDICES, errno, CONNECTION_ERROR_OTHER)
}

/// Upper bounds of `socket_conn_age_seconds`, in nanoseconds.
pub const AGE_BOUNDS: [u64; BUCKETS - 1] = [
    MS,
    10 * MS,
    100 * MS,
    S,
    10 * S,
    60 * S,
    300 * S,
    3_600 * S,
    21_600 * S,
    86_400 * S,
];

/// Upper bounds of `socket_close_wait_seconds`, in nanoseconds. A healthy program leaves
/// CLOSE_WAIT within milliseconds; minutes and hours are the leak.
pub const CLOSE_WAIT_BOUNDS: [u64; BUCKETS - 1] = AGE_BOUNDS;

/// Counters of transitions between states, and of what is derived from them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct StateCounters {
    /// Sockets older than the daemon that were attributed to this process.
    pub seeded: u64,
    /// Transitions, `[from][to]`.
    pub transitions: [[u64; STATES]; STATES],
    /// Difference between the live sockets in a state and "transitions in minus transitions out":
    /// seeded sockets, and those that were handed over in this state.
    pub adjust: [i64; STATES],
    /// Established connections that ended with an error (`sk_err` at the transition to CLOSE), by
    /// [`connection_error_index`].
    pub errors: [u64; CONNECTION_ERRORS],
    /// Time from the first to the last state of connections that were established.
    pub age: Histogram,
    /// Time spent in CLOSE_WAIT.
    pub close_wait: Histogram,
}

crate::assert_layout!(StateCounters, 1576, [
    seeded: u64,
    transitions: [[u64; STATES]; STATES],
    adjust: [i64; STATES],
    errors: [u64; CONNECTION_ERRORS],
    age: Histogram,
    close_wait: Histogram,
]);

/// Metrics of [`StateCounters`].
pub const STATE_METRICS: &[CounterMetric] = &[
    CounterMetric {
        name: "socket_state_transitions_total",
        unit: "transitions",
        labels: &["from", "to"],
        hooks: "`inet_sock_set_state`",
        help: "TCP state transitions.",
        query: "sum by (comm, from, to) (rate(socket_state_transitions_total[5m]))",
        failures_from: None,
        process: None,
        parts: &[Part {
            signal: SIGNAL_STATE,
            offset: offset_of!(StateCounters, transitions),
            values: &[Values::Names(&STATE_NAMES), Values::Names(&STATE_NAMES)],
        }],
    },
    CounterMetric {
        name: "socket_connection_errors_total",
        unit: "connections",
        labels: &["errno"],
        hooks: "`inet_sock_set_state`",
        help: "Established connections that ended with an error: ETIMEDOUT if the peer stopped answering, ECONNRESET or EPIPE if it sent an RST.",
        query: "sum by (comm, unit) (rate(socket_connection_errors_total{errno=\"ETIMEDOUT\"}[5m])) > 0",
        failures_from: Some(0),
        process: Some(ProcessMetric {
            name: "socket_process_connection_errors_total",
            help: "Established connections of the process that ended with an error.",
            query: "topk(5, rate(socket_process_connection_errors_total[5m]))",
        }),
        parts: &[Part {
            signal: SIGNAL_STATE,
            offset: offset_of!(StateCounters, errors),
            values: &[Values::Errnos {
                first: &[],
                errnos: &CONNECTION_ERRNOS,
                last: &["other"],
            }],
        }],
    },
];

/// The histograms of [`StateCounters`].
pub const STATE_HISTOGRAMS: &[HistogramMetric] = &[
    HistogramMetric {
        name: "socket_conn_age_seconds",
        hooks: "`inet_sock_set_state`",
        help: "Age of established connections when they end.",
        query: "histogram_quantile(0.5, sum by (comm, le) (rate(socket_conn_age_seconds_bucket[5m])))",
        signal: SIGNAL_STATE,
        offset: offset_of!(StateCounters, age),
        bounds: &AGE_BOUNDS,
        label: None,
    },
    HistogramMetric {
        name: "socket_close_wait_seconds",
        hooks: "`inet_sock_set_state`",
        help: "Time in CLOSE_WAIT, between the peer's FIN and the local close(). Observed when the socket leaves CLOSE_WAIT.",
        query: "histogram_quantile(0.99, sum by (comm, le) (rate(socket_close_wait_seconds_bucket[5m])))",
        signal: SIGNAL_STATE,
        offset: offset_of!(StateCounters, close_wait),
        bounds: &CLOSE_WAIT_BOUNDS,
        label: None,
    },
];
