//! Local ports in use: `iter/bpf_map_elem` over the map of connections, over what rests in
//! TIME_WAIT, and over the network namespaces that the two met.
//!
//! Nothing is counted as it happens. When the daemon reads the iterators, they write down
//! each socket's address pair, and the daemon counts ports. A port that was taken again
//! while its last user rests in TIME_WAIT comes twice and counts once.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_probe_read_kernel};
use observer_common::{
    CLOSE, CONN_PARENT, CONN_PASSIVE, Conn, LISTEN, NetSeen, PORT_BOUND, PORT_UNCONNECTED, PortUse,
    TIME_WAIT_NS, TimeWait, TimeWaitOwner, coarse_time, places_of,
};

use crate::{
    core::{
        clock::now,
        counters,
        fields::{CPU_BITS, TIME_WAIT_OWNERS_MASK, at, has},
        maps::{NAMESPACES, PORT_SPACE, TIME_WAIT_OWNERS},
        read::{Memory, Probe},
        seq::{self, Output},
        socket::{local_address, remote_address},
    },
    tcp::{
        ownership,
        time_wait::inferred::{self, Found, Rest},
    },
};

/// Marks a key that is not a cookie.
const WITHOUT_COOKIE: u64 = 1 << 63;

/// The socket leaves for TIME_WAIT: remembers whose its address pair is, for RSTs that answer
/// late segments and for the ports in use.
#[inline(always)]
pub unsafe fn rest<M: Memory>(sk: *const u8, slot: u32, generation: u32) {
    let time = now();
    // SAFETY: a full socket, offsets from BTF.
    unsafe {
        let mut key = 0;
        if has::OFF_SKC_COOKIE() {
            key = M::read::<u64>(sk, at::OFF_SKC_COOKIE());
        }
        if key == 0 {
            // It has no cookie: its FIN_WAIT1 was not seen, or the kernel is older than 5.12.
            key = without_cookie();
        }
        let mut net = 0;
        if has::OFF_SKC_NET() {
            net = M::read(sk, at::OFF_SKC_NET());
        }
        let Some(entry) = place_for(key, coarse_time(time)) else {
            return;
        };
        // Without a key while it is half written.
        (&raw mut (*entry).key).write_volatile(0);
        *entry = TimeWaitOwner {
            key: 0,
            slot,
            generation,
            net,
            net_cookie: cookie_of::<M>(net),
            entered: coarse_time(time),
            // skc_num is 0 by now, unless the socket was bound.
            local_port: u16::from_be(Probe::read(sk, at::OFF_INET_SPORT())),
            remote_port: u16::from_be(M::read(sk, at::OFF_SKC_DPORT())),
            local: local_address::<M>(sk),
            remote: remote_address::<M>(sk),
            hash: inferred::hash_of::<M>(sk),
            reserved: 0,
        };
        (&raw mut (*entry).key).write_volatile(key);
    }
}

/// A key for a socket without a cookie.
#[inline(always)]
fn without_cookie() -> u64 {
    let Some(stats) = counters::stats() else {
        return WITHOUT_COOKIE;
    };
    // SAFETY: points into the map; the helper takes no arguments. No other CPU adds to this
    // one's, and if an interrupt does, one of the two is forgotten.
    unsafe {
        let turn = (*stats).rested;
        (*stats).rested = turn + 1;
        WITHOUT_COOKIE | turn << CPU_BITS.load() | u64::from(bpf_get_smp_processor_id())
    }
}

/// A place for what enters TIME_WAIT under `key` now: one where nothing rests any more, else
/// that of whatever entered first.
#[inline(always)]
fn place_for(key: u64, time: u32) -> Option<*mut TimeWaitOwner> {
    let places = places_of(key, TIME_WAIT_OWNERS_MASK.load());
    let mut oldest = None;
    let mut longest = 0;
    let mut i = 0;
    while i < places.len() {
        let place = TIME_WAIT_OWNERS.get_ptr_mut(places[i])?;
        // SAFETY: points into the map.
        let (taken, entered) = unsafe { ((*place).key, (*place).entered) };
        let age = time.wrapping_sub(entered);
        if taken == 0 || age > coarse_time(TIME_WAIT_NS) {
            return Some(place);
        }
        if oldest.is_none() || age > longest {
            oldest = Some(place);
            longest = age;
        }
        i += 1;
    }
    oldest
}

/// Slot and generation of the owner of a timewait socket, by its cookie.
#[inline(always)]
pub fn resting_owner(cookie: u64) -> Option<(u32, u32)> {
    let places = places_of(cookie, TIME_WAIT_OWNERS_MASK.load());
    let mut i = 0;
    while i < places.len() {
        let place = TIME_WAIT_OWNERS.get_ptr(places[i])?;
        // SAFETY: points into the map.
        unsafe {
            let key = (&raw const (*place).key).read_volatile();
            let owner = ((*place).slot, (*place).generation);
            // Still the same: not overwritten meanwhile.
            if key == cookie && (&raw const (*place).key).read_volatile() == key {
                return (cookie != 0).then_some(owner);
            }
        }
        i += 1;
    }
    None
}

/// `net_cookie` of a `struct net`, 0 where the kernel has none.
#[inline(always)]
fn cookie_of<M: Memory>(net: u64) -> u64 {
    if !has::OFF_SKC_NET() || !has::OFF_NET_COOKIE() {
        return 0;
    }
    // SAFETY: a `struct net`, maybe gone, offset from BTF.
    unsafe { M::read(net as *const u8, at::OFF_NET_COOKIE()) }
}

/// Whether the `struct net` at `net` is still the one that had `cookie`. What rested in
/// TIME_WAIT in a namespace that is gone went with it (`inet_twsk_purge`), and the next
/// namespace may well get both address and inode number of the last.
#[inline(always)]
fn is_alive(net: u64, cookie: u64) -> bool {
    if cookie_of::<Probe>(net) != cookie {
        return false;
    }
    if !has::OFF_NET_LIST() {
        return true;
    }
    let here = net.wrapping_add(at::OFF_NET_LIST() as u64);
    // SAFETY: as above; `list_del_rcu` leaves the way out of a list and takes the way in.
    unsafe {
        let next = Probe::read::<u64>(here as *const u8, 0) as *const u8;
        Probe::read::<u64>(next, 8) == here
    }
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map_elem")]
fn connections_iter(ctx: *mut c_void) -> i32 {
    // SAFETY: attached to the map of connections.
    let Some((output, key, conn)) = (unsafe { seq::element::<u64, Conn>(ctx) }) else {
        return 0;
    };
    // SAFETY: the verifier checks both against the sizes in the map.
    let (sk, flags, state) = unsafe { (*key as *const u8, (*conn).flags, (*conn).state) };
    // A child has its listener's port.
    if flags & (CONN_PASSIVE | CONN_PARENT) != 0 {
        return 0;
    }
    let mut taken = 0;
    if state == LISTEN || bound(sk) {
        taken |= PORT_BOUND;
    }
    if matches!(state, LISTEN | CLOSE) {
        taken |= PORT_UNCONNECTED;
    }
    // After its end, a socket keeps only a port that it was bound to.
    if taken != PORT_UNCONNECTED {
        let slot = ownership::of_entry(conn);
        write(output, sk, slot, counters::generation(slot), taken, None);
    }
    0
}

/// Whether the socket's port is one that the kernel does not give to others: the kernel
/// itself goes by these two (`__inet_hash_connect`). Below zero, only connect() chose it.
#[inline(always)]
fn bound(sk: *const u8) -> bool {
    // SAFETY: an inet_connection_sock, offset from BTF.
    has::OFF_ICSK_BIND_HASH()
        && bound_bucket(unsafe { Probe::read::<u64>(sk, at::OFF_ICSK_BIND_HASH()) })
}

/// The same, of the `struct inet_bind_bucket` of a port.
#[inline(always)]
pub fn bound_bucket(bucket: u64) -> bool {
    if !has::OFF_TB_FASTREUSE() || !has::OFF_TB_FASTREUSEPORT() {
        return false;
    }
    let bucket = bucket as *const u8;
    // SAFETY: an inet_bind_bucket, offsets from BTF.
    unsafe {
        !bucket.is_null()
            && (Probe::read::<i8>(bucket, at::OFF_TB_FASTREUSE()) >= 0
                || Probe::read::<i8>(bucket, at::OFF_TB_FASTREUSEPORT()) >= 0)
    }
}

/// Writes down the port of a socket, of any kind that begins with a `struct sock_common`.
/// `age` is that of one in TIME_WAIT.
#[inline(always)]
fn write(
    output: Output,
    sk: *const u8,
    slot: u32,
    generation: u32,
    mut flags: u32,
    age: Option<u32>,
) {
    let mut waited_ms = 0;
    if age.is_some() {
        let rest = inferred::read(sk);
        flags |= rest.flags;
        waited_ms = rest.waited_ms;
    }
    // SAFETY: as above, offsets from BTF.
    let record = unsafe {
        let mut net = 0;
        if has::OFF_SKC_NET() {
            net = Probe::read::<u64>(sk, at::OFF_SKC_NET());
        }
        PortUse {
            slot,
            generation,
            netns: visit(net),
            flags,
            age: age.unwrap_or(0),
            waited_ms,
            local_port: Probe::read(sk, at::OFF_SKC_NUM()),
            remote_port: u16::from_be(Probe::read(sk, at::OFF_SKC_DPORT())),
            local: local_address::<Probe>(sk),
            remote: remote_address::<Probe>(sk),
        }
    };
    // Not chosen yet: connect() is looking for one.
    if record.local_port != 0 {
        output.write(&raw const record);
    }
}

/// Notes that a socket of the `struct net` at `net` was met. Returns its inode number.
#[inline(always)]
fn visit(net: u64) -> u32 {
    let mut netns = 0;
    if has::OFF_NET_INUM() {
        // SAFETY: a `struct net`, offset from BTF. It may be gone, if only something in
        // TIME_WAIT remembers it; then this reads what is there now.
        netns = unsafe { Probe::read(net as *const u8, at::OFF_NET_INUM()) };
    }
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
    netns
}

/// Where TIME_WAIT is inferred. What is written down is what a socket was remembered by, and
/// what the timewait socket that the kernel finds by it says.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map_elem")]
fn time_waits_iter(ctx: *mut c_void) -> i32 {
    // SAFETY: attached to the map of owners of TIME_WAIT sockets.
    let Some((output, _, owner)) = (unsafe { seq::element::<u32, TimeWaitOwner>(ctx) }) else {
        return 0;
    };
    // SAFETY: the verifier checks it against the size in the map.
    let key = unsafe { (&raw const (*owner).key).read_volatile() };
    if key == 0 {
        return 0;
    }
    // SAFETY: likewise.
    let (place, owner) = (owner, unsafe { *owner });
    // SAFETY: likewise.
    if unsafe { (&raw const (*place).key).read_volatile() } != key {
        // Overwritten meanwhile.
        return 0;
    }
    let mut found = Found::Nothing;
    if is_alive(owner.net, owner.net_cookie) {
        found = inferred::find(&owner);
    }
    let age = coarse_time(now()).wrapping_sub(owner.entered);
    let over = age > coarse_time(TIME_WAIT_NS);
    let rest = match found {
        // It may have waited in FIN_WAIT2 first.
        Found::Socket(sk) => inferred::read(sk),
        Found::Unknown if !over => Rest::default(),
        _ => {
            if over {
                // SAFETY: likewise. The time would look like a fresh one in 52 days.
                unsafe { (&raw mut (*place).key).write_volatile(0) };
            }
            return 0;
        }
    };
    let record = PortUse {
        slot: owner.slot,
        generation: owner.generation,
        netns: visit(owner.net),
        flags: rest.flags,
        age: age + 1,
        waited_ms: rest.waited_ms,
        local_port: owner.local_port,
        remote_port: owner.remote_port,
        local: owner.local,
        remote: owner.remote,
    };
    output.write(&raw const record);
    0
}

/// Where TIME_WAIT is exact: the key is the timewait socket's address.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map_elem")]
fn owned_time_waits_iter(ctx: *mut c_void) -> i32 {
    // SAFETY: attached to the map of sockets in TIME_WAIT.
    let Some((output, key, entry)) = (unsafe { seq::element::<u64, TimeWait>(ctx) }) else {
        return 0;
    };
    // SAFETY: the verifier checks both against the sizes in the map.
    let (sk, slot, generation, entered) = unsafe {
        (
            *key,
            (*entry).slot,
            (*entry).generation,
            (*entry).entered_ns,
        )
    };
    let age = coarse_time(now()).wrapping_sub(coarse_time(entered));
    write(output, sk as *const u8, slot, generation, 0, Some(age + 1));
    0
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
        let (tw_reuse, delay) = inferred::reuse_in(net);
        (*space).tw_reuse = tw_reuse;
        (*space).tw_reuse_delay_ms = delay;
        let reserved = Probe::read::<u64>(net, at::OFF_NET_RESERVED_PORTS()) as *const c_void;
        // Zero bytes when there is no bitmap.
        bpf_probe_read_kernel(
            (&raw mut (*space).reserved).cast(),
            size_of_val(&(*space).reserved) as u32,
            reserved,
        );
        output.write(space);
    }
    0
}

/// `ip_local_ports.range`: two ints, since 6.8 both in one (`inet_get_local_port_range`).
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
