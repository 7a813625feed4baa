//! Backup programs on the same tracepoints: they handle transitions and ends of sockets for which the
//! kernel skipped the first program.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{
    core::{counters, read::Direct},
    tcp::{
        entry,
        state::{close::on_destroy, on_state},
    },
};

/// Backup of [`crate::tcp::state::state_tp_btf`]. The kernel skips a program that is already running
/// on the CPU (since 6.1, `__bpf_trace_run`): if a timer or a packet interrupts it, for all
/// transitions in that softirq; since 7.0, where programs of a tracepoint can be preempted, also for
/// transitions of other tasks. The backup runs second, and usually finds the event handled.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn state_again_tp_btf(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    let old: i32 = ctx.arg(1);
    let new: i32 = ctx.arg(2);
    if !handled(sk, old as u8, new as u8) {
        on_state::<Direct>(sk, old as u8, new as u8);
    }
    0
}

/// Backup of [`crate::tcp::state::close::destroy_tp_btf`].
#[btf_tracepoint(function = "tcp_destroy_sock")]
pub fn destroy_again_tp_btf(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    // SAFETY: points into the map.
    let handled = counters::stats().is_some_and(|it| unsafe { (*it).destroyed_sk == sk as u64 });
    if !handled {
        on_destroy::<Direct>(sk);
    }
    0
}

/// Whether this transition was handled: it was the last one on this CPU, or the socket's entry is in
/// its new state.
#[inline(always)]
fn handled(sk: *const u8, old: u8, new: u8) -> bool {
    let mut full = false;
    if let Some(stats) = counters::stats() {
        // SAFETY: points into the map.
        unsafe {
            if (*stats).last_sk == sk as u64 && (*stats).last_states == [old, new, 0, 0] {
                return true;
            }
            full = (*stats).connections_full != 0;
        }
    }
    match entry::get(sk as u64) {
        // SAFETY: points into the map.
        Some(conn) => unsafe { (*conn).state == new },
        // While the map is full, a handled transition leaves no entry. Do not count it twice.
        None => full,
    }
}
