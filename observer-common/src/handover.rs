//! What a change of owner does to the gauges, as arithmetic. The order of the memory
//! accesses around it is the kernel side's, observer-ebpf/src/connections.rs; see
//! [`Conn::handover`](crate::Conn::handover) for the protocol.
//!
//! Functions of plain numbers, not a plan in a struct: LLVM copied the code behind an
//! `Option` of such a plan, and the accept program grew by a tenth.

/// Packs a hand-over; see [`Conn::handover`](crate::Conn::handover).
#[must_use]
#[inline(always)]
pub const fn pack_handover(slot: u32, state: u8) -> u64 {
    ((state as u64) << 32) | slot as u64
}

/// The inverse of [`pack_handover`].
#[must_use]
#[inline(always)]
pub const fn unpack_handover(handover: u64) -> (u32, u8) {
    (handover as u32, (handover >> 32) as u8)
}

/// The slot that owns the socket now, hand-overs included.
#[must_use]
#[inline(always)]
pub const fn owner_of(slot: u32, handover: u64) -> u32 {
    if handover == 0 { slot } else { handover as u32 }
}

/// The state that a hand-over is booked in when the socket seems to be in `state`: where
/// one is not settled yet, the state of that one, so that settling corrects both.
#[must_use]
#[inline(always)]
pub const fn adjusted_state(handover: u64, state: u8) -> u8 {
    if handover == 0 {
        state
    } else {
        unpack_handover(handover).1
    }
}

/// Books a hand-over. `adjust` adds a number to [`Slot::adjust`](crate::Slot::adjust) of a
/// slot and a state.
#[inline(always)]
pub fn adjust_for_handover(from: u32, to: u32, adjusted: u8, mut adjust: impl FnMut(u32, u8, i64)) {
    adjust(from, adjusted, -1);
    adjust(to, adjusted, 1);
}

/// Corrects a hand-over that was booked in `booked` of a socket that is in `state`.
#[inline(always)]
pub fn correct_handover(
    from: u32,
    to: u32,
    adjusted: u8,
    state: u8,
    mut adjust: impl FnMut(u32, u8, i64),
) {
    if adjusted != state {
        adjust(from, adjusted, 1);
        adjust(to, adjusted, -1);
        adjust(from, state, -1);
        adjust(to, state, 1);
    }
}

/// Books a hand-over anew that is not settled and was booked in another state than the socket is
/// in: a transition came between the two. Returns the hand-over as it is then.
#[inline(always)]
pub fn readjust_handover(
    slot: u32,
    handover: u64,
    state: u8,
    adjust: impl FnMut(u32, u8, i64),
) -> u64 {
    if handover == 0 {
        return 0;
    }
    let (to, adjusted) = unpack_handover(handover);
    correct_handover(slot, to, adjusted, state, adjust);
    pack_handover(to, state)
}

#[cfg(test)]
#[path = "handover_tests.rs"]
mod tests;
