//! Retransmitted segments, from the socket's own count (`total_retrans`): read at `tp_btf/tcp_retransmit_skb`, and at the
//! end of the connection for retransmissions that the tracepoint does not report. The kernel skips programs, and before 6.15
//! the tracepoint does not fire for a segment that could not be sent, which RetransSegs contains (`__tcp_retransmit_skb`).
//!
//! Includes retransmitted SYNs and tail-loss probes, not SYN-ACKs and zero-window probes.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use observer_common::{Conn, SIGNAL_RETRANSMIT};

use crate::{
    core::{
        counters::{self, add},
        fields::has,
        outcome::{count_outcomes, seen_many},
    },
    tcp::{entry, ownership},
};

#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn retransmit_tp_btf(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    match entry::get(sk as u64) {
        Some(conn) if has::OFF_TP_TOTAL_RETRANS() => {
            catch_up(sk, conn, ownership::of_entry(conn));
        }
        conn => count(ownership::of_entry_or_parent(conn, sk), 1),
    }
    0
}

/// Counts what the socket `sk` has retransmitted since its entry `conn` was last up to date.
#[inline(always)]
pub fn catch_up(sk: *const u8, conn: *mut Conn, slot: u32) {
    if !has::OFF_TP_TOTAL_RETRANS() {
        return;
    }
    // SAFETY: points into the map.
    let new = unsafe {
        let total = entry::retransmitted(sk);
        let new = total.wrapping_sub((*conn).retransmits);
        (*conn).retransmits = total;
        new
    };
    if new != 0 {
        count(slot, u64::from(new));
    }
}

#[inline(always)]
fn count(slot: u32, segments: u64) {
    seen_many(SIGNAL_RETRANSMIT, segments);
    count_outcomes(SIGNAL_RETRANSMIT, slot, segments);
    if let Some(counters) = counters::slot(slot) {
        // SAFETY: points into the map.
        add(
            unsafe { &raw mut (*counters).retransmit.segments },
            segments,
        );
    }
}
