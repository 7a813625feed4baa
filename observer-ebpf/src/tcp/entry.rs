//! The entry of a socket: made at its birth (or when a socket older than the daemon is
//! first met), dropped when the socket is destroyed.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use observer_common::{
    CLOSE, CONN_PARENT, CONN_SEEDED, Conn, MAP_CONNECTIONS, SLOT_UNATTRIBUTED, STATES,
    TIMED_STATES, book_handover, booked_state, correct_handover, owner_of, pack_handover,
    rebook_handover, unpack_handover,
};

use crate::core::{
    counters::{self, add, adjust, bounded},
    maps::{BPF_NOEXIST, CONNECTIONS},
    outcome,
};

/// Now, on the clock of all records.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper takes no arguments.
    unsafe { bpf_ktime_get_ns() }
}

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
            hold(slot);
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
    adjust_live(slot, state, 1);
    if let Some(slot) = counters::slot(slot) {
        // SAFETY: points into the map.
        add(unsafe { &raw mut (*slot).seeded }, 1);
    }
    get(socket)
}

/// Adds to the live sockets in `state` of `slot`.
#[inline(always)]
pub fn adjust_live(slot: u32, state: u8, by: i64) {
    let Some(state) = bounded(usize::from(state), STATES) else {
        return;
    };
    if let Some(slot) = counters::slot(slot) {
        // SAFETY: points into the map; the index was checked.
        adjust(
            unsafe { (&raw mut (*slot).adjust).cast::<i64>().add(state) },
            by,
        );
    }
}

/// Counts a transition of a socket of `slot`.
#[inline(always)]
pub fn count_transition(slot: u32, old: u8, new: u8) {
    let index = usize::from(old) * STATES + usize::from(new);
    let Some(index) = bounded(index, STATES * STATES) else {
        return;
    };
    if let Some(slot) = counters::slot(slot) {
        // SAFETY: points into the map; the index was bounded.
        add(
            unsafe { (&raw mut (*slot).transitions).cast::<u64>().add(index) },
            1,
        );
    }
}

/// Notes one more entry that points to `slot`.
#[inline(always)]
pub fn hold(slot: u32) {
    if let Some(slot) = counters::slot(slot) {
        // SAFETY: points into the map.
        adjust(unsafe { &raw mut (*slot).sockets }, 1);
    }
}

/// Notes one entry less that points to `slot`.
#[inline(always)]
pub fn release(slot: u32) {
    if let Some(slot) = counters::slot(slot) {
        // SAFETY: points into the map.
        adjust(unsafe { &raw mut (*slot).sockets }, -1);
    }
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
        hold(to);
        // SAFETY: as above.
        unsafe { (*conn).slot = to };
        release(from);
        return;
    }
    let booked = booked_state(handover, state);
    hold(to);
    book_handover(from, to, booked, adjust_live);
    // SAFETY: as above; one aligned 64-bit store.
    unsafe { (&raw mut (*conn).handover).write_volatile(pack_handover(to, booked)) };
    if handover != 0 {
        release(from);
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
    release(from);
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
        release(slot);
        if handover != 0 {
            release(handover as u32);
        }
    }
}

/// Drops an entry whose socket is gone.
#[inline(always)]
pub fn end(socket: u64, conn: *mut Conn) {
    // SAFETY: points into the map; the socket is no longer reachable for other programs.
    unsafe {
        let state = (*conn).state;
        settle_handover(conn, state);
        if state != CLOSE {
            // The last transition was skipped; see `transition`.
            count_transition((*conn).slot, state, CLOSE);
        }
    }
    remove(socket, conn);
}
