//! Transitions of sockets without an entry, because the map of connections is full. They are counted
//! without a process, as lost.

use observer_common::{
    CLOSE, ESTABLISHED, LISTEN, SIGNAL_STATE, SLOT_UNATTRIBUTED, SYN_RECV, SYN_SENT,
};

use crate::{
    core::{attempts, fields::at, outcome::count_lost, read::Memory},
    tcp::{
        connect,
        gauges::{adjust_live, count_transition},
        state::close::count_error,
        time_wait::lookup,
    },
};

/// Counts a transition. The gauges leave the socket out, because its further transitions may not be
/// seen.
#[inline(always)]
pub fn transition<M: Memory>(sk: *const u8, timewait: *const u8, old: u8, new: u8) {
    count_transition(SLOT_UNATTRIBUTED, old, new);
    // SAFETY: a full socket, offset from BTF.
    let error = unsafe { M::read::<u32>(sk, at::OFF_SK_ERR()) };
    match (old, new) {
        // Of an earlier socket at this address.
        (LISTEN, _) => _ = attempts::take(sk),
        (CLOSE, SYN_SENT) => connect::untracked_started(sk),
        (SYN_SENT | SYN_RECV, ESTABLISHED) => connect::untracked_succeeded(sk, old),
        (SYN_SENT | SYN_RECV, CLOSE) => connect::untracked_failed(sk, old, error),
        (_, CLOSE) => count_error(SLOT_UNATTRIBUTED, old, error),
        _ => {}
    }
    if new == CLOSE {
        lookup::closed(sk, None, SLOT_UNATTRIBUTED, timewait);
    }
    if old != LISTEN || new == CLOSE {
        adjust_live(SLOT_UNATTRIBUTED, old, 1);
    }
    adjust_live(SLOT_UNATTRIBUTED, new, -1);
    count_lost(SIGNAL_STATE);
}
