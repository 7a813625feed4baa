//! Records in the ring buffer. All have the same size, so that a reader can skip kinds that it does
//! not know, and programs reserve a constant size.

use crate::STATES;

/// A connection ended.
pub const RECORD_CLOSE: u8 = 0;
/// A connection attempt failed.
pub const RECORD_CONNECT_FAILED: u8 = 1;
/// An RST was sent.
pub const RECORD_RESET_SENT: u8 = 2;
/// An RST was received.
pub const RECORD_RESET_RECEIVED: u8 = 3;
/// A socket entered TIME_WAIT.
pub const RECORD_TIME_WAIT: u8 = 4;
/// A setsockopt call failed.
pub const RECORD_SETSOCKOPT_FAILED: u8 = 5;
/// socket() or accept() failed because file descriptors or memory ran out.
pub const RECORD_FD_EXHAUSTED: u8 = 6;
/// bind() or listen() failed.
pub const RECORD_BIND_FAILED: u8 = 7;
/// A state transition. Written only when asked for (`observer tail --states`).
pub const RECORD_STATE: u8 = 8;
/// How many kinds of record there are.
pub const RECORD_KINDS: usize = 9;

/// Label values, in the order of the `RECORD_` numbers.
pub const RECORD_NAMES: [&str; RECORD_KINDS] = [
    "close",
    "connect_failed",
    "reset_sent",
    "reset_received",
    "time_wait",
    "setsockopt_failed",
    "fd_exhausted",
    "bind_failed",
    "state",
];

/// One record. Fields that a kind does not use are zero.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Record {
    /// `bpf_ktime_get_ns` (CLOCK_MONOTONIC).
    pub time_ns: u64,
    /// Age of the connection, in nanoseconds; 0 if its first transition was not seen.
    pub age_ns: u64,
    /// The owner's slot.
    pub slot: u32,
    /// Generation of the slot.
    pub generation: u32,
    /// Thread-group id of the owner, 0 without an owner.
    pub tgid: u32,
    /// Inode number of the network namespace (`/proc/PID/ns/net`).
    pub netns: u32,
    /// A `RECORD_` number.
    pub kind: u8,
    /// State before the event.
    pub from: u8,
    /// State after the event.
    pub to: u8,
    /// 1 when the socket is an MPTCP parent or subflow.
    pub mptcp: u8,
    /// `CONN_` flags.
    pub flags: u16,
    /// AF_INET or AF_INET6. Of a failed bind() that of the address asked for, 0 if it is not known.
    pub family: u16,
    /// Local port, host order.
    pub local_port: u16,
    /// Remote port, host order.
    pub remote_port: u16,
    /// Positive errno of the failed attempt or call, or the `sk_err` that ended the connection; 0 for
    /// none.
    pub errno: u16,
    /// `sk_protocol`.
    pub protocol: u16,
    /// Of an RST: index as in [`crate::ResetCounters::sent`] or `received`. Of a failed
    /// setsockopt: the socket's type. Of a failed bind() or listen(): index in [`crate::BIND_CALLS`].
    pub reason: u32,
    /// setsockopt level.
    pub level: i32,
    /// setsockopt option.
    pub option: i32,
    /// Retransmitted segments of the connection.
    pub retransmits: u32,
    /// What the connection waited for when it began to end; an `ENDED_` number.
    pub waited_for: u32,
    /// For how long, milliseconds.
    pub waited_ms: u32,
    /// Local address, or the one that bind() was asked for; the first four bytes for IPv4.
    pub local: [u8; 16],
    /// Remote address.
    pub remote: [u8; 16],
    /// Packed time spent in each of [`crate::TIMED_STATES`], at the state's number; see
    /// [`crate::unpack_duration`].
    pub spent: [u32; STATES],
}

crate::assert_layout!(Record, 152, [
    time_ns: u64, age_ns: u64, slot: u32, generation: u32, tgid: u32, netns: u32,
    kind: u8, from: u8, to: u8, mptcp: u8, flags: u16, family: u16,
    local_port: u16, remote_port: u16, errno: u16, protocol: u16,
    reason: u32, level: i32, option: i32, retransmits: u32, waited_for: u32, waited_ms: u32,
    local: [u8; 16], remote: [u8; 16], spent: [u32; STATES],
]);
