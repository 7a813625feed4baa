//! Sockets in TIME_WAIT.

pub mod exact;
pub mod inferred;

use observer_common::{Conn, RECORD_TIME_WAIT, SIGNAL_TIME_WAIT, TIME_WAIT};

use crate::core::{
    counters::{self, add},
    outcome::{count_outcome, seen},
    records,
};

/// Counts an entry into TIME_WAIT in `substate`.
#[inline(always)]
pub fn count_entered(slot: u32, substate: u8) {
    seen(SIGNAL_TIME_WAIT);
    count_outcome(SIGNAL_TIME_WAIT, slot);
    if let Some(counters) = counters::slot(slot) {
        let index = usize::from(substate != TIME_WAIT);
        // SAFETY: points into the map; the index is that of one of two elements.
        unsafe {
            add(
                (&raw mut (*counters).time_wait.entered)
                    .cast::<u64>()
                    .add(index),
                1,
            )
        };
    }
}

#[inline(always)]
pub fn write_record(sk: *const u8, conn: *const Conn, slot: u32, substate: u8) {
    records::write(RECORD_TIME_WAIT, sk, conn, slot, |record| {
        record.to = substate;
    });
}
