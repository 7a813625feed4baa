//! Calls that failed because file descriptors, or memory for sockets, ran out.

use core::mem::offset_of;

use crate::{
    metric::{CounterMetric, Part, ProcessMetric, Values},
    signal::SIGNAL_FD,
};

/// Exhaustion counters: `EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`.
pub const FD_ERRNOS: [u8; 4] = [24, 23, 105, 12];

/// Counters of descriptors.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FdCounters {
    /// Calls that failed because descriptors, or memory for sockets, ran out, in the order of
    /// [`FD_ERRNOS`].
    pub exhausted: [u64; FD_ERRNOS.len()],
}

crate::assert_layout!(FdCounters, 32, [
    exhausted: [u64; FD_ERRNOS.len()],
]);

/// Metrics of [`FdCounters`].
pub const FD_METRICS: &[CounterMetric] = &[CounterMetric {
    name: "socket_fd_exhausted_total",
    unit: "calls",
    labels: &["errno"],
    hooks: "`alloc_fd`, `sock_alloc_file`, `__sock_create`, else `sys_exit_socket`, `sys_exit_accept`, `sys_exit_accept4`",
    help: "Calls that failed because file descriptors ran out, or memory for sockets. EMFILE: limit of the process, in any call that returns a descriptor (without function hooks: in socket() and accept()); ENFILE: limit of the host, in socket() and accept().",
    query: "sum by (comm, unit, errno) (rate(socket_fd_exhausted_total[5m])) > 0",
    failures_from: Some(0),
    process: Some(ProcessMetric {
        name: "socket_process_fd_exhausted_total",
        help: "Calls of the process that failed because file descriptors ran out, or memory for sockets.",
        query: "rate(socket_process_fd_exhausted_total[5m]) > 0",
    }),
    parts: &[Part {
        signal: SIGNAL_FD,
        offset: offset_of!(FdCounters, exhausted),
        values: &[Values::Errnos {
            first: &[],
            errnos: &FD_ERRNOS,
            last: &[],
        }],
    }],
}];
