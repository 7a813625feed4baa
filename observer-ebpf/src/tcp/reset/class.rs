//! Whose socket an RST was sent for, and why, from the socket's fields.

use observer_common::{
    CLOSE, CLOSE_WAIT, CLOSING, CONN_RESET_SENT, Conn, FIN_WAIT2, LAST_ACK, LISTEN, RESET_ABORTED,
    RESET_DATA_AFTER_CLOSE, RESET_DISCONNECT, RESET_INVALID_SEGMENT, RESET_KEEPALIVE,
    RESET_LINGER_ZERO, RESET_LISTENER, RESET_ORPHAN, RESET_OTHER, RESET_TIME_WAIT,
    RESET_UNACCEPTED, RESET_UNREAD_DATA, SLOT_UNATTRIBUTED,
};

use crate::{
    core::{
        counters,
        fields::{REASON_TCP_STATE, TIME_WAIT_EXACT, at, has},
        maps::TIME_WAITS,
        read::{Memory, Probe},
        socket::{SOCK_DEAD, SOCK_KEEPOPEN, SOCK_LINGER},
    },
    tcp::{entry, ownership, reset::received::forget_pending, time_wait::inferred},
};

/// `SHUTDOWN_MASK` (`include/net/sock.h`).
const SHUTDOWN_MASK: u8 = 3;

/// Whose socket an RST was sent for, and how to count it when the kernel gives no reason.
pub struct Sent {
    pub slot: u32,
    pub class: u32,
    /// The socket, if it is a full one.
    pub full: *const u8,
    pub conn: *mut Conn,
    pub state: u8,
}

/// A segment for a timewait socket: the owner is found through the cookie, which the
/// timewait socket took over.
#[inline(always)]
pub fn of_time_wait<M: Memory>(sk: *const u8, sent: &mut Sent) {
    sent.slot = SLOT_UNATTRIBUTED;
    sent.class = RESET_TIME_WAIT;
    if has::OFF_TW_SUBSTATE() {
        // SAFETY: an inet_timewait_sock, offset from BTF.
        if unsafe { Probe::read::<u8>(sk, at::OFF_TW_SUBSTATE()) } == FIN_WAIT2 {
            // Closed here, not yet by the peer, which is still sending.
            sent.class = RESET_DATA_AFTER_CLOSE;
        }
    }
    if TIME_WAIT_EXACT.load() != 0 {
        if let Some(entry) = TIME_WAITS.get_ptr(sk as u64) {
            // SAFETY: points into the map.
            let (slot, generation) = unsafe { ((*entry).slot, (*entry).generation) };
            attribute(sent, slot, generation);
        }
        return;
    }
    if !has::OFF_SKC_COOKIE() {
        return;
    }
    // SAFETY: struct sock_common is the head of a timewait socket too.
    let cookie = unsafe { M::read::<u64>(sk, at::OFF_SKC_COOKIE()) };
    if let Some((slot, generation)) = inferred::owner_by_cookie(cookie) {
        attribute(sent, slot, generation);
    }
}

/// Notes the owner, unless its process is gone and the slot is another one's.
#[inline(always)]
fn attribute(sent: &mut Sent, slot: u32, generation: u32) {
    if counters::generation(slot) == generation {
        sent.slot = slot;
    }
}

/// A segment for a connection that is not yet established: it is the listener's.
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
            sent.slot = ownership::through_parent(sk);
            if let Some(stats) = counters::stats() {
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
        // `tcp_abort` gives this reason. Others that abort a live socket have reasons of their own,
        // but for orphans whose time in FIN_WAIT2 is over (`tcp_keepalive_timer`).
        let aborted = reason == REASON_TCP_STATE.load() && sent.state != CLOSE;
        sent.class = if aborted && sent.state != FIN_WAIT2 {
            RESET_ABORTED
        } else {
            // SAFETY: a full socket, offsets from BTF.
            unsafe { active::<M>(sk, sent.state, previous) }
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

/// Why this side sent an RST of its own accord (`tcp_send_active_reset`).
#[inline(always)]
unsafe fn active<M: Memory>(sk: *const u8, state: u8, previous: u8) -> u32 {
    // SAFETY: a full tcp_sock, offsets from BTF.
    unsafe {
        let flags = flags::<M>(sk);
        if flags & SOCK_DEAD != 0 {
            return RESET_ORPHAN;
        }
        if state != CLOSE {
            // Aborted alive: by keepalive, or by somebody's `ss -K`.
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
            // A FIN counts as one, and stays uncopied until end-of-file is read.
            let fin = u32::from(matches!(previous, CLOSE_WAIT | LAST_ACK | CLOSING));
            let unread = received.wrapping_sub(copied);
            if unread > fin {
                return RESET_UNREAD_DATA;
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
