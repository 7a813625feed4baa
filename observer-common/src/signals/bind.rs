//! Calls of bind() and listen() on TCP sockets that failed.

use core::mem::offset_of;

use crate::{
    errno::{ERRNOS, errno_indices, index_in},
    metric::{CounterMetric, Part, Values},
    signal::SIGNAL_BIND,
};

/// Index in [`BindCounters::failed`]: bind().
pub const CALL_BIND: usize = 0;

/// listen().
pub const CALL_LISTEN: usize = 1;

/// Label values, in the order of those indices.
pub const BIND_CALLS: [&str; 2] = ["bind", "listen"];

/// Errno numbers that bind() and listen() of a TCP socket fail with: `inet_bind`, `inet6_bind`,
/// `inet_listen`, `mptcp_bind`, `mptcp_listen`, and the security modules and BPF programs that
/// they call. All other errnos share one index.
pub const BIND_ERRNOS: [u8; BIND_ERRORS - 1] = [
    1,   // EPERM
    12,  // ENOMEM
    13,  // EACCES
    14,  // EFAULT
    19,  // ENODEV
    22,  // EINVAL
    95,  // EOPNOTSUPP
    97,  // EAFNOSUPPORT
    98,  // EADDRINUSE
    99,  // EADDRNOTAVAIL
    105, // ENOBUFS
];

/// Number of counters of failed calls: [`BIND_ERRNOS`], then one for all others.
pub const BIND_ERRORS: usize = 12;

/// Index of the errnos that are not in [`BIND_ERRNOS`].
pub const BIND_OTHER: usize = BIND_ERRORS - 1;

/// Index of each errno in an array of [`BindCounters::failed`].
pub static BIND_INDICES: [u8; ERRNOS] = errno_indices(&BIND_ERRNOS, 0, BIND_OTHER);

/// Index in an array of [`BindCounters::failed`].
#[must_use]
pub fn bind_index(errno: u32) -> usize {
    index_in(&BIND_INDICES, errno, BIND_OTHER)
}

/// Counters of bind() and listen().
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BindCounters {
    /// Calls on TCP sockets that failed, by the `CALL_` constants and [`bind_index`].
    pub failed: [[u64; BIND_ERRORS]; BIND_CALLS.len()],
}

crate::assert_layout!(BindCounters, 192, [
    failed: [[u64; BIND_ERRORS]; BIND_CALLS.len()],
]);

/// Metrics of [`BindCounters`].
pub const BIND_METRICS: &[CounterMetric] = &[CounterMetric {
    name: "socket_binds_failed_total",
    unit: "calls",
    labels: &["call", "errno"],
    hooks: "`__sys_bind`, `__sys_listen`, `io_bind`, `io_listen`, else `sys_exit_bind`, `sys_exit_listen`",
    help: "Failed bind() and listen() calls on TCP sockets. EADDRINUSE: another socket uses the port; EACCES: the process may not use the port.",
    query: "sum by (comm, unit, errno) (rate(socket_binds_failed_total[5m])) > 0",
    failures_from: Some(0),
    process: None,
    parts: &[Part {
        signal: SIGNAL_BIND,
        offset: offset_of!(BindCounters, failed),
        values: &[
            Values::Names(&BIND_CALLS),
            Values::Errnos {
                first: &[],
                errnos: &BIND_ERRNOS,
                last: &["other"],
            },
        ],
    }],
}];
