//! RSTs received: `tp_btf/tcp_receive_reset`.
//!
//! An RST that may be this side's own abort is pending, per CPU, until an RST that is sent for the
//! same socket discards it, or the next received one counts it.

use aya_ebpf::{
    macros::{btf_tracepoint, tracepoint},
    programs::{BtfTracePointContext, TracePointContext},
};
use observer_common::{
    CLOSE, CONN_RESET_RECEIVED, FIN_WAIT1, FIN_WAIT2, PENDING_COMMITS, PENDING_NS,
    RECORD_RESET_RECEIVED, RESETS_RECEIVED, SIGNAL_RESET_RECEIVED,
};

use crate::{
    core::{
        clock::now,
        counters::{self, add, bounded},
        fields::at,
        outcome::{count_outcome, seen},
        read::{Direct, Memory, Probe},
        records,
    },
    tcp::{entry, ownership},
};

/// `RCV_SHUTDOWN` (`include/net/sock.h`).
const RCV_SHUTDOWN: u8 = 1;

#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn reset_received_tp_btf(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    on_received::<Direct>(sk);
    0
}

/// Offset of the field `skaddr` of `tcp:tcp_receive_reset`, which the daemon compares with its format.
const SKADDR: usize = 8;

/// The same on the classic tracepoint; see [`crate::tcp::state::state_tracepoint`].
#[tracepoint(category = "tcp", name = "tcp_receive_reset")]
pub fn reset_received_tracepoint(ctx: TracePointContext) -> u32 {
    // SAFETY: a field of the event.
    if let Ok(sk) = unsafe { ctx.read_at::<*const u8>(SKADDR) } {
        on_received::<Probe>(sk);
    }
    0
}

#[inline(always)]
fn on_received<M: Memory>(sk: *const u8) {
    // SAFETY: a full socket, offsets from BTF.
    let (state, shutdown) = unsafe {
        (
            M::read::<u8>(sk, at::OFF_SKC_STATE()),
            M::read::<u8>(sk, at::OFF_SK_SHUTDOWN()),
        )
    };
    commit_pending();
    if state == CLOSE {
        // `tcp_reset` ignores it too.
        return;
    }
    let conn = entry::get(sk as u64);
    let slot = ownership::of_entry_or_parent(conn, sk);
    if matches!(state, FIN_WAIT1 | FIN_WAIT2) && shutdown & RCV_SHUTDOWN != 0 {
        // When data arrives after close(), `tcp_rcv_state_process` calls `tcp_reset` and then
        // answers with an RST. Whether this is such a case is known when an RST is sent for the
        // same socket.
        if let Some(stats) = counters::stats() {
            // SAFETY: points into the map.
            unsafe {
                (*stats).pending_slot = slot;
                (*stats).pending_generation = counters::generation(slot);
                (*stats).pending_state = u32::from(state);
                (*stats).pending_ns = now();
                (*stats).pending_sk = sk as u64;
            }
        }
        return;
    }
    if let Some(conn) = conn {
        // SAFETY: points into the map.
        unsafe { (*conn).flags |= CONN_RESET_RECEIVED };
    }
    count_received(slot, state);
    let conn = conn.map_or(core::ptr::null(), |conn| conn.cast_const());
    records::write(RECORD_RESET_RECEIVED, sk, conn, slot, |record| {
        record.from = state;
        record.reason = u32::from(state);
    });
}

#[inline(always)]
fn count_received(slot: u32, state: u8) {
    seen(SIGNAL_RESET_RECEIVED);
    count_outcome(SIGNAL_RESET_RECEIVED, slot);
    let Some(index) = bounded(usize::from(state), RESETS_RECEIVED) else {
        return;
    };
    if let Some(counters) = counters::slot(slot) {
        // SAFETY: points into the map; the index was checked.
        unsafe {
            add(
                (&raw mut (*counters).reset.received)
                    .cast::<u64>()
                    .add(index),
                1,
            )
        };
    }
}

/// Counts the pending RST as received: no RST was sent for the same socket.
#[inline(always)]
fn commit_pending() {
    let Some(stats) = counters::stats() else {
        return;
    };
    // SAFETY: points into the map.
    unsafe {
        // The daemon reads again what it has read meanwhile, so that it finds the RST in one of both places.
        let pending_sk = &raw mut (*stats).pending_sk;
        if matches!(*pending_sk, 0 | PENDING_COMMITS) {
            return;
        }
        pending_sk.write_volatile(PENDING_COMMITS);
        let slot = (*stats).pending_slot;
        if counters::generation(slot) == (*stats).pending_generation {
            count_received(slot, (*stats).pending_state as u8);
        } else {
            // The process has exited. When the daemon added up its slot, it included the pending
            // RST.
            seen(SIGNAL_RESET_RECEIVED);
            count_outcome(SIGNAL_RESET_RECEIVED, slot);
        }
        pending_sk.write_volatile(0);
    }
}

/// An RST is sent for `sk`. A recent pending one for it was this side's own abort, which has closed
/// the socket (`tcp_done`). If the socket is not closed, or the pending one is older, it came from
/// the peer, for this or an earlier socket at the same address.
#[inline(always)]
pub fn forget_pending(sk: *const u8, state: u8) {
    let Some(stats) = counters::stats() else {
        return;
    };
    // SAFETY: points into the map.
    unsafe {
        if (*stats).pending_sk != sk as u64 {
            return;
        }
        if state != CLOSE || now().saturating_sub((*stats).pending_ns) > PENDING_NS {
            commit_pending();
        } else {
            (*stats).pending_sk = 0;
        }
    }
}
