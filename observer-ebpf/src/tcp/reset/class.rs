//! Owner and class of an RST that was sent, from the fields of its socket.

use observer_common::{
    CLOSE, CLOSE_WAIT, CLOSING, CONN_RESET_SENT, Conn, FIN_WAIT1, FIN_WAIT2, LAST_ACK, LISTEN,
    RESET_ABORTED, RESET_DATA_AFTER_CLOSE, RESET_DISCONNECT, RESET_INVALID_SEGMENT,
    RESET_KEEPALIVE, RESET_LINGER_ZERO, RESET_LISTENER, RESET_ORPHAN, RESET_OTHER, RESET_TIME_WAIT,
    RESET_UNACCEPTED, RESET_UNREAD_AFTER_SHUTDOWN, RESET_UNREAD_DATA, SLOT_UNATTRIBUTED,
};

use crate::{
    core::{
        counters,
        fields::{REASON_TCP_STATE, at, has},
        read::{Memory, Probe},
        socket::{SOCK_DEAD, SOCK_KEEPOPEN, SOCK_LINGER},
    },
    tcp::{entry, ownership, reset::received::forget_pending, time_wait},
};

/// `SHUTDOWN_MASK` (`include/net/sock.h`).
const SHUTDOWN_MASK: u8 = 3;

/// An RST that was sent.
pub struct Sent {
    /// The owner.
    pub slot: u32,
    /// A `RESET_` class, for kernels that give no reason.
    pub class: u32,
    /// The socket, if it is a full one, else null.
    pub full: *const u8,
    /// Its entry, or null.
    pub conn: *mut Conn,
    /// State of the socket, 0 without one.
    pub state: u8,
}

/// Answer to a segment for a timewait socket.
#[inline(always)]
pub fn of_time_wait(sk: *const u8, sent: &mut Sent) {
    sent.class = RESET_TIME_WAIT;
    if has::OFF_TW_SUBSTATE() {
        // SAFETY: an inet_timewait_sock, offset from BTF.
        if unsafe { Probe::read::<u8>(sk, at::OFF_TW_SUBSTATE()) } == FIN_WAIT2 {
            // This side closed the connection, and the peer is still sending.
            sent.class = RESET_DATA_AFTER_CLOSE;
        }
    }
    let (slot, generation) = time_wait::owner(sk);
    // Otherwise its process has exited, and the slot can belong to another one.
    let owned = counters::generation(slot) == generation;
    sent.slot = if owned { slot } else { SLOT_UNATTRIBUTED };
}

/// Answer to a segment for a connection that is not yet established: it belongs to the listener.
#[inline(always)]
pub fn of_request(sk: *const u8, sent: &mut Sent) {
    sent.slot = SLOT_UNATTRIBUTED;
    sent.class = RESET_INVALID_SEGMENT;
    if has::OFF_REQ_LISTENER() {
        // SAFETY: a request_sock, offset from BTF.
        let listener = unsafe { Probe::read::<u64>(sk, at::OFF_REQ_LISTENER()) };
        sent.slot = ownership::of_socket(listener).unwrap_or(SLOT_UNATTRIBUTED);
    }
}

#[inline(always)]
pub fn of_full_socket<M: Memory>(
    sk: *const u8,
    answers_segment: bool,
    reason: u32,
    sent: &mut Sent,
) {
    sent.full = sk;
    let mut previous = sent.state;
    match entry::get(sk as u64) {
        Some(conn) => {
            // SAFETY: points into the map.
            unsafe {
                (*conn).flags |= CONN_RESET_SENT;
                previous = (*conn).previous;
            }
            sent.slot = ownership::of_entry(conn);
            sent.conn = conn;
        }
        None => {
            sent.slot = ownership::of_parent(sk);
            if answers_segment
                && sent.state == CLOSE
                && let Some(stats) = counters::stats()
            {
                // The segment has ended the socket, or came for one that had ended.
                // SAFETY: points into the map.
                unsafe {
                    let slot = (*stats).destroyed_slot;
                    if (*stats).destroyed_sk == sk as u64
                        && counters::generation(slot) == (*stats).destroyed_generation
                    {
                        sent.slot = slot;
                    }
                }
            }
        }
    }
    if answers_segment {
        forget_pending(sk, sent.state);
        // SAFETY: a full socket, offsets from BTF.
        sent.class = match sent.state {
            LISTEN => RESET_LISTENER,
            CLOSE if unsafe { flags::<M>(sk) } & SOCK_DEAD != 0 => RESET_DATA_AFTER_CLOSE,
            _ => RESET_INVALID_SEGMENT,
        };
    } else {
        // `tcp_abort` gives this reason. Other aborts of live sockets have their own reasons, except
        // for orphans whose time in FIN_WAIT2 expired (`tcp_keepalive_timer`).
        let aborted = reason == REASON_TCP_STATE.load() && sent.state != CLOSE;
        // SAFETY: a full socket, offsets from BTF.
        sent.class = unsafe {
            if aborted && (sent.state != FIN_WAIT2 || flags::<M>(sk) & SOCK_DEAD == 0) {
                RESET_ABORTED
            } else {
                active::<M>(sk, sent.state, previous)
            }
        };
    }
}

#[inline(always)]
unsafe fn flags<M: Memory>(sk: *const u8) -> u64 {
    if has::OFF_SKC_FLAGS() {
        // SAFETY: a full socket, offset from BTF.
        unsafe { M::read::<u64>(sk, at::OFF_SKC_FLAGS()) }
    } else {
        0
    }
}

/// Why this side sent an RST that answers no segment (`tcp_send_active_reset`).
#[inline(always)]
unsafe fn active<M: Memory>(sk: *const u8, state: u8, previous: u8) -> u32 {
    // SAFETY: a full tcp_sock, offsets from BTF.
    unsafe {
        let flags = flags::<M>(sk);
        if flags & SOCK_DEAD != 0 {
            return RESET_ORPHAN;
        }
        if state != CLOSE {
            // A live connection was aborted: by keepalive, or by `ss -K`.
            return if flags & SOCK_KEEPOPEN != 0 {
                RESET_KEEPALIVE
            } else {
                RESET_ABORTED
            };
        }
        if has::OFF_SK_SOCKET() && M::read::<u64>(sk, at::OFF_SK_SOCKET()) == 0 {
            return RESET_UNACCEPTED;
        }
        if M::read::<u8>(sk, at::OFF_SK_SHUTDOWN()) & SHUTDOWN_MASK != SHUTDOWN_MASK {
            return RESET_DISCONNECT;
        }
        if has::OFF_TP_RCV_NXT() && has::OFF_TP_COPIED_SEQ() {
            let received = Probe::read::<u32>(sk, at::OFF_TP_RCV_NXT());
            let copied = Probe::read::<u32>(sk, at::OFF_TP_COPIED_SEQ());
            // A FIN takes one sequence number, and is not copied until end-of-file is read.
            let fin = u32::from(matches!(previous, CLOSE_WAIT | LAST_ACK | CLOSING));
            let unread = received.wrapping_sub(copied);
            if unread > fin {
                return match previous {
                    FIN_WAIT1 | FIN_WAIT2 => RESET_UNREAD_AFTER_SHUTDOWN,
                    _ => RESET_UNREAD_DATA,
                };
            }
        }
        if flags & SOCK_LINGER != 0
            && has::OFF_SK_LINGERTIME()
            && M::read::<u64>(sk, at::OFF_SK_LINGERTIME()) == 0
        {
            return RESET_LINGER_ZERO;
        }
        RESET_OTHER
    }
}
