//! Sockets in TIME_WAIT: their owners by the address of the timewait socket
//! (`struct inet_timewait_sock`), and how many there are by process and by network namespace.
//!
//! [`hooks`] counts their start and end. Where kernel functions cannot be hooked, [`lookup`] finds
//! the timewait socket when it replaces the full one, and the daemon's walk over all of them finds
//! those that ended.

mod hooks;
pub mod lookup;

use observer_common::{
    CONN_TIME_WAIT, Conn, MAP_NETNS, MAP_TIME_WAITS, RECORD_TIME_WAIT, SIGNAL_TIME_WAIT,
    SIGNAL_TIME_WAIT_END, SLOT_FIRST, SLOT_UNATTRIBUTED, TIME_WAIT, TimeWait, TimeWaitCount,
    coarse_time,
};

use crate::{
    core::{
        clock::now,
        counters::{self, add},
        fields::{at, has},
        maps::{BPF_ANY, BPF_NOEXIST, NETNS_TIME_WAITS, TIME_WAIT_COUNTS, TIME_WAITS},
        outcome::{count_outcome, map_full, seen},
        read::{Direct, Memory, Probe},
        records, socket,
    },
    tcp::gauges,
};

/// `sk`, with the entry `conn` and the owner `slot`, is replaced by `timewait` in `substate`.
#[inline(always)]
fn entered(sk: *const u8, conn: Option<*mut Conn>, slot: u32, timewait: *const u8, substate: u8) {
    seen(SIGNAL_TIME_WAIT);
    count_outcome(SIGNAL_TIME_WAIT, slot);
    if let Some(counters) = counters::slot(slot) {
        let index = usize::from(substate != TIME_WAIT);
        // SAFETY: points into the map; the index is that of one of two elements.
        unsafe {
            add(
                (&raw mut (*counters).time_wait.entered)
                    .cast::<u64>()
                    .add(index),
                1,
            )
        };
    }
    if let Some(conn) = conn {
        // SAFETY: points into the map.
        unsafe { (*conn).flags |= CONN_TIME_WAIT };
    }
    insert(
        timewait as u64,
        slot,
        socket::netns::<Probe>(sk),
        hash::<Probe>(sk),
    );
    let conn = conn.map_or(core::ptr::null(), |conn| conn.cast_const());
    records::write(RECORD_TIME_WAIT, sk, conn, slot, |record| {
        record.to = substate;
    });
}

/// `skc_hash`, which a timewait socket copies from the socket that it replaces (`inet_twsk_alloc`).
/// Computed from addresses and ports with a random key, it identifies the connection.
#[inline(always)]
fn hash<M: Memory>(sk: *const u8) -> u32 {
    if !has::OFF_SKC_HASH() {
        return 0;
    }
    // SAFETY: a `struct sock_common`, offset from BTF.
    unsafe { M::read(sk, at::OFF_SKC_HASH()) }
}

/// Stores the owner of a timewait socket until its end.
#[inline(always)]
fn insert(timewait: u64, slot: u32, netns: u32, hash: u32) {
    if let Some(stale) = TIME_WAITS.get_ptr(timewait) {
        // The end of an older one at this address was not seen.
        // SAFETY: points into the map.
        let stale = unsafe { *stale };
        remove(timewait, &stale);
    }
    let mut count = slot;
    let mut generation = 0;
    if slot >= SLOT_FIRST {
        let Some(counters) = counters::slot(slot) else {
            return;
        };
        // SAFETY: points into the map.
        unsafe {
            count = (*counters).time_wait_count;
            generation = (*counters).generation;
        }
    }
    let of_netns = count_of_netns(netns);
    let entry = TimeWait {
        slot,
        generation,
        count,
        // An end is counted only where the start was: the map may have room by then.
        netns: if of_netns.is_some() { netns } else { 0 },
        entered: coarse_time(now()),
        hash,
    };
    let Some(count) = TIME_WAIT_COUNTS.get_ptr_mut(count) else {
        return;
    };
    // SAFETY: points into the map.
    let live = unsafe { (*count).entered.wrapping_sub((*count).ended) }.cast_signed();
    if live >= gauges::share(slot) || TIME_WAITS.insert(timewait, entry, BPF_ANY).is_err() {
        map_full(MAP_TIME_WAITS);
        return;
    }
    // SAFETY: as above.
    add(unsafe { &raw mut (*count).entered }, 1);
    if let Some(count) = of_netns {
        // SAFETY: as above.
        add(unsafe { &raw mut (*count).entered }, 1);
    }
}

/// Counters of a network namespace.
#[inline(always)]
fn count_of_netns(netns: u32) -> Option<*mut TimeWaitCount> {
    if let Some(count) = NETNS_TIME_WAITS.get_ptr_mut(netns) {
        return Some(count);
    }
    // If this fails because another CPU inserted an entry first, use that one.
    let _ = NETNS_TIME_WAITS.insert(netns, TimeWaitCount::default(), BPF_NOEXIST);
    let count = NETNS_TIME_WAITS.get_ptr_mut(netns);
    if count.is_none() {
        map_full(MAP_NETNS);
    }
    count
}

/// Removes the entry of a timewait socket that ended, and counts the end. Only the program that
/// removes the entry counts it, so that it is not counted twice.
#[inline(always)]
fn remove(timewait: u64, entry: &TimeWait) {
    if TIME_WAITS.remove(timewait).is_err() {
        return;
    }
    seen(SIGNAL_TIME_WAIT_END);
    count_outcome(SIGNAL_TIME_WAIT_END, entry.slot);
    if let Some(count) = TIME_WAIT_COUNTS.get_ptr_mut(entry.count) {
        // SAFETY: points into the map.
        add(unsafe { &raw mut (*count).ended }, 1);
    }
    if let Some(count) = NETNS_TIME_WAITS.get_ptr_mut(entry.netns) {
        // SAFETY: as above.
        add(unsafe { &raw mut (*count).ended }, 1);
    }
}

/// Slot and generation of the owner of a timewait socket.
#[inline(always)]
pub fn owner(timewait: *const u8) -> (u32, u32) {
    match TIME_WAITS.get_ptr(timewait as u64) {
        // SAFETY: points into the map.
        Some(entry) => unsafe {
            // Otherwise it replaced one whose end was not seen.
            if (*entry).hash == hash::<Probe>(timewait) {
                return ((*entry).slot, (*entry).generation);
            }
        },
        None => {}
    }
    (SLOT_UNATTRIBUTED, 0)
}

/// Whether the timewait socket with these `fields`, which has an entry, is still in the kernel's table of
/// connections. `inet_twsk_kill` removes it; its memory may then be reused.
#[inline(always)]
fn is_hashed(fields: *const u8, entry: &TimeWait) -> bool {
    if !has::OFF_SKC_NODE() {
        return true;
    }
    // SAFETY: a `struct sock_common` that may have been freed, offsets from BTF. The second pointer
    // of the list node is null outside of lists.
    unsafe {
        Direct::read::<u64>(fields, at::OFF_SKC_NODE() + size_of::<u64>()) != 0
            && Direct::read::<u8>(fields, at::OFF_SKC_STATE()) == TIME_WAIT
            && hash::<Direct>(fields) == entry.hash
    }
}

/// Called by the walk over the map. Removes the entry of a timewait socket whose end no program saw,
/// and returns whether it did. `fields` is a copy of the socket ([`crate::core::walk`]).
#[inline(always)]
pub fn remove_if_ended(timewait: u64, fields: *const u8, entry: &TimeWait, age: u32) -> bool {
    /// The kernel allocates a timewait socket before it is in the table.
    const NEW: u32 = coarse_time(1_000_000_000);
    if age < NEW || is_hashed(fields, entry) {
        return false;
    }
    remove(timewait, entry);
    true
}
