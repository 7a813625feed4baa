//! Programs that handle a transition or an end of a socket that the kernel skipped the program of
//! [`crate::tcp::state`] on: second programs on the same tracepoints, and `tcp_connect`.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, kprobe},
    programs::{BtfTracePointContext, FEntryContext, ProbeContext},
};
use observer_common::{CLOSE, MAP_CONNECTIONS, SYN_SENT};

use crate::{
    core::{
        counters,
        read::{Direct, Memory, Probe},
    },
    tcp::{
        entry,
        state::{close::on_destroy, on_state},
    },
};

/// The same once more, for an event that [`crate::tcp::state::state_tp_btf`] was left out of. The kernel skips a
/// program that is already running on the CPU (since 6.1, `__bpf_trace_run`): when a timer or a
/// packet interrupts it, all transitions in that softirq; since 7.0, when a tracepoint's programs
/// can be preempted, those of other tasks as well. It comes second, and mostly has nothing to do.
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

/// As [`state_again_tp_btf`], for the end of a socket.
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

/// `tcp_connect`, which comes after CLOSE -> SYN_SENT in the same call: makes up for that
/// transition where the kernel skipped the program on it, so that its owner is not lost.
#[fentry(function = "tcp_connect")]
pub fn connect_fentry(ctx: FEntryContext) -> i32 {
    started::<Direct>(ctx.arg(0));
    0
}

#[kprobe]
pub fn connect_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg(0) {
        started::<Probe>(sk);
    }
    0
}

/// `sk` is being connected. Takes the transition in that has led to this, if the kernel
/// skipped the program on it.
#[inline(always)]
pub fn started<M: Memory>(sk: *const u8) {
    if !handled(sk, CLOSE, SYN_SENT) {
        on_state::<M>(sk, CLOSE, SYN_SENT);
    }
}

/// Whether this event has been handled: it was the last on this CPU, or the socket's entry is in
/// the state that it led to.
#[inline(always)]
fn handled(sk: *const u8, old: u8, new: u8) -> bool {
    let mut was_full = false;
    if let Some(stats) = counters::stats() {
        // SAFETY: points into the map.
        unsafe {
            if (*stats).last_sk == sk as u64 && (*stats).last_states == [old, new, 0, 0] {
                return true;
            }
            was_full = (*stats).map_full[MAP_CONNECTIONS as usize] != 0;
        }
    }
    match entry::get(sk as u64) {
        // SAFETY: points into the map.
        Some(conn) => unsafe { (*conn).state == new },
        // It may have found no room, and must not be counted twice.
        None => was_full,
    }
}
