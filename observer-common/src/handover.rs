//! Adjustments of the gauges when a socket changes its owner. The memory accesses around them, and
//! their order, are in observer-ebpf/src/tcp/ownership.rs;
//! [`Conn::handover`](crate::Conn::handover) describes the protocol.
//!
//! Functions of numbers, without a struct: with an `Option` of a struct, LLVM duplicated the code
//! behind it, and the accept program grew by a tenth.

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

/// The slot of the owner, including a hand-over that is not completed.
#[must_use]
#[inline(always)]
pub const fn owner_of(slot: u32, handover: u64) -> u32 {
    if handover == 0 { slot } else { handover as u32 }
}

/// The state in which the gauges are to be adjusted for a hand-over of a socket in `state`. If an
/// earlier hand-over is not completed, the state of that one, so that completion corrects both.
#[must_use]
#[inline(always)]
pub const fn adjusted_state(handover: u64, state: u8) -> u8 {
    if handover == 0 {
        state
    } else {
        unpack_handover(handover).1
    }
}

/// Moves a socket from the gauges of one slot to those of another, in the state `adjusted`. `adjust`
/// adds to [`StateCounters::adjust`](crate::StateCounters::adjust) of a slot and a state.
#[inline(always)]
pub fn adjust_for_handover(from: u32, to: u32, adjusted: u8, mut adjust: impl FnMut(u32, u8, i64)) {
    adjust(from, adjusted, -1);
    adjust(to, adjusted, 1);
}

/// Corrects the gauges after a hand-over that adjusted them in the state `adjusted`, of a socket that
/// is in `state`.
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

/// Corrects the gauges for a hand-over that is not completed, if it adjusted them in another state
/// than the socket is in, because of a concurrent transition. Returns the new value of the hand-over.
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
