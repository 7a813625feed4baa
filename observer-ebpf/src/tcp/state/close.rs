//! The end of a connection: its transition to CLOSE, and `tp_btf/tcp_destroy_sock`.
//!
//! Counts connections that ended with an error, the histogram of ages, and entries into TIME_WAIT
//! where those are looked up; writes the record of a finished connection.

use aya_ebpf::{
    macros::{btf_tracepoint, tracepoint},
    programs::{BtfTracePointContext, TracePointContext},
};
use observer_common::{
    AGE_BOUNDS, CLOSE, CLOSE_WAIT, CLOSING, CONN_ATTEMPT_COUNTED, CONN_ESTABLISHED,
    CONN_RESET_SENT, CONN_SEEDED, CONN_TIME_WAIT, CONNECTION_ERROR_INDICES, CONNECTION_ERROR_OTHER,
    CONNECTION_ERRORS, Conn, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, LAST_ACK, LISTEN, RECORD_CLOSE,
    SYN_RECV,
};

use crate::{
    core::{
        counters::{self, add, index_in, observe},
        fields::at,
        maps::CONNECTIONS,
        read::{Direct, Memory, Probe},
        records,
    },
    tcp::{connect, entry, listen, ownership, time_wait::lookup},
};

#[btf_tracepoint(function = "tcp_destroy_sock")]
pub fn destroy_tp_btf(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    on_destroy::<Direct>(sk);
    0
}

/// Offset of the field `skaddr` of `tcp:tcp_destroy_sock`, which the daemon compares with its format.
const SKADDR: usize = 8;

/// The same on the classic tracepoint; see [`crate::tcp::state::state_tracepoint`].
#[tracepoint(category = "tcp", name = "tcp_destroy_sock")]
pub fn destroy_tracepoint(ctx: TracePointContext) -> u32 {
    // SAFETY: a field of the event.
    if let Ok(sk) = unsafe { ctx.read_at::<*const u8>(SKADDR) } {
        on_destroy::<Probe>(sk);
    }
    0
}

/// The socket is being destroyed (`tcp_v4_destroy_sock`), and its address can be reused.
#[inline(always)]
pub fn on_destroy<M: Memory>(sk: *const u8) {
    let Some(conn) = CONNECTIONS.get_ptr_mut(sk as u64) else {
        connect::untracked_destroyed(sk);
        if let Some(stats) = counters::stats() {
            // SAFETY: points into the map.
            unsafe {
                if (*stats).destroyed_sk == sk as u64 {
                    // That was an earlier socket at this address.
                    (*stats).destroyed_sk = 0;
                }
            }
        }
        return;
    };
    // SAFETY: points into the map.
    unsafe {
        let slot = ownership::of_entry(conn);
        // In case the program on the transition to CLOSE was skipped.
        let timewait = lookup::before(sk, (*conn).state, CLOSE);
        lookup::closed(sk, Some(conn), slot, timewait);
        if let Some(stats) = counters::stats() {
            (*stats).destroyed_sk = sk as u64;
            (*stats).destroyed_slot = slot;
            (*stats).destroyed_generation = counters::generation(slot);
        }
        connect::abandoned(conn);
        // Counts nothing in CLOSE, which is the state unless the last transition was skipped.
        let error = died_of(conn, M::read::<u32>(sk, at::OFF_SK_ERR()));
        count_error(slot, (*conn).state, error);
    }
    entry::end(sk as u64, conn);
}

/// A socket reached CLOSE.
#[inline(always)]
pub unsafe fn closed<M: Memory>(
    sk: *const u8,
    conn: *mut Conn,
    timewait: *const u8,
    slot: u32,
    old: u8,
    time: u64,
) {
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
            // No connect() will return an errno for this: the next one is another attempt.
            (*conn).flags = flags & !CONN_ATTEMPT_COUNTED;
        }
        if flags & (CONN_ESTABLISHED | CONN_SEEDED) == CONN_ESTABLISHED {
            if let Some(slot) = counters::slot(slot) {
                observe(
                    &raw mut (*slot).state.age,
                    &AGE_BOUNDS,
                    time.saturating_sub((*conn).born_ns),
                );
            }
        }
        lookup::closed(sk, Some(conn), slot, timewait);
        if flags & (CONN_ESTABLISHED | CONN_SEEDED) != 0 {
            records::write(RECORD_CLOSE, sk, conn, slot, |record| {
                record.from = old;
                record.to = CLOSE;
                record.errno = error as u16;
                if resets(old) && error == 0 && (*conn).flags & CONN_TIME_WAIT == 0 {
                    // This side aborted the connection; it sends the RST after this transition.
                    record.flags |= CONN_RESET_SENT;
                }
            });
        }
    }
}

/// Counts an established connection that went from `old` to CLOSE because of `error` (`sk_err`).
/// An error in SYN_SENT or SYN_RECV is an outcome of connect().
///
/// `tcp_reset`, `tcp_write_err` and `tcp_abort` set `sk_err` before `tcp_done` on every kernel
/// (within `tcp_done_with_error` from 6.10 on). `tcp_disconnect`, where this side aborts the
/// connection, sets it after the transition.
#[inline(always)]
pub fn count_error(slot: u32, old: u8, error: u32) {
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
            unsafe { (&raw mut (*slot).state.errors).cast::<u64>().add(index) },
            1,
        );
    }
}

/// The error that ended the connection. An error that `sk_err` already had when the last state was
/// entered did not: the program has just not fetched it.
#[inline(always)]
pub unsafe fn died_of(conn: *mut Conn, error: u32) -> u32 {
    // SAFETY: points into the map.
    if error == unsafe { (*conn).error } {
        0
    } else {
        error
    }
}

/// Whether a transition from `old` to CLOSE without an error sends an RST (`tcp_need_reset`).
#[inline(always)]
fn resets(old: u8) -> bool {
    matches!(
        old,
        ESTABLISHED | CLOSE_WAIT | FIN_WAIT1 | FIN_WAIT2 | SYN_RECV
    )
}
