//! The entry of a socket, and constants of sockets.

use crate::{CLOSE_WAIT, CLOSING, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, LAST_ACK, SYN_RECV, SYN_SENT};

/// `IPPROTO_TCP`.
pub const IPPROTO_TCP: u16 = 6;
/// `IPPROTO_UDP`.
pub const IPPROTO_UDP: u16 = 17;
/// `IPPROTO_MPTCP`: the parent socket of an MPTCP connection; its subflows are
/// [`IPPROTO_TCP`].
pub const IPPROTO_MPTCP: u16 = 262;
/// `AF_INET`.
pub const AF_INET: u16 = 2;
/// `AF_INET6`.
pub const AF_INET6: u16 = 10;

/// The prefix of an IPv4 address in a `struct in6_addr`: `::ffff:0:0`, RFC 4291 section 2.5.5.2.
pub const V4_MAPPED: u32 = 0xffff_u32.to_be();

/// The socket was opened by connect().
pub const CONN_ACTIVE: u16 = 1 << 0;
/// The socket is the child of a listener.
pub const CONN_PASSIVE: u16 = 1 << 1;
/// The socket was found alive, so its first transition was not seen.
pub const CONN_SEEDED: u16 = 1 << 2;
/// The socket reached ESTABLISHED.
pub const CONN_ESTABLISHED: u16 = 1 << 3;
/// This side sent an RST.
pub const CONN_RESET_SENT: u16 = 1 << 5;
/// This side received an RST.
pub const CONN_RESET_RECEIVED: u16 = 1 << 6;
/// A connection attempt ended in the state machine and was counted there. The errno that connect()
/// returns for it must not be counted.
pub const CONN_ATTEMPT_COUNTED: u16 = 1 << 7;
/// A connection attempt ended inside its connect() call, which will return the errno.
pub const CONN_ATTEMPT_PENDING: u16 = 1 << 8;
/// The socket is an MPTCP parent: it has an owner but is not counted, because its subflows are.
pub const CONN_PARENT: u16 = 1 << 9;
/// The socket entered TIME_WAIT.
pub const CONN_TIME_WAIT: u16 = 1 << 10;
/// A SYN of the pending attempt ([`CONN_ATTEMPT_PENDING`]) was retransmitted.
pub const CONN_SYN_RETRANSMITTED: u16 = 1 << 12;

/// States whose duration is measured, in the order of [`Conn::spent`], which is a possible order of the states of a
/// connection.
pub const TIMED_STATES: [u8; 8] = [
    SYN_SENT,
    SYN_RECV,
    ESTABLISHED,
    FIN_WAIT1,
    FIN_WAIT2,
    CLOSING,
    CLOSE_WAIT,
    LAST_ACK,
];

/// Index of a state in [`TIMED_STATES`], or their number if it is not among them. For states below
/// 16.
#[must_use]
#[inline(always)]
pub const fn timed_index(state: u8) -> usize {
    // Four bits for each state, because a shift is cheaper than a read from an array.
    const INDICES: u64 = {
        let mut indices = 0x8888_8888_8888_8888;
        let mut index = 0;
        while index < TIMED_STATES.len() {
            let shift = 4 * TIMED_STATES[index] as u32;
            indices = indices & !(0xf << shift) | (index as u64) << shift;
            index += 1;
        }
        indices
    };
    (INDICES >> ((state as u32 & 15) * 4)) as usize & 0xf
}

/// Value of the connection map; the key is the socket's address.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Conn {
    /// The owner's slot.
    pub slot: u32,
    /// `CONN_` flags.
    pub flags: u16,
    /// New state of the last transition.
    pub state: u8,
    /// Old state of the last transition: `tcp_close` sends its RST when the state is already CLOSE.
    pub previous: u8,
    /// Time of the first event of the socket, or of the last attempt of a reused one,
    /// `bpf_ktime_get_ns`.
    pub born_ns: u64,
    /// When `state` was entered.
    pub entered_ns: u64,
    /// A hand-over to another process (accept, resynchronisation) that no transition has followed yet:
    /// the new owner's slot in the low half, the state in which the gauges were adjusted in the high
    /// half. 0 for none, because slot 0 is no process's.
    ///
    /// Only the state program, which runs under the socket lock, moves it into `slot`. If a FIN arrives
    /// on another CPU during accept(), the state program sees the state in which the gauges were
    /// adjusted and corrects them. Otherwise the gauges of both owners would stay off by one.
    pub handover: u64,
    /// The last resynchronisation that confirmed the owner, or that had begun when the owner was recorded.
    /// 0 for a connection that no process was seen to accept.
    pub epoch: u32,
    /// Retransmitted segments that are counted: the socket's own number then (`total_retrans`).
    pub retransmits: u32,
    /// 1 once it has left the accept queue. Not a flag, because the state program writes the flags
    /// under the socket lock.
    pub accepted: u32,
    /// `sk_err` when `state` was entered. That error (an ICMP message with IP_RECVERR, an invalid
    /// TLS record) did not end the connection, so it is not the error that ends it later.
    pub error: u32,
    /// How far the program had read (`copied_seq`) when the walk over connections last found data that it had
    /// not read.
    pub copied_seq: u32,
    /// When that was first seen, [`crate::coarse_time`]; 0 if everything was read.
    pub unread_since: u32,
    /// What the connection waited for when it began to end; an `ENDED_` number.
    pub waited_for: u32,
    /// For how long, milliseconds.
    pub waited_ms: u32,
    /// Packed time spent in each of [`TIMED_STATES`] so far; see [`crate::pack_duration`].
    pub spent: [u32; TIMED_STATES.len()],
}

crate::assert_layout!(Conn, 96, [
    slot: u32, flags: u16, state: u8, previous: u8,
    born_ns: u64, entered_ns: u64, handover: u64, epoch: u32, retransmits: u32,
    accepted: u32, error: u32,
    copied_seq: u32, unread_since: u32, waited_for: u32, waited_ms: u32,
    spent: [u32; TIMED_STATES.len()],
]);
