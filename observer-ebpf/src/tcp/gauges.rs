//! Counters of a slot about its sockets: transitions, from which the daemon derives the live
//! sockets by state, adjustments to those, and the number of entries that point to the slot.

use observer_common::{CLOSE, LISTEN, SLOT_UNATTRIBUTED, STATES};

use crate::core::{
    counters::{self, add, adjust, bounded},
    fields::{CONNECTIONS_SHARE, UNATTRIBUTED_SHARE},
};

/// Adds to the live sockets in `state` of `slot` ([`observer_common::StateCounters::adjust`]).
#[inline(always)]
pub fn adjust_live(slot: u32, state: u8, by: i64) {
    let Some(state) = bounded(usize::from(state), STATES) else {
        return;
    };
    if let Some(slot) = counters::slot(slot) {
        // SAFETY: points into the map; the index was checked.
        adjust(
            unsafe { (&raw mut (*slot).state.adjust).cast::<i64>().add(state) },
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
            unsafe {
                (&raw mut (*slot).state.transitions)
                    .cast::<u64>()
                    .add(index)
            },
            1,
        );
    }
}

/// Number of sockets of `slot` in LISTEN.
#[inline(always)]
pub fn listening(slot: u32) -> i64 {
    const CLOSED: usize = CLOSE as usize;
    const LISTENING: usize = LISTEN as usize;
    let Some(slot) = counters::slot(slot) else {
        return 0;
    };
    // SAFETY: points into the map.
    unsafe {
        let state = &raw const (*slot).state;
        let opened = (*state).transitions[CLOSED][LISTENING];
        let closed = (*state).transitions[LISTENING][CLOSED];
        opened.wrapping_sub(closed).cast_signed() + (*state).adjust[LISTENING]
    }
}

/// How many entries `slot` may have in the map of connections, and as many in that of timewait sockets,
/// which has the same size. A socket that is refused for that has no entry, and at its next transition
/// it looks like one without an owner, so these have a share, too.
#[inline(always)]
pub fn share(slot: u32) -> i64 {
    match slot {
        SLOT_UNATTRIBUTED => UNATTRIBUTED_SHARE.load(),
        _ => CONNECTIONS_SHARE.load(),
    }
    .cast_signed()
}

/// Whether `slot` has fewer sockets than its share of the map of connections.
#[inline(always)]
pub fn may_hold(slot: u32) -> bool {
    let share = share(slot);
    // SAFETY: points into the map.
    counters::slot(slot).is_none_or(|slot| unsafe { (*slot).sockets - (*slot).passed_on < share })
}

/// Adds an entry that points to `slot`. The slot is not freed while it has any.
#[inline(always)]
pub fn hold(slot: u32) {
    if let Some(slot) = counters::slot(slot) {
        // SAFETY: points into the map.
        adjust(unsafe { &raw mut (*slot).sockets }, 1);
    }
}

/// Removes an entry that points to `slot`.
#[inline(always)]
pub fn release(slot: u32) {
    if let Some(slot) = counters::slot(slot) {
        // SAFETY: points into the map.
        adjust(unsafe { &raw mut (*slot).sockets }, -1);
    }
}

/// Adds to the entries that point to `slot` although their sockets were handed over to another process.
#[inline(always)]
pub fn pass_on(slot: u32, by: i64) {
    if let Some(slot) = counters::slot(slot) {
        // SAFETY: points into the map.
        adjust(unsafe { &raw mut (*slot).passed_on }, by);
    }
}
