//! Retransmitted segments.

use core::mem::offset_of;

use crate::{
    metric::{CounterMetric, Part, ProcessMetric},
    signal::SIGNAL_RETRANSMIT,
};

/// Counters of retransmissions.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RetransmitCounters {
    /// Retransmitted segments.
    pub segments: u64,
}

crate::assert_layout!(RetransmitCounters, 8, [
    segments: u64,
]);

/// Metrics of [`RetransmitCounters`].
pub const RETRANSMIT_METRICS: &[CounterMetric] = &[CounterMetric {
    name: "socket_retransmits_total",
    unit: "segments",
    labels: &[],
    hooks: "`tcp_retransmit_skb`, `inet_sock_set_state`",
    help: "Retransmitted TCP segments, including SYNs and tail loss probes, excluding SYN-ACKs and zero window probes.",
    query: "topk(5, sum by (comm, unit) (rate(socket_retransmits_total[5m])))",
    failures_from: None,
    process: Some(ProcessMetric {
        name: "socket_process_retransmits_total",
        help: "Retransmitted TCP segments of the process.",
        query: "topk(5, rate(socket_process_retransmits_total[5m]))",
    }),
    parts: &[Part {
        signal: SIGNAL_RETRANSMIT,
        offset: offset_of!(RetransmitCounters, segments),
        values: &[],
    }],
}];
