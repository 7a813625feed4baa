//! Retransmitted segments: `tp_btf/tcp_retransmit_skb`. Includes retransmitted SYNs and
//! tail-loss probes, not zero-window probes.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use observer_common::SIGNAL_RETRANSMIT;

use crate::{
    core::{
        counters::{self, add},
        fields::RETRANSMIT_HAS_ERROR,
        outcome::{count_outcome, seen},
    },
    tcp::{entry, ownership},
};

#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn retransmit_tp_btf(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    if RETRANSMIT_HAS_ERROR.load() != 0 {
        // Since 6.15 the tracepoint also fires for a segment that could not be sent.
        let error: i32 = ctx.arg(2);
        if error != 0 {
            return 0;
        }
    }
    on_retransmit(sk);
    0
}

#[inline(always)]
fn on_retransmit(sk: *const u8) {
    seen(SIGNAL_RETRANSMIT);
    let conn = entry::get(sk as u64);
    if let Some(conn) = conn {
        // SAFETY: points into the map.
        unsafe { (*conn).retransmits = (*conn).retransmits.saturating_add(1) };
    }
    let slot = ownership::of_entry_or_parent(conn, sk);
    count_outcome(SIGNAL_RETRANSMIT, slot);
    if let Some(counters) = counters::slot(slot) {
        // SAFETY: points into the map.
        add(unsafe { &raw mut (*counters).retransmit.segments }, 1);
    }
}
