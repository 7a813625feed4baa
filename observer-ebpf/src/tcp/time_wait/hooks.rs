//! TIME_WAIT by function hooks. `inet_twsk_alloc` allocates the timewait socket that replaces a
//! closing one; it returns null if there is no bucket (`net.ipv4.tcp_max_tw_buckets`) or no memory.
//! `tcp_twsk_destructor` is called once for each timewait socket, whatever ends it (timer, reuse by
//! connect() or a SYN, an RST, the end of its network namespace).
//!
//! Both usually run in softirq, so the owner is the socket's.

use aya_ebpf::{
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};
use observer_common::{
    IPPROTO_TCP, SIGNAL_TIME_WAIT_END, SIGNAL_TIME_WAIT_OVERFLOW, SLOT_UNATTRIBUTED,
};

use super::{entered, remove};
use crate::{
    core::{
        counters::{self, add},
        fields::at,
        maps::TIME_WAITS,
        outcome::{count_outcome, seen},
        read::{Memory, Probe},
    },
    tcp::{entry, ownership},
};

#[fexit(function = "inet_twsk_alloc")]
pub fn time_wait_begin_fexit(ctx: FExitContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    let substate: i32 = ctx.arg(2);
    let timewait: *const u8 = ctx.arg(3);
    on_begin(sk, substate as u8, timewait);
    0
}

#[fentry(function = "tcp_twsk_destructor")]
pub fn time_wait_end_fentry(ctx: FEntryContext) -> i32 {
    on_end(ctx.arg(0));
    0
}

#[inline(always)]
fn on_begin(sk: *const u8, substate: u8, timewait: *const u8) {
    // SAFETY: a full socket, offset from BTF.
    if unsafe { Probe::read::<u16>(sk, at::OFF_SK_PROTOCOL()) } != IPPROTO_TCP {
        // DCCP, which the kernel had until 6.15, uses the same function.
        return;
    }
    let conn = entry::get(sk as u64);
    let slot = ownership::of_entry_or_parent(conn, sk);
    if !timewait.is_null() {
        return entered(sk, conn, slot, timewait, substate);
    }
    seen(SIGNAL_TIME_WAIT_OVERFLOW);
    count_outcome(SIGNAL_TIME_WAIT_OVERFLOW, slot);
    if let Some(counters) = counters::slot(slot) {
        // SAFETY: points into the map.
        add(unsafe { &raw mut (*counters).time_wait.overflows }, 1);
    }
}

#[inline(always)]
fn on_end(timewait: *const u8) {
    if let Some(entry) = TIME_WAITS.get_ptr(timewait as u64) {
        // SAFETY: points into the map.
        let entry = unsafe { *entry };
        remove(timewait as u64, &entry);
    } else {
        // It entered TIME_WAIT before the programs were attached.
        seen(SIGNAL_TIME_WAIT_END);
        count_outcome(SIGNAL_TIME_WAIT_END, SLOT_UNATTRIBUTED);
    }
}
