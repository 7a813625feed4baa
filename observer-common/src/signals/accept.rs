//! Accepted connections.

use core::mem::offset_of;

use crate::{
    metric::{CounterMetric, Part, ProcessMetric},
    signal::SIGNAL_ACCEPT,
};

/// Counters of incoming connections.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct AcceptCounters {
    /// Connections that accept() returned.
    pub accepted: u64,
}

crate::assert_layout!(AcceptCounters, 8, [
    accepted: u64,
]);

/// Metrics of [`AcceptCounters`].
pub const ACCEPT_METRICS: &[CounterMetric] = &[CounterMetric {
    name: "socket_accepts_total",
    unit: "connections",
    labels: &[],
    hooks: "`inet_csk_accept`, else `sys_exit_accept`, `sys_exit_accept4`",
    help: "Connections that accept() returned.",
    query: "sum by (comm, unit) (rate(socket_accepts_total[5m]))",
    failures_from: None,
    process: Some(ProcessMetric {
        name: "socket_process_accepts_total",
        help: "Connections that accept() returned to the process.",
        query: "rate(socket_process_accepts_total[5m])",
    }),
    parts: &[Part {
        signal: SIGNAL_ACCEPT,
        offset: offset_of!(AcceptCounters, accepted),
        values: &[],
    }],
}];
