//! The entry of a socket: inserted at its first transition (or when a socket older than the daemon
//! is found), removed when the socket is destroyed.

use observer_common::{
    CLOSE, CONN_ACTIVE, CONN_ATTEMPT_COUNTED, CONN_PASSIVE, CONN_SEEDED, Conn, MAP_CONNECTIONS,
    SYN_SENT, TIMED_STATES,
};

use crate::{
    core::{
        attempts,
        counters::{self, add},
        fields::{at, has},
        maps::{BPF_NOEXIST, CONNECTIONS},
        outcome,
        read::{Memory, Probe},
    },
    tcp::{gauges, ownership},
};

/// The entry of `socket`.
#[inline(always)]
pub fn get(socket: u64) -> Option<*mut Conn> {
    CONNECTIONS.get_ptr_mut(socket)
}

/// Errors of insertions (`htab_map_update_elem`).
const E2BIG: i32 = -7;
const EEXIST: i32 = -17;

/// Result of an insertion.
pub enum Inserted {
    /// The entry was inserted.
    New,
    /// The socket already had an entry.
    Known,
    /// No entry was inserted: the map or the process's share of it is full, which is counted, or the bucket's lock is held.
    Refused,
}

/// Inserts an entry for `socket` in `state`, owned by `slot`, and returns the socket's entry.
/// `None` if the map takes no entry.
#[inline(always)]
pub fn create(socket: u64, slot: u32, flags: u16, state: u8, time: u64) -> Option<*mut Conn> {
    match insert(socket, slot, flags, state, state, time) {
        // -EEXIST: another CPU inserted it first; use that entry.
        Inserted::New | Inserted::Known => get(socket),
        Inserted::Refused => None,
    }
}

/// Inserts an entry for a socket that went from `previous` to `state`.
#[inline(always)]
pub fn insert(socket: u64, slot: u32, flags: u16, previous: u8, state: u8, time: u64) -> Inserted {
    if !gauges::may_hold(slot) && get(socket).is_none() {
        // The share is full, not the map: a socket of another process without an entry is one for
        // whose first transition the kernel skipped the program (`state::backup`).
        outcome::map_full(MAP_CONNECTIONS);
        return Inserted::Refused;
    }
    // No process has a descriptor for the child of a listener before it is accepted, so no
    // resynchronisation confirms its owner; this number is never used for one.
    let is_child = flags & CONN_PASSIVE != 0;
    let conn = Conn {
        slot,
        flags,
        state,
        previous,
        born_ns: time,
        entered_ns: time,
        handover: 0,
        epoch: if is_child { 0 } else { ownership::epoch() },
        retransmits: 0,
        accepted: 0,
        error: 0,
        copied_seq: 0,
        unread_since: 0,
        waited_for: 0,
        waited_ms: 0,
        spent: [0; TIMED_STATES.len()],
    };
    match CONNECTIONS.insert(socket, conn, BPF_NOEXIST) {
        Ok(()) => {
            gauges::hold(slot);
            if let Some(stats) = counters::stats() {
                // SAFETY: points into the map.
                unsafe {
                    add(&raw mut (*stats).connections_added, 1);
                    if (*stats).destroyed_sk == socket {
                        // The last one was another socket at this address.
                        (*stats).destroyed_sk = 0;
                    }
                    (*stats).connections_full = 0;
                }
            }
            Inserted::New
        }
        Err(EEXIST) => Inserted::Known,
        Err(E2BIG) => full(),
        // Another program that runs on this CPU holds the lock of the bucket.
        Err(_) => Inserted::Refused,
    }
}

/// The map has no room for an entry.
#[inline(always)]
fn full() -> Inserted {
    outcome::map_full(MAP_CONNECTIONS);
    if let Some(stats) = counters::stats() {
        // SAFETY: points into the map.
        unsafe { (*stats).connections_full = 1 };
    }
    Inserted::Refused
}

/// Inserts an entry for a live socket whose first transition was not seen, and adds it to the
/// gauges of its owner.
#[inline(always)]
pub fn seed(socket: u64, slot: u32, state: u8, time: u64) -> Option<*mut Conn> {
    let mut flags = CONN_SEEDED;
    if state == SYN_SENT {
        // Only connect() leads there, so this attempt has no outcome yet.
        flags |= CONN_ACTIVE;
    }
    match insert(socket, slot, flags, state, state, time) {
        Inserted::New => {}
        // The program that inserted it has adjusted the gauges.
        Inserted::Known => return get(socket),
        Inserted::Refused => return None,
    }
    gauges::adjust_live(slot, state, 1);
    if let Some(slot) = counters::slot(slot) {
        // SAFETY: points into the map.
        add(unsafe { &raw mut (*slot).state.seeded }, 1);
    }
    let conn = get(socket)?;
    // The map may have been full at the outcome of its attempt.
    let attempt = attempts::take(socket as *const u8).unwrap_or(0);
    // SAFETY: points into the map.
    unsafe {
        (*conn).flags |= attempt & CONN_ATTEMPT_COUNTED;
        (*conn).retransmits = retransmitted(socket as *const u8);
    }
    Some(conn)
}

/// Segments that the socket has retransmitted so far (`total_retrans`).
#[inline(always)]
pub fn retransmitted(sk: *const u8) -> u32 {
    if !has::OFF_TP_TOTAL_RETRANS() {
        return 0;
    }
    // SAFETY: a tcp_sock, offset from BTF.
    unsafe { Probe::read(sk, at::OFF_TP_TOTAL_RETRANS()) }
}

/// Removes the entry of `socket`.
#[inline(always)]
pub fn remove(socket: u64, conn: *mut Conn) {
    // SAFETY: points into the map.
    let (slot, handover) = unsafe { ((*conn).slot, (*conn).handover) };
    if CONNECTIONS.remove(socket).is_ok() {
        if let Some(stats) = counters::stats() {
            // SAFETY: points into the map.
            add(unsafe { &raw mut (*stats).connections_removed }, 1);
        }
        gauges::release(slot);
        if handover != 0 {
            gauges::pass_on(slot, -1);
            gauges::release(handover as u32);
        }
    }
}

/// Ends the entry of a socket that no longer exists.
#[inline(always)]
pub fn end(socket: u64, conn: *mut Conn) {
    // SAFETY: points into the map; the socket is no longer reachable for other programs.
    unsafe {
        let state = (*conn).state;
        ownership::complete_handover(conn, state);
        if state != CLOSE {
            // The kernel skipped the program on the last transition; see `state::transition`.
            gauges::count_transition((*conn).slot, state, CLOSE);
        }
    }
    remove(socket, conn);
}
