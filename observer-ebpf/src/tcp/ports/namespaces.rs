//! Ranges of local ports, and sysctls: `iter/bpf_map_elem` over the network namespaces of the sockets that the
//! iterators over ports visited.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use observer_common::{NET_SETTINGS, NetSeen, TW_REUSE_DELAY_MS};

use crate::core::{
    clock::now,
    fields::{NET_SETTINGS_LENGTH, NET_SETTINGS_START, at, has},
    maps::{NAMESPACES, PORT_SPACE},
    read::{Memory, Probe},
    seq,
};

/// Records that a socket of the `struct net` at `net`, with the inode number `netns`, was visited.
#[inline(always)]
pub fn note(net: u64, netns: u32) {
    let seen = NetSeen {
        net,
        seen_ns: now(),
    };
    match NAMESPACES.get_ptr_mut(netns) {
        // SAFETY: points into the map.
        Some(entry) => unsafe { *entry = seen },
        None => {
            let _ = NAMESPACES.insert(netns, seen, 0);
        }
    }
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map_elem")]
fn namespaces_iter(ctx: *mut c_void) -> i32 {
    // SAFETY: attached to the map of network namespaces.
    let Some((output, key, seen)) = (unsafe { seq::element::<u32, NetSeen>(ctx) }) else {
        return 0;
    };
    let Some(space) = PORT_SPACE.get_ptr_mut(0) else {
        return 0;
    };
    if !has::OFF_NET_PORT_RANGE() || !has::OFF_NET_RESERVED_PORTS() {
        return 0;
    }
    // SAFETY: the verifier checks key and value against the sizes in the map; `space` points
    // into a map; a `struct net` and its bitmap of reserved ports, offsets from BTF.
    unsafe {
        let net = (*seen).net as *const u8;
        let (low, high) = range(net.wrapping_add(at::OFF_NET_PORT_RANGE()));
        (*space).seen_ns = (*seen).seen_ns;
        (*space).netns = *key;
        (*space).low = low;
        (*space).high = high;
        let (tw_reuse, delay) = reuse_in(net);
        (*space).tw_reuse = tw_reuse;
        (*space).tw_reuse_delay_ms = delay;
        (*space).settings_length = 0;
        let length = NET_SETTINGS_LENGTH.load();
        if length <= NET_SETTINGS as u64 {
            let copied = bpf_probe_read_kernel(
                (&raw mut (*space).settings).cast(),
                length as u32,
                net.wrapping_add(NET_SETTINGS_START.load() as usize).cast(),
            );
            if copied == 0 {
                (*space).settings_length = length as u32;
            }
        }
        let reserved = Probe::read::<u64>(net, at::OFF_NET_RESERVED_PORTS()) as *const c_void;
        // Reads zero bytes if there is no bitmap.
        bpf_probe_read_kernel(
            (&raw mut (*space).reserved).cast(),
            size_of_val(&(*space).reserved) as u32,
            reserved,
        );
        output.write(space);
    }
    0
}

/// `ip_local_ports.range`: two ints, since 6.8 packed into one (`inet_get_local_port_range`).
#[inline(always)]
unsafe fn range(at_range: *const u8) -> (u16, u16) {
    // SAFETY: the caller's.
    unsafe {
        if at::PORT_RANGE_SIZE() == 4 {
            let both = Probe::read::<u32>(at_range, 0);
            return (both as u16, (both >> 16) as u16);
        }
        (
            Probe::read::<u32>(at_range, 0) as u16,
            Probe::read::<u32>(at_range, 4) as u16,
        )
    }
}

/// `tcp_tw_reuse` of a namespace, and its delay in milliseconds.
#[inline(always)]
fn reuse_in(net: *const u8) -> (u32, u32) {
    if !has::OFF_NET_TW_REUSE() {
        return (0, 0);
    }
    // SAFETY: a `struct net`, offsets from BTF.
    unsafe {
        let reuse = Probe::read::<u8>(net, at::OFF_NET_TW_REUSE());
        let mut delay = TW_REUSE_DELAY_MS;
        if has::OFF_NET_TW_REUSE_DELAY() {
            delay = Probe::read(net, at::OFF_NET_TW_REUSE_DELAY());
        }
        (u32::from(reuse), delay)
    }
}
