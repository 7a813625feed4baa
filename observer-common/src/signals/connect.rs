//! Outcomes of connection attempts.

use core::mem::offset_of;

use crate::{
    BUCKETS, Histogram,
    errno::{ERRNOS, errno_indices, index_in},
    histogram::{MS, S, US},
    metric::{CounterMetric, HistogramMetric, Part, ProcessMetric, Values},
    signal::SIGNAL_CONNECT,
};

/// Errno numbers of failed connection attempts: from `tcp_v4_connect` and `tcp_v6_connect`, from ICMP
/// messages (`icmp_err_convert`, `icmpv6_err_convert`), from refusals by security modules, netfilter
/// and BPF programs, and from transforms (`xfrm_lookup`), TLS and the MPTCP of newer kernels. All other
/// errnos share one index.
pub const CONNECT_ERRNOS: [u8; CONNECT_GAVE_UP - 1] = [
    1,   // EPERM
    2,   // ENOENT
    5,   // EIO
    12,  // ENOMEM
    13,  // EACCES
    14,  // EFAULT
    16,  // EBUSY
    19,  // ENODEV
    22,  // EINVAL
    24,  // EMFILE
    32,  // EPIPE
    61,  // ENODATA
    64,  // ENONET
    71,  // EPROTO
    90,  // EMSGSIZE
    92,  // ENOPROTOOPT
    93,  // EPROTONOSUPPORT
    95,  // EOPNOTSUPP
    97,  // EAFNOSUPPORT
    98,  // EADDRINUSE
    99,  // EADDRNOTAVAIL
    100, // ENETDOWN
    101, // ENETUNREACH
    102, // ENETRESET
    103, // ECONNABORTED
    104, // ECONNRESET
    105, // ENOBUFS
    107, // ENOTCONN
    110, // ETIMEDOUT
    111, // ECONNREFUSED
    112, // EHOSTDOWN
    113, // EHOSTUNREACH
    116, // ESTALE
    121, // EREMOTEIO
    122, // EDQUOT
    125, // ECANCELED
    126, // ENOKEY
    129, // EKEYREJECTED
];

/// Number of counters of connect outcomes: success at index 0, [`CONNECT_ERRNOS`],
/// [`CONNECT_GAVE_UP`], and one for all others.
pub const CONNECT_RESULTS: usize = 41;

/// Index of attempts that the program ended without an errno after a SYN was retransmitted: its own
/// timeout, shorter than the kernel's. Without a retransmitted SYN, they are counted as ECANCELED.
pub const CONNECT_GAVE_UP: usize = CONNECT_RESULTS - 2;

/// Index of the errnos that are not in [`CONNECT_ERRNOS`].
pub const CONNECT_OTHER: usize = CONNECT_RESULTS - 1;

/// Index of each errno in [`ConnectCounters::results`].
pub static CONNECT_INDICES: [u8; ERRNOS] = {
    let mut indices = errno_indices(&CONNECT_ERRNOS, 1, CONNECT_OTHER);
    indices[0] = 0;
    indices
};

/// Index of a connect outcome in [`ConnectCounters::results`].
#[must_use]
pub fn connect_index(errno: u32) -> usize {
    index_in(&CONNECT_INDICES, errno, CONNECT_OTHER)
}

/// Upper bounds, inclusive, of `socket_connect_seconds`, in nanoseconds. A loopback
/// handshake takes tens of microseconds; a lost SYN shows at 1 second and what follows from
/// `tcp_syn_linear_timeouts` and `TCP_TIMEOUT_INIT`, so there are bounds on either side of that.
pub const CONNECT_BOUNDS: [u64; BUCKETS - 1] = [
    100 * US,
    500 * US,
    2_500 * US,
    10 * MS,
    50 * MS,
    250 * MS,
    900 * MS,
    2 * S,
    5 * S,
    20 * S,
];

/// Counters of outgoing connections.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ConnectCounters {
    /// Outcomes of connection attempts, by [`connect_index`].
    pub results: [u64; CONNECT_RESULTS],
    /// Time from SYN to ESTABLISHED.
    pub seconds: Histogram,
}

crate::assert_layout!(ConnectCounters, 424, [
    results: [u64; CONNECT_RESULTS],
    seconds: Histogram,
]);

/// Metrics of [`ConnectCounters`].
pub const CONNECT_METRICS: &[CounterMetric] = &[CounterMetric {
    name: "socket_connects_total",
    unit: "attempts",
    labels: &["result"],
    hooks: "`inet_sock_set_state`, `__sys_connect`, `io_connect`, else `sys_exit_connect`",
    help: "Finished connection attempts by result: ok, the errno of connect(), or gave_up if the program closed the socket after the SYN had been retransmitted.",
    query: "sum by (comm, unit) (rate(socket_connects_total{result!=\"ok\"}[5m])) / sum by (comm, unit) (rate(socket_connects_total[5m]))",
    // After the successes.
    failures_from: Some(1),
    process: Some(ProcessMetric {
        name: "socket_process_connects_total",
        help: "Finished connection attempts of the process by result.",
        query: "topk(5, rate(socket_process_connects_total{result!=\"ok\"}[5m]))",
    }),
    parts: &[Part {
        signal: SIGNAL_CONNECT,
        offset: offset_of!(ConnectCounters, results),
        values: &[Values::Errnos {
            first: &["ok"],
            errnos: &CONNECT_ERRNOS,
            last: &["gave_up", "other"],
        }],
    }],
}];

/// The histograms of [`ConnectCounters`].
pub const CONNECT_HISTOGRAMS: &[HistogramMetric] = &[HistogramMetric {
    name: "socket_connect_seconds",
    hooks: "`inet_sock_set_state`",
    help: "Time from SYN to ESTABLISHED of outgoing connections. Values near 1, 3 and 7 seconds come from lost SYNs.",
    query: "histogram_quantile(0.99, sum by (comm, le) (rate(socket_connect_seconds_bucket[5m])))",
    signal: SIGNAL_CONNECT,
    offset: offset_of!(ConnectCounters, seconds),
    bounds: &CONNECT_BOUNDS,
    label: None,
}];
