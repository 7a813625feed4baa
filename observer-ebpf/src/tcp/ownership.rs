//! Whose a socket is. The current task is asked only where it is known to be the owner:
//! connect's CLOSE -> SYN_SENT, listen's CLOSE -> LISTEN, the return of accept. Everywhere
//! else (most transitions and RSTs run in softirq, where the current task is a bystander)
//! the owner is looked up by socket. Nothing is guessed: what has no owner is counted as
//! unattributed.

use observer_common::{
    CONN_PARENT, Conn, SLOT_UNATTRIBUTED, book_handover, booked_state, correct_handover, owner_of,
    pack_handover, rebook_handover, unpack_handover,
};

use crate::{
    core::{maps::CONNECTIONS, process, socket::mptcp_parent},
    tcp::gauges::{self, adjust_live},
};

/// The same; in a kernel thread, which makes MPTCP joins on behalf of the process that owns the
/// parent, the owner of the parent of `sk`.
#[inline(always)]
pub fn current_or_parent(sk: *const u8) -> u32 {
    match process::current() {
        SLOT_UNATTRIBUTED => through_parent(sk),
        slot => slot,
    }
}

/// The owner of `sk`, whose entry is `conn`, if it has one.
#[inline(always)]
pub fn of_entry_or_parent(conn: Option<*mut Conn>, sk: *const u8) -> u32 {
    match conn {
        Some(conn) => of_entry(conn),
        None => through_parent(sk),
    }
}

/// The slot that owns `socket`, if it is known.
#[inline(always)]
pub fn of_socket(socket: u64) -> Option<u32> {
    let conn = CONNECTIONS.get_ptr(socket)?;
    // SAFETY: points into the map.
    Some(unsafe { owner_of((*conn).slot, (*conn).handover) })
}

/// The owner of an entry.
#[inline(always)]
pub fn of_entry(conn: *const Conn) -> u32 {
    // SAFETY: points into the map.
    unsafe { owner_of((*conn).slot, (*conn).handover) }
}

/// The owner of a socket that has no entry, or whose birth ran in a kernel thread: the
/// owner of its MPTCP parent, else unattributed.
#[inline(always)]
pub fn through_parent(sk: *const u8) -> u32 {
    let parent = mptcp_parent(sk);
    if parent == 0 {
        return SLOT_UNATTRIBUTED;
    }
    of_socket(parent).unwrap_or(SLOT_UNATTRIBUTED)
}

/// Gives the socket to another process. See [`Conn::handover`] for why this does not write
/// `slot`.
#[inline(always)]
pub fn hand_over(conn: *mut Conn, to: u32) {
    // SAFETY: points into the map.
    let (slot, handover, state, flags) =
        unsafe { ((*conn).slot, (*conn).handover, (*conn).state, (*conn).flags) };
    let from = owner_of(slot, handover);
    if from == to || to == SLOT_UNATTRIBUTED {
        return;
    }
    if flags & CONN_PARENT != 0 {
        // Takes no part in the gauges, so there is nothing to book, and no transition that
        // would settle it.
        gauges::hold(to);
        // SAFETY: as above.
        unsafe { (*conn).slot = to };
        gauges::release(from);
        return;
    }
    let booked = booked_state(handover, state);
    gauges::hold(to);
    book_handover(from, to, booked, adjust_live);
    // SAFETY: as above; one aligned 64-bit store.
    unsafe { (&raw mut (*conn).handover).write_volatile(pack_handover(to, booked)) };
    if handover != 0 {
        gauges::release(from);
    }
}

/// Corrects a hand-over that a transition came between, and that may otherwise be booked in the
/// wrong state until the next one. For resynchronisations. Another transition at this very moment
/// would leave gauges and holds off by one.
#[inline(always)]
pub fn rebook(conn: *mut Conn) {
    // SAFETY: points into the map.
    let (slot, handover, state) = unsafe {
        (
            (*conn).slot,
            (&raw const (*conn).handover).read_volatile(),
            (&raw const (*conn).state).read_volatile(),
        )
    };
    if handover == 0 || booked_state(handover, state) == state {
        return;
    }
    // SAFETY: as above.
    unsafe {
        let word = &raw mut (*conn).handover;
        if word.read_volatile() == handover {
            word.write_volatile(rebook_handover(slot, handover, state, adjust_live));
        }
    }
}

/// Completes a hand-over. For the state program only: it runs under the socket lock.
/// `state` is the state the socket is really in.
#[inline(always)]
pub fn settle_handover(conn: *mut Conn, state: u8) {
    // SAFETY: points into the map.
    let handover = unsafe { (&raw const (*conn).handover).read_volatile() };
    if handover == 0 {
        return;
    }
    // SAFETY: as above.
    let from = unsafe { (*conn).slot };
    let (to, booked) = unpack_handover(handover);
    correct_handover(from, to, booked, state, adjust_live);
    // SAFETY: as above.
    unsafe {
        (*conn).slot = to;
        (&raw mut (*conn).handover).write_volatile(0);
    }
    gauges::release(from);
}
