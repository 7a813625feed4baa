//! What connections wait for, while they exist and when they end.

use core::mem::offset_of;

use crate::{
    BUCKETS, Histogram,
    histogram::S,
    metric::{CounterMetric, HistogramMetric},
    signal::SIGNAL_STATE,
};

/// No known wait: data is in flight, or the kernel's fields are unknown.
pub const WAIT_NOTHING: u8 = 0;
/// It waits for accept().
pub const WAIT_PROGRAM_ACCEPT: u8 = 1;
/// The program has not read data that arrived.
pub const WAIT_PROGRAM_READ: u8 = 2;
/// The program has read nothing since the peer's FIN.
pub const WAIT_PROGRAM_EOF: u8 = 3;
/// Data waits here because the peer's receive window is closed: the program there does not read.
pub const WAIT_PEER_WINDOW: u8 = 4;
/// The peer does not acknowledge retransmitted data.
pub const WAIT_PEER_ACK: u8 = 5;
/// A client has sent a request and received nothing at all.
pub const WAIT_PEER_FIRST_BYTE: u8 = 6;
/// Of a client: the last data was sent from here, so it is the peer's turn.
pub const WAIT_PEER: u8 = 7;
/// Of a server: the last data came from the peer, so it is the program's turn.
pub const WAIT_PROGRAM: u8 = 8;
/// It is nobody's turn.
pub const WAIT_NOBODY: u8 = 9;
/// Nobody's turn as far as the kernel knows, and no data was sent or received yet.
pub const WAIT_UNUSED: u8 = 10;

/// Stalls: the program or the peer has to act. From [`WAIT_PROGRAM_ACCEPT`] on.
pub const STALLS: usize = 6;
/// Label values of those.
pub const STALL_NAMES: [&str; STALLS] = [
    "program_accept",
    "program_read",
    "program_eof",
    "peer_window",
    "peer_ack",
    "peer_first_byte",
];
/// Quiet connections, by turn. From [`WAIT_PEER`] on.
pub const TURNS: usize = 3;
/// Label values of those.
pub const TURN_NAMES: [&str; TURNS] = ["peer", "program", "nobody"];

/// A wait ended with the connection: no number.
pub const ENDED_NONE: u8 = 0;
/// The program gave up while it was the peer's turn.
pub const ENDED_TIMEOUT: u8 = 1;
/// The peer closed while it was its turn.
pub const ENDED_PEER_CLOSED: u8 = 2;
/// An RST or a timeout of the kernel ended it while it was the peer's turn.
pub const ENDED_RESET: u8 = 3;
/// The program closed it without reading data that had arrived.
pub const ENDED_UNREAD: u8 = 4;
/// Data could not be sent because the peer's receive window was closed.
pub const ENDED_WINDOW: u8 = 5;
/// The peer did not acknowledge data.
pub const ENDED_ACK: u8 = 6;
/// The program closed a connection that it had opened, and neither side had sent anything. In no histogram: a connection that
/// was opened in advance waited for nothing.
pub const ENDED_UNUSED: u8 = 7;
/// Waits for reading, from [`ENDED_TIMEOUT`] on.
pub const READ_STALLS: usize = 4;
/// Waits for writing, from [`ENDED_WINDOW`] on.
pub const WRITE_STALLS: usize = 2;
/// Label values of waits that ended with the connection, in the order of the `ENDED_` numbers.
pub const ENDED_NAMES: [&str; READ_STALLS + WRITE_STALLS] =
    ["timeout", "peer_closed", "reset", "unread", "window", "ack"];
const READ_NAMES: &[&str] = ENDED_NAMES.split_at(READ_STALLS).0;
const WRITE_NAMES: &[&str] = ENDED_NAMES.split_at(READ_STALLS).1;

/// Waits that are shorter are not counted at the end of a connection, milliseconds.
pub const LEAST_WAIT_MS: u32 = 1000;

/// Minimum of [`WaitCounters::gave_up`], milliseconds: `nc -w1` hangs up after a second although nothing is to come.
pub const GAVE_UP_MS: u32 = 1500;

/// Certainly waited for an answer, to the first data, or to data that was sent a tenth of a second or more after the last data was
/// received; closed by a FIN.
pub const GAVE_UP_ANSWER: usize = 0;
/// Had received nothing at all; closed at once by an RST.
pub const GAVE_UP_RESET: usize = 1;
/// May have waited for an answer to data that followed the last answer at once; closed by a FIN. The peer shows whether there was
/// something to wait for.
pub const GAVE_UP_AT_ONCE: usize = 2;
/// May have waited for a greeting; closed by a FIN. As above.
pub const GAVE_UP_UNUSED: usize = 3;
/// Number of those.
pub const GAVE_UPS: usize = 4;

/// Upper bounds of the waits, in nanoseconds.
pub const WAIT_BOUNDS: [u64; BUCKETS - 1] = [
    2 * S,
    5 * S,
    10 * S,
    30 * S,
    60 * S,
    120 * S,
    300 * S,
    600 * S,
    1_800 * S,
    3_600 * S,
];

/// Counters of waits that ended with the connection.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WaitCounters {
    /// From [`ENDED_TIMEOUT`] on: [`READ_STALLS`] for reading, then [`WRITE_STALLS`] for writing.
    pub ended: [Histogram; READ_STALLS + WRITE_STALLS],
    /// Those of [`ENDED_TIMEOUT`] and [`ENDED_UNUSED`] after [`GAVE_UP_MS`], by the `GAVE_UP_` numbers. Detectors count these.
    pub gave_up: [u64; GAVE_UPS],
    /// Connections that the program opened, sent something on, and closed before it had read anything, without those of
    /// [`Self::gave_up`] and those that the peer has closed. Those younger than [`LEAST_WAIT_MS`] only of programs with TLS, of
    /// which a detector counts these.
    pub nothing_read: u64,
}

crate::assert_layout!(
    WaitCounters,
    size_of::<Histogram>() * (READ_STALLS + WRITE_STALLS) + 40,
    [ended: [Histogram; READ_STALLS + WRITE_STALLS], gave_up: [u64; GAVE_UPS], nothing_read: u64]
);

/// [`WaitCounters`] has no single counter that is a metric.
pub const WAIT_METRICS: &[CounterMetric] = &[];

/// Metrics of [`WaitCounters`].
pub const WAIT_HISTOGRAMS: &[HistogramMetric] = &[
    HistogramMetric {
        name: "socket_read_stall_seconds",
        hooks: "`inet_sock_set_state`",
        help: "Waits for data of 1 s or more that ended with the connection, one per connection: the program gave up while it waited for the peer (timeout), the peer closed instead of answering (peer_closed), an RST or a timeout of the kernel ended it (reset), or the program closed without reading data that had arrived (unread). An idle HTTP/2 connection that a client closes may count as timeout, because its last frames need no answer. Does not count waits that data ended, nor those of programs that send a closing message before they close, as TLS does.",
        query: "sum by (comm, unit) (rate(socket_read_stall_seconds_count{reason=\"timeout\"}[5m])) > 0",
        signal: SIGNAL_STATE,
        offset: offset_of!(WaitCounters, ended),
        bounds: &WAIT_BOUNDS,
        label: Some(("reason", READ_NAMES)),
    },
    HistogramMetric {
        name: "socket_write_stall_seconds",
        hooks: "`inet_sock_set_state`",
        help: "Waits of 1 s or more for sending that ended with the connection: the peer's receive window was closed because the program there did not read (window), or the peer did not acknowledge (ack).",
        query: "sum by (comm, unit, reason) (rate(socket_write_stall_seconds_count[5m])) > 0",
        signal: SIGNAL_STATE,
        offset: offset_of!(WaitCounters, ended) + READ_STALLS * size_of::<Histogram>(),
        bounds: &WAIT_BOUNDS,
        label: Some(("reason", WRITE_NAMES)),
    },
];
