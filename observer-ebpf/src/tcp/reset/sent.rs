//! RSTs sent: `tp_btf/tcp_send_reset`.
//!
//! Counted by the kernel's reason (6.10 and later) if it is specific, otherwise by a class from the
//! socket's fields. Before 6.10 the tracepoint fires for full sockets only; hooks on
//! `tcp_v4_send_reset` and `tcp_v6_send_reset` count the other RSTs.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, kprobe, tracepoint},
    programs::{BtfTracePointContext, FEntryContext, ProbeContext, TracePointContext},
};
use observer_common::{
    LISTEN, NEW_SYN_RECV, RECORD_RESET_SENT, RESET_CLASSES_FROM, RESET_LISTENER, RESET_NO_SOCKET,
    RESET_UNREAD_AFTER_SHUTDOWN, RESETS_SENT, SIGNAL_RESET_SENT, SLOT_NO_SOCKET, TIME_WAIT,
};

use crate::{
    core::{
        counters::{self, add, bounded},
        fields::{REASON_NOT_SPECIFIED, REASON_TCP_STATE, RESET_HAS_REASON, at},
        outcome::{count_outcome, seen},
        read::{Direct, Memory, Probe},
        records, segment,
    },
    tcp::reset::{
        class::{self, Sent},
        sources,
    },
};

/// The flag RST in a TCP header.
const TCP_RST: u8 = 0x04;

#[btf_tracepoint(function = "tcp_send_reset")]
pub fn reset_sent_tp_btf(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    let skb: *const u8 = ctx.arg(1);
    let reason = if RESET_HAS_REASON.load() != 0 {
        ctx.arg::<u32>(2)
    } else {
        REASON_NOT_SPECIFIED.load()
    };
    on_sent::<Direct>(sk, skb, reason);
    0
}

/// Offsets of the fields of `tcp:tcp_send_reset`, which the daemon compares with its format.
const SKBADDR: usize = 8;
const SKADDR: usize = 16;
const REASON: usize = 28;

/// The same on the classic tracepoint; see [`crate::tcp::state::state_tracepoint`].
#[tracepoint(category = "tcp", name = "tcp_send_reset")]
pub fn reset_sent_tracepoint(ctx: TracePointContext) -> u32 {
    // SAFETY: fields of the event.
    let fields = unsafe {
        (
            ctx.read_at::<*const u8>(SKADDR),
            ctx.read_at::<*const u8>(SKBADDR),
            ctx.read_at::<u32>(REASON),
        )
    };
    if let (Ok(sk), Ok(skb), Ok(reason)) = fields {
        on_sent::<Probe>(sk, skb, reason);
    }
    0
}

#[fentry(function = "tcp_v4_send_reset")]
pub fn reset_v4_fentry(ctx: FEntryContext) -> i32 {
    on_answer(ctx.arg(0), ctx.arg(1));
    0
}

#[fentry(function = "tcp_v6_send_reset")]
pub fn reset_v6_fentry(ctx: FEntryContext) -> i32 {
    on_answer(ctx.arg(0), ctx.arg(1));
    0
}

#[kprobe]
pub fn reset_v4_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(skb)) = (ctx.arg(0), ctx.arg(1)) {
        on_answer(sk, skb);
    }
    0
}

#[kprobe]
pub fn reset_v6_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(skb)) = (ctx.arg(0), ctx.arg(1)) {
        on_answer(sk, skb);
    }
    0
}

/// A segment is answered with an RST. Counts it if the tracepoint does not fire for it.
#[inline(always)]
fn on_answer(sk: *const u8, skb: *const u8) {
    if !sk.is_null() {
        // SAFETY: struct sock_common is the head of every kind of socket.
        let state = unsafe { Probe::read::<u8>(sk, at::OFF_SKC_STATE()) };
        if state != TIME_WAIT && state != NEW_SYN_RECV {
            return;
        }
    }
    // Both functions return early for an RST, which is never answered (RFC 9293, section
    // 3.10.7.1).
    if segment::of::<Probe>(skb).is_some_and(|it| it.flags() & TCP_RST != 0) {
        return;
    }
    on_sent::<Probe>(sk, skb, REASON_NOT_SPECIFIED.load());
}

#[inline(always)]
fn on_sent<M: Memory>(sk: *const u8, skb: *const u8, reason: u32) {
    let answers_segment = !skb.is_null();
    seen(SIGNAL_RESET_SENT);
    let mut sent = Sent {
        slot: SLOT_NO_SOCKET,
        class: RESET_NO_SOCKET,
        full: core::ptr::null(),
        conn: core::ptr::null_mut(),
        state: 0,
    };
    if !sk.is_null() {
        // SAFETY: struct sock_common is the head of every kind of socket.
        sent.state = unsafe { M::read::<u8>(sk, at::OFF_SKC_STATE()) };
        match sent.state {
            TIME_WAIT => class::of_time_wait(sk, &mut sent),
            NEW_SYN_RECV => class::of_request(sk, &mut sent),
            _ => class::of_full_socket::<M>(sk, answers_segment, reason, &mut sent),
        }
    }
    // A listener refuses requests with several reasons, none of which is specific to listeners, and close() with
    // unread data has one reason in all states.
    let specific = sent.class != RESET_LISTENER
        && sent.class != RESET_UNREAD_AFTER_SHUTDOWN
        && reason < RESET_CLASSES_FROM
        && reason != REASON_NOT_SPECIFIED.load()
        && reason != REASON_TCP_STATE.load();
    let index = if specific { reason } else { sent.class };
    count_outcome(SIGNAL_RESET_SENT, sent.slot);
    if sk.is_null() && answers_segment {
        sources::note::<M>(skb);
    }
    let Some(checked) = bounded(index as usize, RESETS_SENT) else {
        return;
    };
    if let Some(counters) = counters::slot(sent.slot) {
        // SAFETY: points into the map; the index was checked.
        unsafe {
            add(
                (&raw mut (*counters).reset.sent).cast::<u64>().add(checked),
                1,
            )
        };
    }
    records::write(
        RECORD_RESET_SENT,
        sent.full,
        sent.conn,
        sent.slot,
        |record| {
            record.from = sent.state;
            record.reason = index;
            // A listener has no address of the peer.
            if answers_segment && (sk.is_null() || sent.state == LISTEN) {
                records::segment_address::<M>(skb, record);
            } else if !sk.is_null() && sent.full.is_null() {
                records::common_address(sk, record);
            }
        },
    );
}
