//! What an iterator over sockets keeps between them; see [`Walk`].
//!
//! A socket's fields are copied by few calls of `bpf_probe_read_kernel` and then read from the copy, because a call for
//! each field takes several times as long.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use observer_common::{WALK_CONNECTIONS, WALK_TIME_WAITS, Walk};

use crate::core::{
    fields::{COMMON_END, TCP_END, TCP_START, TIME_WAIT_END, at, has},
    jiffies,
    maps::WALKS,
    read::{Direct, Memory, Probe},
};

/// Copies the fields of `sk`, a `struct tcp_sock`.
#[inline(always)]
pub fn visit_connection(sk: *const u8) -> Option<*mut Walk> {
    let walk = WALKS.get_ptr_mut(WALK_CONNECTIONS)?;
    copy(walk, sk, 0, COMMON_END.load() as usize);
    if has::OFF_SK_SOCKET() {
        copy(walk, sk, at::OFF_SK_SOCKET(), size_of::<u64>());
    }
    let start = TCP_START.load() as usize;
    copy(walk, sk, start, TCP_END.load() as usize - start);
    update(walk);
    Some(walk)
}

/// Copies the fields of `tw`, a `struct tcp_timewait_sock`, which may have been freed.
#[inline(always)]
pub fn visit_time_wait(tw: *const u8) -> Option<*mut Walk> {
    let walk = WALKS.get_ptr_mut(WALK_TIME_WAITS)?;
    copy(walk, tw, 0, TIME_WAIT_END.load() as usize);
    update(walk);
    Some(walk)
}

/// After the last socket. The next walk records the network namespaces anew, even within the same jiffy.
#[inline(always)]
pub fn end(number: u32) {
    if let Some(walk) = WALKS.get_ptr_mut(number) {
        // SAFETY: points into the map.
        unsafe { (*walk).jiffies = 0 };
    }
}

/// The copied fields of the socket, at the offsets that they have in it. Read with [`Direct`].
#[inline(always)]
pub fn fields(walk: *mut Walk) -> *const u8 {
    // SAFETY: points into the map.
    unsafe { (&raw const (*walk).fields).cast() }
}

#[inline(always)]
fn copy(walk: *mut Walk, sk: *const u8, offset: usize, length: usize) {
    // SAFETY: the verifier checks that the bytes are in the map; the helper refuses bad addresses, and zeroes the
    // bytes then.
    unsafe {
        bpf_probe_read_kernel(
            (&raw mut (*walk).fields).cast::<u8>().add(offset).cast(),
            length as u32,
            sk.wrapping_add(offset).cast(),
        )
    };
}

/// Updates the time and the network namespace, if they are not those of the last socket.
#[inline(always)]
fn update(walk: *mut Walk) {
    let now = jiffies::jiffies();
    // SAFETY: points into the map; a `struct net`, offsets from BTF.
    unsafe {
        let mut net = 0;
        if has::OFF_SKC_NET() {
            net = Direct::read::<u64>(fields(walk), at::OFF_SKC_NET());
        }
        if (*walk).jiffies == now && (*walk).net == net {
            return;
        }
        if (*walk).jiffies != now {
            (*walk).jiffies = now;
            (*walk).rate = jiffies::rate(now);
        }
        (*walk).net = net;
        (*walk).noted = 0;
        (*walk).netns = 0;
        if has::OFF_NET_INUM() {
            (*walk).netns = Probe::read(net as *const u8, at::OFF_NET_INUM());
        }
    }
}
