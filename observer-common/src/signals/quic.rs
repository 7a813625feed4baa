//! Early data (0-RTT) and stream resets of programs that use quic-go.

use core::mem::offset_of;

use crate::{
    metric::{CounterMetric, Part, Values},
    signal::SIGNAL_QUIC,
};

/// What a probe is on, as the cookie of its link. Of a connection, `*connection` or `*Conn`, the receiver is in the first
/// register: `restoreTransportParameters`, which a client calls before it sends early data.
pub const QUIC_ATTEMPTED: u32 = 0;
/// `dropEncryptionLevel`; with the level [`QUIC_LEVEL_0RTT`] in the second register, the server has rejected it.
pub const QUIC_LEVEL_DROPPED: u32 = 1;
/// `handleHandshakeComplete`.
pub const QUIC_COMPLETE: u32 = 2;
/// `NextConnection`: the program goes on after a rejection, or wants to when the handshake is complete.
pub const QUIC_NEXT: u32 = 3;
/// `handleCloseError`: the connection ends.
pub const QUIC_CLOSED: u32 = 4;
/// `CancelRead` or `CancelWrite` of a stream.
pub const QUIC_CANCEL: u32 = 5;
/// What `CancelWrite` calls, and STOP_SENDING of the peer, too: that has `remote`, one byte in the third register.
pub const QUIC_CANCEL_BY: u32 = 6;
/// From here on: a frame, [`QUIC_FRAMES`] that are sent, then those that are received.
pub const QUIC_FRAME: u32 = 7;

/// `protocol.Encryption0RTT` (internal/protocol/encryption_level.go, from 0.29 to 0.64).
pub const QUIC_LEVEL_0RTT: u8 = 3;

/// The server accepted the early data.
pub const QUIC_ACCEPTED: usize = 0;
/// It did not.
pub const QUIC_REJECTED: usize = 1;
/// The connection ended before that was known.
pub const QUIC_FAILED: usize = 2;
/// Label values, in the order of those numbers.
pub const QUIC_RESULTS: [&str; 3] = ["accepted", "rejected", "failed"];

/// After a rejection the program went on.
pub const QUIC_RESUMED: usize = 0;
/// It went on after it had cancelled streams.
pub const QUIC_CANCELLED: usize = 1;
/// The connection ended, and it had not gone on.
pub const QUIC_ABANDONED: usize = 2;
/// Label values, in the order of those numbers.
pub const QUIC_REJECTIONS: [&str; 3] = ["resumed", "cancelled", "abandoned"];

/// Frames that end a direction of a stream, in the order of [`QUIC_FRAME`].
pub const QUIC_FRAMES: [&str; 2] = ["RESET_STREAM", "STOP_SENDING"];
/// Index of the frames that were sent.
pub const QUIC_SENT: usize = 0;
/// Label values.
pub const QUIC_DIRECTIONS: [&str; 2] = ["sent", "received"];

/// Connections whose early data is undecided or rejected, at a time, of all processes.
pub const MAX_QUIC_CONNECTIONS: u32 = 4_096;

/// A connection of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct QuicKey {
    /// Address of the `*connection` or `*Conn`, which Go does not move.
    pub connection: u64,
    /// Process.
    pub tgid: u32,
    /// Zero.
    pub reserved: u32,
}

crate::assert_layout!(QuicKey, 16, [connection: u64, tgid: u32, reserved: u32]);

/// What is known of it. Its entry is removed when its outcome is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct QuicConnection {
    /// Calls that cancelled streams in the process before the rejection.
    pub cancels: u64,
    /// 1 once its early data is rejected.
    pub rejected: u32,
    /// 1 once `NextConnection` was called.
    pub next: u32,
}

crate::assert_layout!(QuicConnection, 16, [cancels: u64, rejected: u32, next: u32]);

/// Counters of QUIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct QuicCounters {
    /// By what became of early data.
    pub attempts: [u64; QUIC_RESULTS.len()],
    /// By what the program did after a rejection.
    pub rejections: [u64; QUIC_REJECTIONS.len()],
    /// Frames, by direction and kind.
    pub resets: [[u64; QUIC_FRAMES.len()]; QUIC_DIRECTIONS.len()],
}

crate::assert_layout!(QuicCounters, 80, [
    attempts: [u64; QUIC_RESULTS.len()],
    rejections: [u64; QUIC_REJECTIONS.len()],
    resets: [[u64; QUIC_FRAMES.len()]; QUIC_DIRECTIONS.len()],
]);

const HOOKS: &str = "uprobes on functions of quic-go";

/// What [`QuicCounters`] is shown as.
pub const QUIC_METRICS: &[CounterMetric] = &[
    CounterMetric {
        name: "socket_quic_0rtt_total",
        unit: "connections",
        labels: &["result"],
        hooks: HOOKS,
        help: "Connections on which a client with quic-go offered early data (0-RTT), by whether the server accepted it. failed: the connection ended before that was known.",
        query: "sum by (comm, unit, result) (rate(socket_quic_0rtt_total[5m]))",
        failures_from: Some(QUIC_REJECTED),
        process: None,
        parts: &[Part {
            signal: SIGNAL_QUIC,
            offset: offset_of!(QuicCounters, attempts),
            values: &[Values::Names(&QUIC_RESULTS)],
        }],
    },
    CounterMetric {
        name: "socket_quic_0rtt_rejections_total",
        unit: "connections",
        labels: &["result"],
        hooks: HOOKS,
        help: "Connections on which early data was rejected, by what the program did: it went on with NextConnection, called before or after it (resumed), went on after the process had cancelled a stream since the rejection (cancelled: before quic-go 0.48 this resets new streams), or closed the connection instead (abandoned). A connection that waits, or whose process ended, is in none.",
        query: "sum by (comm, unit, result) (increase(socket_quic_0rtt_rejections_total{result!=\"resumed\"}[1h])) > 0",
        failures_from: Some(QUIC_CANCELLED),
        process: None,
        parts: &[Part {
            signal: SIGNAL_QUIC,
            offset: offset_of!(QuicCounters, rejections),
            values: &[Values::Names(&QUIC_REJECTIONS)],
        }],
    },
    CounterMetric {
        name: "socket_quic_stream_resets_total",
        unit: "frames",
        labels: &["direction", "frame"],
        hooks: HOOKS,
        help: "Frames that end a direction of a QUIC stream early, of programs with quic-go. A frame that is sent again counts again.",
        query: "topk(5, sum by (comm, unit, direction) (rate(socket_quic_stream_resets_total[5m])))",
        failures_from: None,
        process: None,
        parts: &[Part {
            signal: SIGNAL_QUIC,
            offset: offset_of!(QuicCounters, resets),
            values: &[Values::Names(&QUIC_DIRECTIONS), Values::Names(&QUIC_FRAMES)],
        }],
    },
];
