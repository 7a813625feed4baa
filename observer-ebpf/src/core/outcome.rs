//! Outcome of each event: `seen` is counted when a hook fires, and then exactly one of `counted`,
//! `unattributed` and `lost`.

use aya_log_ebpf::debug;
use observer_common::{SLOT_OVERFLOW, SLOT_UNATTRIBUTED};

use crate::core::counters::{add, stats};

/// Counts an event of `signal`.
#[inline(always)]
pub fn seen(signal: u32) {
    seen_many(signal, 1);
}

/// Counts events of `signal`.
#[inline(always)]
pub fn seen_many(signal: u32, events: u64) {
    if let Some(stats) = stats() {
        // SAFETY: `stats` points into the map; `signal` is one of the `SIGNAL_` constants.
        add(
            unsafe { &raw mut (*stats).outcomes[signal as usize].seen },
            events,
        );
    }
}

/// Counts the outcome of an event that was counted for `slot`: called once for each [`seen`].
#[inline(always)]
pub fn count_outcome(signal: u32, slot: u32) {
    count_outcomes(signal, slot, 1);
}

/// Counts the outcomes of events that were counted for `slot`: called once for each [`seen_many`].
#[inline(always)]
pub fn count_outcomes(signal: u32, slot: u32, events: u64) {
    let Some(stats) = stats() else { return };
    // SAFETY: as in `seen_many`.
    let outcomes = unsafe { &raw mut (*stats).outcomes[signal as usize] };
    // SAFETY: within the map value.
    let counter = unsafe {
        match slot {
            SLOT_UNATTRIBUTED => &raw mut (*outcomes).unattributed,
            SLOT_OVERFLOW => &raw mut (*outcomes).lost,
            _ => &raw mut (*outcomes).counted,
        }
    };
    add(counter, events);
}

/// Counts an event that could not be counted for its process because a map was full.
#[inline(always)]
pub fn count_lost(signal: u32) {
    count_outcome(signal, SLOT_OVERFLOW);
}

/// Counts an insertion that `map` (a `MAP_` constant) refused.
#[inline(always)]
pub fn map_full(map: u32) {
    debug!(&(), "map {} is full", map);
    if let Some(stats) = stats() {
        // SAFETY: `stats` points into the map; `map` is one of the `MAP_` constants.
        add(unsafe { &raw mut (*stats).map_full[map as usize] }, 1);
    }
}
