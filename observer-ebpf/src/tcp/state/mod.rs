//! State transitions: `tp_btf/inet_sock_set_state`.
//!
//! Counts transitions, outcomes of connects that the state machine shows, and the time in CLOSE_WAIT. `open` handles the
//! first transition of a socket, `close` the one to CLOSE and the end of the socket, `untracked` sockets without an entry,
//! `backup` events for which the kernel skipped the first programs.
//!
//! Properties of the tracepoint (`net/ipv4/af_inet.c`, `inet_sk_state_store`): it fires before
//! `sk_state` is written; never with TIME_WAIT, which is the state of a mini-socket; also with
//! old == new; for a child with LISTEN -> SYN_RECV; for MPTCP parents as well as their subflows.

mod backup;
mod close;
mod open;
pub mod untracked;

use aya_ebpf::{
    macros::{btf_tracepoint, tracepoint},
    programs::{BtfTracePointContext, TracePointContext},
};
use aya_log_ebpf::debug;
use observer_common::{
    CLOSE, CLOSE_WAIT, CLOSE_WAIT_BOUNDS, CONN_ACTIVE, CONN_ATTEMPT_COUNTED, CONN_ESTABLISHED,
    CONN_PARENT, CONN_PASSIVE, CONN_RESET_SENT, CONN_SEEDED, Conn, ENDED_NONE, ENDED_TIMEOUT,
    ENDED_UNUSED, ESTABLISHED, GAVE_UP_ANSWER, GAVE_UP_AT_ONCE, GAVE_UP_MS, GAVE_UP_RESET,
    GAVE_UP_UNUSED, GAVE_UPS, Histogram, IPPROTO_MPTCP, IPPROTO_TCP, LISTEN, READ_STALLS,
    RECORD_STATE, SIGNAL_STATE, SLOT_UNATTRIBUTED, STATES, SYN_RECV, SYN_SENT, TIMED_STATES,
    TLS_CLIENT, TLS_FAILED, TLS_LIBRARIES, TLS_UNKNOWN, WAIT_BOUNDS, WRITE_STALLS, add_packed,
    pack_duration, timed_index,
};

use crate::{
    core::{
        clock::now,
        counters::{self, bounded, observe},
        fields::at,
        outcome::{count_outcome, seen},
        process,
        read::{Direct, Memory, Probe, number},
        records,
    },
    tcp::{
        accept, connect, entry,
        gauges::count_transition,
        listen, ownership, retransmit,
        state::{close::closed, open::Open},
        time_wait::lookup,
        waiting::{self, Asked},
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

/// Offsets of the fields of `sock:inet_sock_set_state`, which the daemon compares with its format.
const SKADDR: usize = 8;
const OLDSTATE: usize = 16;
const NEWSTATE: usize = 20;

/// The same on the classic tracepoint, for kernels where other tasks preempt a program on the typed one
/// (7.0 and later). The kernel runs this one without preemption (`trace_call_bpf`).
#[tracepoint(category = "sock", name = "inet_sock_set_state")]
pub fn state_tracepoint(ctx: TracePointContext) -> u32 {
    // SAFETY: fields of the event.
    let fields = unsafe {
        (
            ctx.read_at::<*const u8>(SKADDR),
            ctx.read_at::<i32>(OLDSTATE),
            ctx.read_at::<i32>(NEWSTATE),
        )
    };
    if let (Ok(sk), Ok(old), Ok(new)) = fields {
        on_state::<Probe>(sk, old as u8, new as u8);
    }
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
    let timewait = lookup::before(sk, old, new);
    seen(SIGNAL_STATE);
    if let Some(stats) = counters::stats() {
        // SAFETY: points into the map.
        unsafe {
            (*stats).last_sk = sk as u64;
            (*stats).last_states = [old, new, 0, 0];
        }
    }
    let time = now();
    let opened = match (old, new) {
        (CLOSE, SYN_SENT | LISTEN) => open::own(sk, new, time),
        (LISTEN, SYN_RECV | ESTABLISHED) => open::child(sk, new, time),
        _ => Open::of(match entry::get(sk as u64) {
            Some(conn) => Some(conn),
            None => entry::seed(sk as u64, ownership::of_parent(sk), old, time),
        }),
    };
    match opened {
        Open::Entry(conn) => transition::<M>(sk, conn, timewait, old, new, time),
        Open::Counted => {}
        Open::Untracked => untracked::transition::<M>(sk, timewait, old, new),
    }
    if (old, new) == (CLOSE, LISTEN) {
        // After the transition, because the iterator over listeners takes an entry that is not in
        // LISTEN for a listener whose end was missed.
        listen::opened(sk, entry::get(sk as u64));
    }
}

#[inline(always)]
fn transition<M: Memory>(
    sk: *const u8,
    conn: *mut Conn,
    timewait: *const u8,
    old: u8,
    new: u8,
    time: u64,
) {
    // SAFETY: points into the map; only this program writes these fields, under the socket lock.
    unsafe {
        // The kernel skips a program that would interrupt itself on the same CPU (since 6.1,
        // `__bpf_trace_run`). Count the skipped transition here, otherwise the gauges drift.
        let known = (*conn).state;
        let missed = known != old && usize::from(known) < STATES;
        if missed {
            ownership::complete_handover(conn, known);
            count_transition((*conn).slot, known, old);
            let flags = (*conn).flags;
            if known == SYN_SENT
                && old != SYN_RECV
                && flags & (CONN_ACTIVE | CONN_ESTABLISHED) == CONN_ACTIVE
            {
                // The skipped transition was the success of the handshake; its duration is unknown.
                connect::succeeded((*conn).slot, None);
                (*conn).flags = flags | CONN_ESTABLISHED | CONN_ATTEMPT_COUNTED;
            }
            // The time at which it entered `old` is unknown.
            (*conn).entered_ns = time;
            debug!(&(), "counted a missed transition from {} to {}", known, old);
        }
        ownership::complete_handover(conn, old);
        let slot = (*conn).slot;
        count_transition(slot, old, new);
        count_outcome(SIGNAL_STATE, slot);

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
                observe(&raw mut (*slot).state.close_wait, &CLOSE_WAIT_BOUNDS, spent);
            }
        }
        if matches!(old, ESTABLISHED | CLOSE_WAIT) {
            accept::ended::<M>(sk, conn, slot);
            waited::<M>(sk, conn, slot, old, new, time);
        }
        let attempting = (*conn).flags & (CONN_ACTIVE | CONN_ESTABLISHED) == CONN_ACTIVE;
        match new {
            ESTABLISHED => {
                if old == SYN_RECV {
                    // The count of a child begins with its SYN-ACKs (`tcp_create_openreq_child`).
                    (*conn).retransmits = entry::retransmitted(sk);
                }
                // An earlier RST answered an invalid segment (a bad ACK in SYN_SENT).
                let mut flags = ((*conn).flags & !CONN_RESET_SENT) | CONN_ESTABLISHED;
                if attempting && connect::is_restored(sk) {
                    flags |= CONN_ATTEMPT_COUNTED;
                } else if attempting {
                    let began = (*conn).flags & CONN_SEEDED == 0;
                    let latency = began.then(|| time.saturating_sub((*conn).born_ns));
                    connect::succeeded(slot, latency);
                    // If an RST arrives before connect() returns, it returns ECONNRESET, which must
                    // not be counted.
                    flags |= CONN_ATTEMPT_COUNTED;
                }
                (*conn).flags = flags;
                if (*conn).flags & CONN_PASSIVE != 0 && slot == SLOT_UNATTRIBUTED {
                    // A passive MPTCP join: its parent is known now.
                    ownership::record(conn, ownership::of_parent(sk));
                }
            }
            CLOSE => {
                retransmit::catch_up(sk, conn, slot);
                if attempting && matches!(old, SYN_SENT | SYN_RECV) {
                    connect::failed::<M>(sk, conn);
                }
                closed::<M>(sk, conn, timewait, slot, old, time);
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

/// Counts what the connection waited for when it leaves ESTABLISHED or CLOSE_WAIT, once.
#[inline(always)]
unsafe fn waited<M: Memory>(
    sk: *const u8,
    conn: *mut Conn,
    slot: u32,
    old: u8,
    new: u8,
    time: u64,
) {
    // SAFETY: points into the map; a full socket, offset from BTF.
    unsafe {
        let is_young = waiting::is_young(conn, time) && !is_of_tls(conn, slot);
        if (*conn).waited_for != u32::from(ENDED_NONE) || is_young {
            return;
        }
        let error = close::died_of(conn, M::read::<u32>(sk, at::OFF_SK_ERR()));
        count_wait(number(sk), slot, old, new, error);
    }
}

/// Whether the program opened the connection, and handshakes of its are in progress, of either role, or have failed as a client.
#[inline(always)]
unsafe fn is_of_tls(conn: *mut Conn, slot: u32) -> bool {
    // SAFETY: points into the map.
    if unsafe { (*conn).flags } & CONN_ACTIVE == 0 {
        return false;
    }
    // SAFETY: as above.
    counters::slot(slot).is_some_and(|slot| unsafe {
        let mut failed = 0;
        let mut library = 0;
        while library < TLS_LIBRARIES.len() {
            for role in [TLS_CLIENT, TLS_UNKNOWN] {
                failed |= (*slot).tls.ended[library][role as usize][TLS_FAILED];
            }
            library += 1;
        }
        (*slot).tls_handshakes > 0 || failed > 0
    })
}

/// Counts what the connection of `sk` waited for, which is a second old or may be of TLS. Exported, so that the verifier checks its many
/// paths once, and not once for each path before and after it. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_wait(sk: u64, slot: u32, old: u8, new: u8, error: u32) -> u32 {
    let Some(conn) = entry::get(sk) else {
        return 0;
    };
    let sk = sk as *const u8;
    let time = now();
    let (what, ms, for_what) = if waiting::is_young(conn, time) {
        (ENDED_NONE, 0, Asked::No)
    } else {
        waiting::ended(sk, conn, old, new, error, time)
    };
    let kind = match (what, for_what, new == CLOSE) {
        (ENDED_TIMEOUT, Asked::First, true) => GAVE_UP_RESET,
        (ENDED_TIMEOUT, Asked::First | Asked::Later, false) => GAVE_UP_ANSWER,
        (ENDED_TIMEOUT, Asked::No, false) => GAVE_UP_AT_ONCE,
        (ENDED_UNUSED, _, false) => GAVE_UP_UNUSED,
        _ => GAVE_UPS,
    };
    let gave_up = kind < GAVE_UPS && ms >= GAVE_UP_MS;
    // SAFETY: points into the map.
    let is_own = unsafe { (*conn).flags } & CONN_ACTIVE != 0 && old == ESTABLISHED && error == 0;
    if is_own && !gave_up && waiting::has_read_nothing(sk, new) {
        if let Some(slot) = counters::slot(slot) {
            // SAFETY: as above.
            counters::add(unsafe { &raw mut (*slot).waiting.nothing_read }, 1);
        }
    }
    if what == ENDED_NONE {
        return 0;
    }
    // SAFETY: points into maps; the index is bounded.
    unsafe {
        (*conn).waited_for = u32::from(what);
        (*conn).waited_ms = ms;
        let Some(slot) = counters::slot(slot) else {
            return 0;
        };
        if gave_up {
            let gave_up = (&raw mut (*slot).waiting.gave_up).cast::<u64>();
            counters::add(gave_up.add(kind), 1);
        }
        let index = usize::from(what).wrapping_sub(usize::from(ENDED_TIMEOUT));
        if let Some(index) = bounded(index, READ_STALLS + WRITE_STALLS) {
            let histogram = (&raw mut (*slot).waiting.ended)
                .cast::<Histogram>()
                .add(index);
            observe(histogram, &WAIT_BOUNDS, u64::from(ms) * 1_000_000);
        }
    }
    0
}

/// A transition of an MPTCP parent. It is not counted, because its subflows are; its entry only
/// stores the owner.
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
