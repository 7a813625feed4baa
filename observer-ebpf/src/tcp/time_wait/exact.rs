//! TIME_WAIT by function hooks. `inet_twsk_alloc` allocates the timewait socket that replaces a
//! closing one; it returns null if there is no bucket (`net.ipv4.tcp_max_tw_buckets`) or no memory.
//! `tcp_twsk_destructor` is called once for each timewait socket, whatever ends it (timer, reuse by
//! connect() or a SYN, an RST, the end of its network namespace).
//!
//! Both usually run in softirq, so the owner is the socket's. Where neither function
//! can be hooked, [`crate::tcp::state`] infers the beginning, and the daemon the end.

use aya_ebpf::{
    macros::{fentry, fexit, kprobe, kretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use observer_common::{
    Account, CONN_TIME_WAIT, IPPROTO_TCP, MAP_NETNS, MAP_TIME_WAITS, SIGNAL_TIME_WAIT_END,
    SLOT_FIRST, SLOT_UNATTRIBUTED, TimeWait,
};

use crate::{
    core::{
        call_args::{self, INET_TWSK_ALLOC},
        clock::now,
        counters::{self, add},
        fields::at,
        maps::{ACCOUNTS, BPF_ANY, BPF_NOEXIST, NETNS_TIME_WAITS, TIME_WAITS},
        outcome::{count_outcome, map_full, seen},
        read::{Memory, Probe},
        socket,
    },
    tcp::{
        entry, ownership,
        time_wait::{count_entered, write_record},
    },
};

#[fexit(function = "inet_twsk_alloc")]
pub fn time_wait_begin_fexit(ctx: FExitContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    let substate: i32 = ctx.arg(2);
    let timewait: *const u8 = ctx.arg(3);
    on_begin(sk, substate as u8, timewait);
    0
}

#[kprobe]
pub fn time_wait_begin_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(substate)) = (ctx.arg::<u64>(0), ctx.arg::<u64>(2)) {
        call_args::save(INET_TWSK_ALLOC, [sk, substate]);
    }
    0
}

#[kretprobe]
pub fn time_wait_begin_kretprobe(ctx: RetProbeContext) -> u32 {
    if let Some([sk, substate]) = call_args::take(INET_TWSK_ALLOC) {
        on_begin(sk as *const u8, substate as u8, ctx.ret());
    }
    0
}

#[fentry(function = "tcp_twsk_destructor")]
pub fn time_wait_end_fentry(ctx: FEntryContext) -> i32 {
    on_end(ctx.arg(0));
    0
}

#[kprobe]
pub fn time_wait_end_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(timewait) = ctx.arg(0) {
        on_end(timewait);
    }
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
    if timewait.is_null() {
        if let Some(counters) = counters::slot(slot) {
            // SAFETY: points into the map.
            add(unsafe { &raw mut (*counters).time_wait.overflows }, 1);
        }
        return;
    }
    if let Some(conn) = conn {
        // SAFETY: points into the map.
        unsafe { (*conn).flags |= CONN_TIME_WAIT };
    }
    count_entered(slot, substate);
    insert(timewait as u64, slot, socket::netns::<Probe>(sk));
    let conn = conn.map_or(core::ptr::null(), |conn| conn.cast_const());
    write_record(sk, conn, slot, substate);
}

/// Stores the owner of a timewait socket until its end.
#[inline(always)]
fn insert(timewait: u64, slot: u32, netns: u32) {
    if let Some(stale) = TIME_WAITS.get_ptr(timewait) {
        // The kernel skipped the program at the end of an older one at this address.
        // SAFETY: points into the map.
        let stale = unsafe { *stale };
        remove(timewait, &stale);
    }
    let mut account = slot;
    let mut generation = 0;
    if slot >= SLOT_FIRST {
        let Some(counters) = counters::slot(slot) else {
            return;
        };
        // SAFETY: points into the map.
        unsafe {
            account = (*counters).account;
            generation = (*counters).generation;
        }
    }
    let entry = TimeWait {
        slot,
        generation,
        account,
        netns,
        entered_ns: now(),
    };
    if TIME_WAITS.insert(timewait, entry, BPF_ANY).is_err() {
        map_full(MAP_TIME_WAITS);
        return;
    }
    if let Some(account) = ACCOUNTS.get_ptr_mut(account) {
        // SAFETY: points into the map.
        add(unsafe { &raw mut (*account).entered }, 1);
    }
    if let Some(counts) = counts_of_netns(netns) {
        // SAFETY: as above.
        add(unsafe { &raw mut (*counts).entered }, 1);
    }
}

/// Counters of a network namespace.
#[inline(always)]
fn counts_of_netns(netns: u32) -> Option<*mut Account> {
    if let Some(counts) = NETNS_TIME_WAITS.get_ptr_mut(netns) {
        return Some(counts);
    }
    // If this fails because another CPU inserted an entry first, use that one.
    let _ = NETNS_TIME_WAITS.insert(netns, Account::default(), BPF_NOEXIST);
    let counts = NETNS_TIME_WAITS.get_ptr_mut(netns);
    if counts.is_none() {
        map_full(MAP_NETNS);
    }
    counts
}

#[inline(always)]
fn on_end(timewait: *const u8) {
    seen(SIGNAL_TIME_WAIT_END);
    let Some(entry) = TIME_WAITS.get_ptr(timewait as u64) else {
        // It entered TIME_WAIT before the programs were attached.
        count_outcome(SIGNAL_TIME_WAIT_END, SLOT_UNATTRIBUTED);
        return;
    };
    // SAFETY: points into the map.
    let entry = unsafe { *entry };
    count_outcome(SIGNAL_TIME_WAIT_END, entry.slot);
    remove(timewait as u64, &entry);
}

/// Counts the end of a timewait socket. Only the program that removes the entry counts it, so that
/// it is not counted twice.
#[inline(always)]
fn remove(timewait: u64, entry: &TimeWait) {
    if TIME_WAITS.remove(timewait).is_err() {
        return;
    }
    if let Some(account) = ACCOUNTS.get_ptr_mut(entry.account) {
        // SAFETY: points into the map.
        add(unsafe { &raw mut (*account).ended }, 1);
    }
    if let Some(counts) = NETNS_TIME_WAITS.get_ptr_mut(entry.netns) {
        // SAFETY: as above.
        add(unsafe { &raw mut (*counts).ended }, 1);
    }
}
