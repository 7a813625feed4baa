//! RSTs: `tp_btf/tcp_send_reset` and `tp_btf/tcp_receive_reset`.
//!
//! What is sent is counted by the kernel's reason (6.10 and later) where that says
//! something; where there is none, or only `TCP_STATE`, it is classified from the socket's
//! fields. Before 6.10 the send tracepoint fires for full sockets only; there,
//! `tcp_v4_send_reset` and `tcp_v6_send_reset` tell of the rest.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, kprobe},
    programs::{BtfTracePointContext, FEntryContext, ProbeContext},
};
use observer_common::{
    CLOSE, CLOSE_WAIT, CLOSING, CONN_RESET_RECEIVED, CONN_RESET_SENT, FIN_WAIT1, FIN_WAIT2,
    LAST_ACK, LISTEN, NEW_SYN_RECV, PENDING_NS, RECORD_RESET_RECEIVED, RECORD_RESET_SENT,
    RESET_ABORTED, RESET_CLASSES_FROM, RESET_DATA_AFTER_CLOSE, RESET_DISCONNECT,
    RESET_INVALID_SEGMENT, RESET_KEEPALIVE, RESET_LINGER_ZERO, RESET_LISTENER, RESET_NO_SOCKET,
    RESET_ORPHAN, RESET_OTHER, RESET_TIME_WAIT, RESET_UNACCEPTED, RESET_UNREAD_DATA,
    RESETS_RECEIVED, RESETS_SENT, SIGNAL_RESET_RECEIVED, SIGNAL_RESET_SENT, SLOT_NO_SOCKET,
    SLOT_UNATTRIBUTED, TIME_WAIT,
};

use crate::{
    core::{
        clock::now,
        counters::{self, add, bounded},
        fields::{
            REASON_NOT_SPECIFIED, REASON_TCP_STATE, RESET_HAS_REASON, TIME_WAIT_EXACT, at, has,
        },
        maps::TIME_WAITS,
        outcome::{seen, settle},
        read::{Direct, Memory, Probe},
        records,
        socket::{SOCK_DEAD, SOCK_KEEPOPEN, SOCK_LINGER},
    },
    tcp::{entry, ownership, time_wait::inferred},
};

/// `RCV_SHUTDOWN` and `SHUTDOWN_MASK` (`include/net/sock.h`).
const RCV_SHUTDOWN: u8 = 1;
const SHUTDOWN_MASK: u8 = 3;
/// Where a TCP header has its flags, and the one for RST.
const TCP_FLAGS: usize = 13;
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

#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn reset_received_tp_btf(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    on_received::<Direct>(sk);
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

/// A segment is to be answered with an RST: counts those that the tracepoint is silent about.
#[inline(always)]
fn on_answer(sk: *const u8, skb: *const u8) {
    if !sk.is_null() {
        // SAFETY: struct sock_common is the head of every kind of socket.
        let state = unsafe { Probe::read::<u8>(sk, at::OFF_SKC_STATE()) };
        if state != TIME_WAIT && state != NEW_SYN_RECV {
            return;
        }
    }
    if has::OFF_SKB_HEAD() && has::OFF_SKB_TRANSPORT() {
        // An RST is never answered (RFC 9293, section 3.10.7.1): both functions return then.
        // SAFETY: an sk_buff from the kernel, offsets from its BTF; in the header, the byte
        // of the flags.
        let flags = unsafe {
            let head = Probe::read::<u64>(skb, at::OFF_SKB_HEAD()) as *const u8;
            let transport = usize::from(Probe::read::<u16>(skb, at::OFF_SKB_TRANSPORT()));
            Probe::read::<u8>(head, transport + TCP_FLAGS)
        };
        if flags & TCP_RST != 0 {
            return;
        }
    }
    on_sent::<Probe>(sk, skb, REASON_NOT_SPECIFIED.load());
}

/// Whose socket an RST was sent for, and how to count it when the kernel gives no reason.
struct Sent {
    slot: u32,
    class: u32,
    /// The socket, if it is a full one.
    full: *const u8,
    conn: *mut observer_common::Conn,
    state: u8,
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
            TIME_WAIT => of_time_wait::<M>(sk, &mut sent),
            NEW_SYN_RECV => of_request(sk, &mut sent),
            _ => of_full_socket::<M>(sk, answers_segment, reason, &mut sent),
        }
    }
    let specific = reason < RESET_CLASSES_FROM
        && reason != REASON_NOT_SPECIFIED.load()
        && reason != REASON_TCP_STATE.load();
    let index = if specific { reason } else { sent.class };
    settle(SIGNAL_RESET_SENT, sent.slot);
    let Some(checked) = bounded(index as usize, RESETS_SENT) else {
        return;
    };
    if let Some(counters) = counters::slot(sent.slot) {
        // SAFETY: points into the map; the index was checked.
        unsafe {
            add(
                (&raw mut (*counters).resets_sent)
                    .cast::<u64>()
                    .add(checked),
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
            if sk.is_null() {
                if answers_segment {
                    records::segment_address(skb, record);
                }
            } else if sent.full.is_null() {
                records::common_address(sk, record);
            }
        },
    );
}

/// A segment for a timewait socket: the owner is found through the cookie, which the
/// timewait socket took over.
#[inline(always)]
fn of_time_wait<M: Memory>(sk: *const u8, sent: &mut Sent) {
    sent.slot = SLOT_UNATTRIBUTED;
    sent.class = RESET_TIME_WAIT;
    if has::OFF_TW_SUBSTATE() {
        // SAFETY: an inet_timewait_sock, offset from BTF.
        if unsafe { Probe::read::<u8>(sk, at::OFF_TW_SUBSTATE()) } == FIN_WAIT2 {
            // Closed here, not yet by the peer, which is still sending.
            sent.class = RESET_DATA_AFTER_CLOSE;
        }
    }
    if TIME_WAIT_EXACT.load() != 0 {
        if let Some(entry) = TIME_WAITS.get_ptr(sk as u64) {
            // SAFETY: points into the map.
            let (slot, generation) = unsafe { ((*entry).slot, (*entry).generation) };
            attribute(sent, slot, generation);
        }
        return;
    }
    if !has::OFF_SKC_COOKIE() {
        return;
    }
    // SAFETY: struct sock_common is the head of a timewait socket too.
    let cookie = unsafe { M::read::<u64>(sk, at::OFF_SKC_COOKIE()) };
    if let Some((slot, generation)) = inferred::owner_by_cookie(cookie) {
        attribute(sent, slot, generation);
    }
}

/// Notes the owner, unless its process is gone and the slot is another one's.
#[inline(always)]
fn attribute(sent: &mut Sent, slot: u32, generation: u32) {
    if counters::generation(slot) == generation {
        sent.slot = slot;
    }
}

/// A segment for a connection that is not yet established: it is the listener's.
#[inline(always)]
fn of_request(sk: *const u8, sent: &mut Sent) {
    sent.slot = SLOT_UNATTRIBUTED;
    sent.class = RESET_INVALID_SEGMENT;
    if has::OFF_REQ_LISTENER() {
        // SAFETY: a request_sock, offset from BTF.
        let listener = unsafe { Probe::read::<u64>(sk, at::OFF_REQ_LISTENER()) };
        sent.slot = ownership::of_socket(listener).unwrap_or(SLOT_UNATTRIBUTED);
    }
}

#[inline(always)]
fn of_full_socket<M: Memory>(sk: *const u8, answers_segment: bool, reason: u32, sent: &mut Sent) {
    sent.full = sk;
    let mut previous = sent.state;
    match entry::get(sk as u64) {
        Some(conn) => {
            // SAFETY: points into the map.
            unsafe {
                (*conn).flags |= CONN_RESET_SENT;
                previous = (*conn).previous;
            }
            sent.slot = ownership::of_entry(conn);
            sent.conn = conn;
        }
        None => {
            sent.slot = ownership::through_parent(sk);
            if let Some(stats) = counters::stats() {
                // SAFETY: points into the map.
                unsafe {
                    let slot = (*stats).destroyed_slot;
                    if (*stats).destroyed_sk == sk as u64
                        && counters::generation(slot) == (*stats).destroyed_generation
                    {
                        sent.slot = slot;
                    }
                }
            }
        }
    }
    if answers_segment {
        forget_pending(sk, sent.state);
        // SAFETY: a full socket, offsets from BTF.
        sent.class = match sent.state {
            LISTEN => RESET_LISTENER,
            CLOSE if unsafe { flags::<M>(sk) } & SOCK_DEAD != 0 => RESET_DATA_AFTER_CLOSE,
            _ => RESET_INVALID_SEGMENT,
        };
    } else {
        // `tcp_abort` gives this reason. Others that abort a live socket have reasons of their own,
        // but for orphans whose time in FIN_WAIT2 is over (`tcp_keepalive_timer`).
        let aborted = reason == REASON_TCP_STATE.load() && sent.state != CLOSE;
        sent.class = if aborted && sent.state != FIN_WAIT2 {
            RESET_ABORTED
        } else {
            // SAFETY: a full socket, offsets from BTF.
            unsafe { active::<M>(sk, sent.state, previous) }
        };
    }
}

#[inline(always)]
unsafe fn flags<M: Memory>(sk: *const u8) -> u64 {
    if has::OFF_SKC_FLAGS() {
        // SAFETY: a full socket, offset from BTF.
        unsafe { M::read::<u64>(sk, at::OFF_SKC_FLAGS()) }
    } else {
        0
    }
}

/// Why this side sent an RST of its own accord (`tcp_send_active_reset`).
#[inline(always)]
unsafe fn active<M: Memory>(sk: *const u8, state: u8, previous: u8) -> u32 {
    // SAFETY: a full tcp_sock, offsets from BTF.
    unsafe {
        let flags = flags::<M>(sk);
        if flags & SOCK_DEAD != 0 {
            return RESET_ORPHAN;
        }
        if state != CLOSE {
            // Aborted alive: by keepalive, or by somebody's `ss -K`.
            return if flags & SOCK_KEEPOPEN != 0 {
                RESET_KEEPALIVE
            } else {
                RESET_ABORTED
            };
        }
        if has::OFF_SK_SOCKET() && M::read::<u64>(sk, at::OFF_SK_SOCKET()) == 0 {
            return RESET_UNACCEPTED;
        }
        if M::read::<u8>(sk, at::OFF_SK_SHUTDOWN()) & SHUTDOWN_MASK != SHUTDOWN_MASK {
            return RESET_DISCONNECT;
        }
        if has::OFF_TP_RCV_NXT() && has::OFF_TP_COPIED_SEQ() {
            let received = Probe::read::<u32>(sk, at::OFF_TP_RCV_NXT());
            let copied = Probe::read::<u32>(sk, at::OFF_TP_COPIED_SEQ());
            // A FIN counts as one, and stays uncopied until end-of-file is read.
            let fin = u32::from(matches!(previous, CLOSE_WAIT | LAST_ACK | CLOSING));
            let unread = received.wrapping_sub(copied);
            if unread > fin {
                return RESET_UNREAD_DATA;
            }
        }
        if flags & SOCK_LINGER != 0
            && has::OFF_SK_LINGERTIME()
            && M::read::<u64>(sk, at::OFF_SK_LINGERTIME()) == 0
        {
            return RESET_LINGER_ZERO;
        }
        RESET_OTHER
    }
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
        // `tcp_rcv_state_process` calls `tcp_reset` itself when data arrives after close,
        // and then answers with an RST. Whether this is that case is known once an RST is
        // sent for the same socket, or not.
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
    settle(SIGNAL_RESET_RECEIVED, slot);
    let Some(index) = bounded(usize::from(state), RESETS_RECEIVED) else {
        return;
    };
    if let Some(counters) = counters::slot(slot) {
        // SAFETY: points into the map; the index was checked.
        unsafe {
            add(
                (&raw mut (*counters).resets_received)
                    .cast::<u64>()
                    .add(index),
                1,
            )
        };
    }
}

/// No RST followed the pending one: it was the peer's.
#[inline(always)]
fn commit_pending() {
    let Some(stats) = counters::stats() else {
        return;
    };
    // SAFETY: points into the map.
    unsafe {
        if (*stats).pending_sk == 0 {
            return;
        }
        (*stats).pending_sk = 0;
        let slot = (*stats).pending_slot;
        if counters::generation(slot) == (*stats).pending_generation {
            count_received(slot, (*stats).pending_state as u8);
        } else {
            // The process is gone and was folded, and with it this RST, which the daemon
            // reads together with the slot's own.
            seen(SIGNAL_RESET_RECEIVED);
            settle(SIGNAL_RESET_RECEIVED, slot);
        }
    }
}

/// An RST is being sent for `sk`: if one was pending for it a moment ago, that was our own
/// abort, which has closed the socket (`tcp_done`). If it is not closed, or the other is older,
/// that was the peer's, for this or another socket at the same address.
#[inline(always)]
fn forget_pending(sk: *const u8, state: u8) {
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
