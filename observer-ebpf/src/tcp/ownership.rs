//! Owners of sockets. The current task is used only where it is known to be the owner: at
//! CLOSE -> SYN_SENT in connect(), CLOSE -> LISTEN in listen(), and when accept() returns. Elsewhere
//! the owner is looked up by socket, because most transitions and RSTs run in softirq, where the
//! current task is unrelated. Events of sockets without a known owner are unattributed.

use observer_common::{
    CONN_PARENT, Conn, SLOT_UNATTRIBUTED, adjust_for_handover, adjusted_state, correct_handover,
    owner_of, pack_handover, readjust_handover, unpack_handover,
};

use crate::{
    core::{
        maps::{CONNECTIONS, RESYNC},
        process,
        socket::mptcp_parent,
    },
    tcp::gauges::{self, adjust_live},
};

/// The slot of the running process. In a kernel thread, the owner of the MPTCP parent of `sk`:
/// kernel threads open subflows on behalf of the process that owns the parent.
#[inline(always)]
pub fn current_or_parent(sk: *const u8) -> u32 {
    match process::current() {
        SLOT_UNATTRIBUTED => of_parent(sk),
        slot => slot,
    }
}

/// The owner of `sk`, whose entry is `conn`; without an entry, the owner of its MPTCP parent.
#[inline(always)]
pub fn of_entry_or_parent(conn: Option<*mut Conn>, sk: *const u8) -> u32 {
    match conn {
        Some(conn) => of_entry(conn),
        None => of_parent(sk),
    }
}

/// The owner of `socket`, if it has an entry.
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

/// The owner of the MPTCP parent of `sk`, else unattributed: for a socket that has no entry, or that
/// a kernel thread opened.
#[inline(always)]
pub fn of_parent(sk: *const u8) -> u32 {
    let parent = mptcp_parent(sk);
    if parent == 0 {
        return SLOT_UNATTRIBUTED;
    }
    of_socket(parent).unwrap_or(SLOT_UNATTRIBUTED)
}

/// Number of the last resynchronisation, which may be running; never 0 while one is.
#[inline(always)]
pub fn epoch() -> u32 {
    // SAFETY: points into the map.
    RESYNC
        .get_ptr(0)
        .map_or(0, |control| unsafe { (*control).epoch })
}

/// Records that the process of `to` has the socket from now on, and hands it over. A resynchronisation
/// that is running leaves it there: it may have visited the process before, and the previous owner may
/// not have closed the socket yet. Returns whether the owner changed.
#[inline(always)]
pub fn record(conn: *mut Conn, to: u32) -> bool {
    if to == SLOT_UNATTRIBUTED {
        return false;
    }
    // SAFETY: points into the map.
    unsafe { (*conn).epoch = epoch() };
    hand_over(conn, to)
}

/// Hands the socket over to another process. [`Conn::handover`] says why this does not write
/// `slot`. Returns whether the owner changed.
#[inline(always)]
pub fn hand_over(conn: *mut Conn, to: u32) -> bool {
    // SAFETY: points into the map.
    let (slot, handover, state, flags) =
        unsafe { ((*conn).slot, (*conn).handover, (*conn).state, (*conn).flags) };
    let from = owner_of(slot, handover);
    if from == to || to == SLOT_UNATTRIBUTED {
        return false;
    }
    if from == SLOT_UNATTRIBUTED && !gauges::may_hold(to) {
        return false;
    }
    if flags & CONN_PARENT != 0 {
        // An MPTCP parent is in no gauge and has no transition that would complete a hand-over.
        gauges::hold(to);
        // SAFETY: as above.
        unsafe { (*conn).slot = to };
        gauges::release(from);
        return true;
    }
    let adjusted = adjusted_state(handover, state);
    gauges::hold(to);
    adjust_for_handover(from, to, adjusted, adjust_live);
    // SAFETY: as above; one aligned 64-bit store.
    unsafe { (&raw mut (*conn).handover).write_volatile(pack_handover(to, adjusted)) };
    if handover != 0 {
        gauges::release(from);
    } else {
        gauges::pass_on(from, 1);
    }
    true
}

/// Corrects the gauges for a hand-over during which the socket changed its state; otherwise they
/// stay wrong until the next transition. For resynchronisations. A concurrent transition would
/// leave gauges and entry counts off by one.
#[inline(always)]
pub fn readjust(conn: *mut Conn) {
    // SAFETY: points into the map.
    let (slot, handover, state) = unsafe {
        (
            (*conn).slot,
            (&raw const (*conn).handover).read_volatile(),
            (&raw const (*conn).state).read_volatile(),
        )
    };
    if handover == 0 || adjusted_state(handover, state) == state {
        return;
    }
    // SAFETY: as above.
    unsafe {
        let word = &raw mut (*conn).handover;
        if word.read_volatile() == handover {
            word.write_volatile(readjust_handover(slot, handover, state, adjust_live));
        }
    }
}

/// Completes a hand-over of a socket that is in `state`. For the state program only, which runs
/// under the socket lock.
#[inline(always)]
pub fn complete_handover(conn: *mut Conn, state: u8) {
    // SAFETY: points into the map.
    let handover = unsafe { (&raw const (*conn).handover).read_volatile() };
    if handover == 0 {
        return;
    }
    // SAFETY: as above.
    let from = unsafe { (*conn).slot };
    let (to, adjusted) = unpack_handover(handover);
    correct_handover(from, to, adjusted, state, adjust_live);
    // SAFETY: as above.
    unsafe {
        (*conn).slot = to;
        (&raw mut (*conn).handover).write_volatile(0);
    }
    gauges::pass_on(from, -1);
    gauges::release(from);
}
