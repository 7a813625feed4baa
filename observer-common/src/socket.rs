//! The kernel's memory of one socket.

use crate::{CLOSE_WAIT, CLOSING, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, LAST_ACK, SYN_RECV, SYN_SENT};

/// `IPPROTO_TCP`.
pub const IPPROTO_TCP: u16 = 6;
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
/// It was found alive, so its birth was not seen.
pub const CONN_SEEDED: u16 = 1 << 2;
/// It reached ESTABLISHED.
pub const CONN_ESTABLISHED: u16 = 1 << 3;
/// This side sent an RST.
pub const CONN_RESET_SENT: u16 = 1 << 5;
/// This side received an RST.
pub const CONN_RESET_RECEIVED: u16 = 1 << 6;
/// A connection attempt ended in the state machine and was counted there; the errno that
/// connect() returns for it must not be counted again.
pub const CONN_ATTEMPT_COUNTED: u16 = 1 << 7;
/// A connection attempt ended inside the connect() call that made it; its errno is what
/// that call returns.
pub const CONN_ATTEMPT_PENDING: u16 = 1 << 8;
/// The socket is an MPTCP parent: it has an owner but takes no part in the counts, because
/// its subflows do.
pub const CONN_PARENT: u16 = 1 << 9;
/// It left for TIME_WAIT.
pub const CONN_TIME_WAIT: u16 = 1 << 10;
/// It may have left for TIME_WAIT: known when the socket is destroyed, because then an RST
/// has been sent or not.
pub const CONN_TIME_WAIT_MAYBE: u16 = 1 << 11;
/// A SYN of the attempt that is pending ([`CONN_ATTEMPT_PENDING`]) had been sent again.
pub const CONN_SYN_RETRANSMITTED: u16 = 1 << 12;

/// The states that a connection spends time in, in the order in which it may go through them and
/// of [`Conn::spent`].
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

/// Index in [`TIMED_STATES`], or their number for a state that is none of them. For numbers
/// below 16.
#[must_use]
#[inline(always)]
pub const fn timed_index(state: u8) -> usize {
    // Four bits for each state: a shift, where an array would be a read of memory.
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
    /// The state that the last transition led to.
    pub state: u8,
    /// The state before that: `tcp_close` sends its RST when the state is CLOSE already.
    pub previous: u8,
    /// First event of the socket (of the last attempt, for one that is reused),
    /// `bpf_ktime_get_ns`.
    pub born_ns: u64,
    /// When `state` was entered.
    pub entered_ns: u64,
    /// Set when the socket was handed to another process (accept, resynchronisation) and
    /// no transition has followed yet: the new owner's slot in the low half, the state the
    /// hand-over was booked in in the high half. 0 for none, as slot 0 is nobody's.
    ///
    /// Only the state program, which the socket lock serialises, moves it into `slot`. So
    /// a FIN arriving on another CPU in the middle of an accept cannot leave the gauges of
    /// both owners off by one: the state program sees which state the hand-over was booked
    /// in and corrects it.
    pub handover: u64,
    /// Resynchronisation pass in which the owner was last confirmed to hold it.
    pub epoch: u32,
    /// Retransmitted segments, saturating in practice.
    pub retransmits: u32,
    /// 1 once it has left its listener's queue. Not among the flags, which the state program
    /// writes under the socket lock.
    pub accepted: u32,
    /// `sk_err` when `state` was entered. The connection has survived that error (an ICMP
    /// message with IP_RECVERR, a bad TLS record), so it does not die of it either.
    pub error: u32,
    /// Packed time spent in each of [`TIMED_STATES`] so far; see [`crate::pack_duration`].
    pub spent: [u32; TIMED_STATES.len()],
}

crate::assert_layout!(Conn, 80, [
    slot: u32, flags: u16, state: u8, previous: u8,
    born_ns: u64, entered_ns: u64, handover: u64, epoch: u32, retransmits: u32,
    accepted: u32, error: u32,
    spent: [u32; TIMED_STATES.len()],
]);
