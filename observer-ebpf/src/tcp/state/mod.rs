//! State transitions: `tp_btf/inet_sock_set_state` and `tp_btf/tcp_destroy_sock`.
//!
//! Counts transitions, successful connects and failed ones (as far as the state machine
//! knows), entries into TIME_WAIT (inferred), and the three histograms; writes the record of
//! a finished connection.
//!
//! What this tracepoint does not show (`net/ipv4/af_inet.c`, `inet_sk_state_store`): it
//! fires before `sk_state` is written; never with TIME_WAIT, which is a mini-socket's state;
//! also with old == new; for a child as LISTEN -> SYN_RECV; for MPTCP parents and their
//! subflows alike.

mod backup;
mod open;

use aya_ebpf::{
    helpers::generated::bpf_get_socket_cookie, macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use aya_log_ebpf::debug;
use observer_common::{
    AGE_BOUNDS, CLOSE, CLOSE_WAIT, CLOSE_WAIT_BOUNDS, CLOSING, CONN_ACTIVE, CONN_ATTEMPT_COUNTED,
    CONN_ESTABLISHED, CONN_PARENT, CONN_PASSIVE, CONN_RESET_SENT, CONN_SEEDED, CONN_TIME_WAIT,
    CONN_TIME_WAIT_MAYBE, CONNECTION_ERROR_INDICES, CONNECTION_ERROR_OTHER, CONNECTION_ERRORS,
    Conn, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, IPPROTO_MPTCP, IPPROTO_TCP, LAST_ACK, LISTEN,
    RECORD_CLOSE, RECORD_STATE, SIGNAL_STATE, SLOT_UNATTRIBUTED, STATES, SYN_RECV, SYN_SENT,
    TIME_WAIT, TIMED_STATES, add_packed, pack_duration, timed_index,
};

use crate::{
    core::{
        clock::now,
        counters::{self, add, bounded, index_in, observe},
        fields::{HAS_SOCKET_COOKIE, HOME_NETNS, TIME_WAIT_EXACT, at, has},
        maps::CONNECTIONS,
        outcome::{self, seen, settle, settle_lost},
        process,
        read::{Direct, Memory, Probe},
        records,
        socket::{self, SOCK_DEAD, SOCK_DONE},
    },
    tcp::{
        connect, entry,
        gauges::{adjust_live, count_transition},
        listen, ownership,
        ports::in_use,
        state::open::Birth,
        time_wait::exact::{count_entered, write_record},
    },
};

#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn state_tp_btf(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    let old: i32 = ctx.arg(1);
    let new: i32 = ctx.arg(2);
    on_state::<Direct>(sk, old as u8, new as u8);
    0
}

#[btf_tracepoint(function = "tcp_destroy_sock")]
pub fn destroy_tp_btf(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    on_destroy::<Direct>(sk);
    0
}

#[inline(always)]
pub fn on_state<M: Memory>(sk: *const u8, old: u8, new: u8) {
    if old == new || usize::from(old) >= STATES || usize::from(new) >= STATES {
        return;
    }
    // SAFETY: a full socket, offsets from BTF.
    let protocol = unsafe { M::read::<u16>(sk, at::OFF_SK_PROTOCOL()) };
    if protocol == IPPROTO_MPTCP {
        return on_parent(sk, old, new);
    }
    if protocol != IPPROTO_TCP {
        return;
    }
    seen(SIGNAL_STATE);
    if let Some(stats) = counters::stats() {
        // SAFETY: points into the map.
        unsafe {
            (*stats).last_sk = sk as u64;
            (*stats).last_states = [old, new, 0, 0];
        }
    }
    let time = now();
    let birth = match (old, new) {
        (CLOSE, SYN_SENT | LISTEN) => open::opened(sk, new, time),
        (LISTEN, SYN_RECV | ESTABLISHED) => open::child(sk, new, time),
        _ => Birth::of(match entry::get(sk as u64) {
            Some(conn) => Some(conn),
            None => entry::seed(sk as u64, ownership::through_parent(sk), old, time),
        }),
    };
    match birth {
        Birth::Entered(conn) => transition::<M>(sk, conn, old, new, time),
        Birth::Complete => {}
        Birth::Full => untracked::<M>(sk, old, new),
    }
    if (old, new) == (CLOSE, LISTEN) {
        // Not before the transition is booked: the iterator over listeners takes one that is
        // not in LISTEN for one whose end was missed.
        listen::opened(sk, entry::get(sk as u64));
    }
}

/// A transition of a socket that could not be given an entry: counted, but kept out of the
/// gauges, which could not follow it.
#[inline(always)]
fn untracked<M: Memory>(sk: *const u8, old: u8, new: u8) {
    count_transition(SLOT_UNATTRIBUTED, old, new);
    if new == CLOSE {
        // SAFETY: a full socket, offset from BTF.
        let error = unsafe { M::read::<u32>(sk, at::OFF_SK_ERR()) };
        count_error(SLOT_UNATTRIBUTED, old, error);
    }
    if old != LISTEN || new == CLOSE {
        adjust_live(SLOT_UNATTRIBUTED, old, 1);
    }
    adjust_live(SLOT_UNATTRIBUTED, new, -1);
    settle_lost(SIGNAL_STATE);
}

/// A socket left `old` for CLOSE with this `sk_err`: counts a connection that died of it, once,
/// because it goes to CLOSE once. What ends an attempt in SYN_SENT or SYN_RECV is an outcome of
/// connect().
///
/// `tcp_reset`, `tcp_write_err` and `tcp_abort` set it before `tcp_done` on every kernel (within
/// `tcp_done_with_error` from 6.10 on). `tcp_disconnect`, where this side aborts the connection,
/// sets it after the transition.
#[inline(always)]
fn count_error(slot: u32, old: u8, error: u32) {
    let established = matches!(
        old,
        ESTABLISHED | FIN_WAIT1 | FIN_WAIT2 | CLOSING | CLOSE_WAIT | LAST_ACK
    );
    if error == 0 || !established {
        return;
    }
    let Some(index) = index_in(
        &CONNECTION_ERROR_INDICES,
        error,
        CONNECTION_ERROR_OTHER,
        CONNECTION_ERRORS,
    ) else {
        return;
    };
    if let Some(slot) = counters::slot(slot) {
        // SAFETY: points into the map; the index was checked.
        add(
            unsafe { (&raw mut (*slot).errors).cast::<u64>().add(index) },
            1,
        );
    }
}

/// What of `sk_err` at the end is news: an error that was there when the last state was entered
/// did not end the connection, and nobody has fetched it.
#[inline(always)]
unsafe fn died_of(conn: *mut Conn, error: u32) -> u32 {
    // SAFETY: points into the map.
    if error == unsafe { (*conn).error } {
        0
    } else {
        error
    }
}

#[inline(always)]
fn transition<M: Memory>(sk: *const u8, conn: *mut Conn, old: u8, new: u8, time: u64) {
    // SAFETY: points into the map; this program alone writes these fields, under the
    // socket lock.
    unsafe {
        // The kernel skips a program that interrupts itself on the same CPU (since 6.1,
        // `__bpf_trace_run`); what that left out is made good here, so that gauges do not
        // drift for ever.
        let known = (*conn).state;
        let missed = known != old && usize::from(known) < STATES;
        if missed {
            ownership::settle_handover(conn, known);
            count_transition((*conn).slot, known, old);
            let flags = (*conn).flags;
            if known == SYN_SENT
                && old != SYN_RECV
                && flags & (CONN_ACTIVE | CONN_ESTABLISHED) == CONN_ACTIVE
            {
                // What was left out is that the handshake succeeded, however long it took.
                connect::succeeded((*conn).slot, None);
                (*conn).flags = flags | CONN_ESTABLISHED | CONN_ATTEMPT_COUNTED;
            }
            // Nobody knows when it came to `old`.
            (*conn).entered_ns = time;
            debug!(
                &(),
                "made good for a missed transition from {} to {}", known, old
            );
        }
        ownership::settle_handover(conn, old);
        let slot = (*conn).slot;
        count_transition(slot, old, new);
        settle(SIGNAL_STATE, slot);

        let spent = time.saturating_sub((*conn).entered_ns);
        if let Some(old) = bounded(timed_index(old), TIMED_STATES.len()) {
            let in_state = (&raw mut (*conn).spent).cast::<u32>().add(old);
            *in_state = add_packed(*in_state, pack_duration(spent));
        }
        (*conn).previous = old;
        (*conn).state = new;
        (*conn).entered_ns = time;

        if old == CLOSE_WAIT && !missed && ((*conn).flags & CONN_SEEDED == 0) {
            if let Some(slot) = counters::slot(slot) {
                observe(&raw mut (*slot).close_wait, &CLOSE_WAIT_BOUNDS, spent);
            }
        }
        let attempting = (*conn).flags & (CONN_ACTIVE | CONN_ESTABLISHED) == CONN_ACTIVE;
        match new {
            ESTABLISHED => {
                // An RST sent until now answered a stray segment (a bad ACK in SYN_SENT).
                let mut flags = ((*conn).flags & !CONN_RESET_SENT) | CONN_ESTABLISHED;
                if attempting {
                    connect::succeeded(slot, Some(time.saturating_sub((*conn).born_ns)));
                    // Reset before connect() returns, it returns that.
                    flags |= CONN_ATTEMPT_COUNTED;
                }
                (*conn).flags = flags;
                if (*conn).flags & CONN_PASSIVE != 0 && slot == SLOT_UNATTRIBUTED {
                    // A passive MPTCP join: its parent is known by now.
                    ownership::hand_over(conn, ownership::through_parent(sk));
                }
            }
            FIN_WAIT1 => {
                // Only the side that closes first comes here, and only it can enter
                // TIME_WAIT. The timewait socket takes over the cookie, if there is one.
                // Kernels without the helper do not report RSTs of timewait sockets either.
                if TIME_WAIT_EXACT.load() == 0 && HAS_SOCKET_COOKIE.load() != 0 {
                    bpf_get_socket_cookie(sk.cast_mut().cast());
                }
            }
            CLOSE => {
                if attempting && matches!(old, SYN_SENT | SYN_RECV) {
                    connect::failed::<M>(sk, conn);
                }
                closed::<M>(sk, conn, slot, old, time);
            }
            _ => {}
        }
        if new != CLOSE {
            (*conn).error = M::read::<u32>(sk, at::OFF_SK_ERR());
        }
        records::write(RECORD_STATE, sk, conn, slot, |record| {
            record.from = old;
            record.to = new;
        });
    }
}

/// A socket reached CLOSE.
#[inline(always)]
unsafe fn closed<M: Memory>(sk: *const u8, conn: *mut Conn, slot: u32, old: u8, time: u64) {
    // SAFETY: `conn` and `slot` point into maps; `sk` is a full socket, offsets from BTF.
    unsafe {
        if old == LISTEN {
            return listen::closed(sk, conn);
        }
        let pending = M::read::<u32>(sk, at::OFF_SK_ERR());
        let error = died_of(conn, pending);
        count_error(slot, old, error);
        let flags = (*conn).flags;
        if pending == 0 && flags & CONN_ESTABLISHED != 0 {
            // No connect() is to return why: the next one is another attempt.
            (*conn).flags = flags & !CONN_ATTEMPT_COUNTED;
        }
        if flags & (CONN_ESTABLISHED | CONN_SEEDED) == CONN_ESTABLISHED {
            if let Some(slot) = counters::slot(slot) {
                observe(
                    &raw mut (*slot).age,
                    &AGE_BOUNDS,
                    time.saturating_sub((*conn).born_ns),
                );
            }
        }
        if TIME_WAIT_EXACT.load() == 0
            && matches!(old, FIN_WAIT2 | CLOSING)
            && error == 0
            && flags & CONN_RESET_SENT == 0
        {
            match left_for_time_wait::<M>(sk, old) {
                Some(true) => time_wait::<M>(sk, conn, slot),
                Some(false) => {}
                None => (*conn).flags |= CONN_TIME_WAIT_MAYBE,
            }
        }
        if flags & (CONN_ESTABLISHED | CONN_SEEDED) != 0 {
            records::write(RECORD_CLOSE, sk, conn, slot, |record| {
                record.from = old;
                record.to = CLOSE;
                record.errno = error as u16;
                if resets(old) && error == 0 && (*conn).flags & CONN_TIME_WAIT == 0 {
                    // This side aborted it; the RST is sent right after this transition.
                    record.flags |= CONN_RESET_SENT;
                }
            });
        }
    }
}

/// Whether leaving `old` straight for CLOSE without an error means an RST (`tcp_need_reset`).
#[inline(always)]
fn resets(old: u8) -> bool {
    matches!(
        old,
        ESTABLISHED | CLOSE_WAIT | FIN_WAIT1 | FIN_WAIT2 | SYN_RECV
    )
}

/// Whether a socket that goes from FIN_WAIT2 or CLOSING to CLOSE without an error is being
/// replaced by a timewait socket. `tcp_time_wait` is reached when the peer's FIN has come
/// (`tcp_fin` sets SOCK_DONE first) or when the socket is an orphan (`sock_orphan` sets
/// SOCK_DEAD first); close() with unread data, SO_LINGER 0 and connect(AF_UNSPEC) come here
/// with neither. `None` when only the RST that follows or does not can tell.
#[inline(always)]
unsafe fn left_for_time_wait<M: Memory>(sk: *const u8, old: u8) -> Option<bool> {
    if !has::OFF_SKC_FLAGS() {
        return Some(true);
    }
    // SAFETY: a full tcp_sock, offsets from BTF.
    unsafe {
        let flags = M::read::<u64>(sk, at::OFF_SKC_FLAGS());
        if flags & (SOCK_DEAD | SOCK_DONE) == 0 {
            return Some(false);
        }
        // TCP_LINGER2 below zero: no FIN_WAIT2 for orphans.
        if flags & SOCK_DEAD != 0 && has::OFF_TP_LINGER2() {
            let linger2 = Probe::read::<i32>(sk, at::OFF_TP_LINGER2());
            if linger2 < 0 && old == FIN_WAIT2 {
                return Some(false);
            }
        }
        // close() with unread data in CLOSING: the FIN has come, the owner still holds it.
        if old == CLOSING && flags & SOCK_DEAD == 0 {
            return None;
        }
        Some(true)
    }
}

/// Counts an inferred entry into TIME_WAIT.
#[inline(always)]
unsafe fn time_wait<M: Memory>(sk: *const u8, conn: *mut Conn, slot: u32) {
    let mut substate = TIME_WAIT;
    // SAFETY: points into the map; `sk` is a full socket, offsets from BTF.
    unsafe {
        (*conn).flags |= CONN_TIME_WAIT;
        if has::OFF_SKC_FLAGS() && M::read::<u64>(sk, at::OFF_SKC_FLAGS()) & SOCK_DONE == 0 {
            // The peer's FIN has not come.
            substate = FIN_WAIT2;
        }
        count_entered(slot, substate);
        let Some(counters) = counters::slot(slot) else {
            return;
        };
        if socket::netns::<M>(sk) != HOME_NETNS.load() {
            if let Some(stats) = counters::stats() {
                add(&raw mut (*stats).time_wait_elsewhere, 1);
            }
        }
        in_use::rest::<M>(sk, slot, (*counters).generation);
    }
    write_record(sk, conn, slot, substate);
}

/// An MPTCP parent: takes no part in the counts, because its subflows do, but knows the
/// owner.
#[inline(always)]
fn on_parent(sk: *const u8, old: u8, new: u8) {
    match (old, new) {
        (CLOSE, SYN_SENT | LISTEN) => {
            if entry::get(sk as u64).is_none() {
                entry::create(sk as u64, process::current(), CONN_PARENT, new, now());
            }
        }
        (_, CLOSE) => {
            if let Some(conn) = entry::get(sk as u64) {
                entry::remove(sk as u64, conn);
            }
        }
        _ => {}
    }
}

/// The socket is being destroyed (`tcp_v4_destroy_sock`): its address may be reused.
#[inline(always)]
pub fn on_destroy<M: Memory>(sk: *const u8) {
    let Some(conn) = CONNECTIONS.get_ptr_mut(sk as u64) else {
        return;
    };
    // SAFETY: points into the map.
    unsafe {
        let slot = ownership::of_entry(conn);
        if (*conn).flags & (CONN_TIME_WAIT_MAYBE | CONN_RESET_SENT) == CONN_TIME_WAIT_MAYBE {
            time_wait::<M>(sk, conn, slot);
        }
        if let Some(stats) = counters::stats() {
            (*stats).destroyed_sk = sk as u64;
            (*stats).destroyed_slot = slot;
            (*stats).destroyed_generation = counters::generation(slot);
        }
        connect::unreturned(conn);
        // In CLOSE, unless the run on its last transition was skipped.
        let error = died_of(conn, M::read::<u32>(sk, at::OFF_SK_ERR()));
        count_error(slot, (*conn).state, error);
    }
    entry::end(sk as u64, conn);
}
