//! The entry of a socket: made at its birth (or when a socket older than the daemon is
//! first met), dropped when the socket is destroyed.

use observer_common::{CLOSE, CONN_SEEDED, Conn, MAP_CONNECTIONS, TIMED_STATES};

use crate::{
    core::{
        counters::{self, add},
        maps::{BPF_NOEXIST, CONNECTIONS},
        outcome,
    },
    tcp::{gauges, ownership},
};

/// The entry of `socket`.
#[inline(always)]
pub fn get(socket: u64) -> Option<*mut Conn> {
    CONNECTIONS.get_ptr_mut(socket)
}

/// What became of an insertion.
pub enum Inserted {
    /// There is an entry now.
    New,
    /// There was one already.
    Known,
    /// The map is full, which is counted.
    Full,
}

/// Makes an entry for `socket` in `state`, owned by `slot`, and holds the slot.
/// `None` when the map is full, which is counted.
#[inline(always)]
pub fn create(socket: u64, slot: u32, flags: u16, state: u8, time: u64) -> Option<*mut Conn> {
    match insert(socket, slot, flags, state, state, time) {
        // -EEXIST: an event of this socket was faster; its entry is as good.
        Inserted::New | Inserted::Known => get(socket),
        Inserted::Full => None,
    }
}

/// The same for a socket that has come to `state` from `previous`.
#[inline(always)]
pub fn insert(socket: u64, slot: u32, flags: u16, previous: u8, state: u8, time: u64) -> Inserted {
    let conn = Conn {
        slot,
        flags,
        state,
        previous,
        born_ns: time,
        entered_ns: time,
        handover: 0,
        epoch: 0,
        retransmits: 0,
        accepted: 0,
        error: 0,
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
                        // That was another socket at this address.
                        (*stats).destroyed_sk = 0;
                    }
                }
            }
            Inserted::New
        }
        // -EEXIST.
        Err(-17) => Inserted::Known,
        Err(_) => {
            outcome::map_full(MAP_CONNECTIONS);
            Inserted::Full
        }
    }
}

/// Makes an entry for a live socket whose birth was not seen: it is in `state` already, so
/// the gauges of its owner are adjusted for it.
#[inline(always)]
pub fn seed(socket: u64, slot: u32, state: u8, time: u64) -> Option<*mut Conn> {
    match insert(socket, slot, CONN_SEEDED, state, state, time) {
        Inserted::New => {}
        // Whoever was faster has adjusted the gauges.
        Inserted::Known => return get(socket),
        Inserted::Full => return None,
    }
    gauges::adjust_live(slot, state, 1);
    if let Some(slot) = counters::slot(slot) {
        // SAFETY: points into the map.
        add(unsafe { &raw mut (*slot).seeded }, 1);
    }
    get(socket)
}

/// Drops the entry of `socket`.
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
            gauges::release(handover as u32);
        }
    }
}

/// Drops an entry whose socket is gone.
#[inline(always)]
pub fn end(socket: u64, conn: *mut Conn) {
    // SAFETY: points into the map; the socket is no longer reachable for other programs.
    unsafe {
        let state = (*conn).state;
        ownership::settle_handover(conn, state);
        if state != CLOSE {
            // The last transition was skipped; see `transition`.
            gauges::count_transition((*conn).slot, state, CLOSE);
        }
    }
    remove(socket, conn);
}
