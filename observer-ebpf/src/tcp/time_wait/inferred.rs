//! TIME_WAIT where its functions cannot be hooked. Entries are inferred from transitions to CLOSE.
//! An array stores their owners, for RSTs that answer late segments and for the ports in use.

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use observer_common::{
    CLOSING, CONN_TIME_WAIT, Conn, FIN_WAIT2, TIME_WAIT, TIME_WAIT_NS, TimeWaitOwner, coarse_time,
    places_of,
};

use crate::{
    core::{
        clock::now,
        counters::{self, add},
        fields::{CPU_BITS, HOME_NETNS, TIME_WAIT_OWNERS_MASK, at, has},
        maps::TIME_WAIT_OWNERS,
        read::{Memory, Probe},
        socket::{self, SOCK_DEAD, SOCK_DONE, local_address, remote_address},
    },
    tcp::time_wait::{count_entered, write_record},
};

/// Limit for the sockets of one hash bucket. The kernel has about as many buckets as sockets, unless
/// an administrator made the table small.
const CHAIN: u32 = 32;

/// Flag of a key that is not a cookie.
const WITHOUT_COOKIE: u64 = 1 << 63;

/// Result of a lookup of a timewait socket.
pub enum Lookup {
    /// The timewait socket.
    Socket(*const u8),
    /// It no longer exists.
    Nothing,
    /// Not known: fields are absent, or the bucket changed during the lookup or is too long.
    Unknown,
}

/// `skc_hash` of a full socket, which its timewait socket copies.
#[inline(always)]
pub fn hash_of<M: Memory>(sk: *const u8) -> u32 {
    if !has::OFF_SKC_HASH() {
        return 0;
    }
    // SAFETY: a `struct sock_common`, offset from BTF.
    unsafe { M::read(sk, at::OFF_SKC_HASH()) }
}

/// Finds the timewait socket of `owner` in the kernel's hash table of connections. The kernel inserts
/// it before it closes the socket that it replaces (`tcp_time_wait`).
#[inline(always)]
pub fn find(owner: &TimeWaitOwner) -> Lookup {
    if !has::OFF_NET_HASHINFO()
        || !has::OFF_HASHINFO_EHASH()
        || !has::OFF_HASHINFO_MASK()
        || !has::OFF_SKC_HASH()
        || !has::OFF_SKC_NODE()
        || !has::OFF_SKC_NET()
    {
        return Lookup::Unknown;
    }
    // SAFETY: a `struct net`, its inet_hashinfo, and the chain of a bucket, offsets from BTF.
    // The chain can lead anywhere if one of its sockets is freed concurrently; all reads are safe.
    unsafe {
        let hashinfo = Probe::read::<u64>(owner.net as *const u8, at::OFF_NET_HASHINFO());
        let hashinfo = hashinfo as *const u8;
        let table = Probe::read::<u64>(hashinfo, at::OFF_HASHINFO_EHASH());
        let bucket = owner.hash & Probe::read::<u32>(hashinfo, at::OFF_HASHINFO_MASK());
        // A bucket is one pointer.
        let mut node = Probe::read::<u64>(table as *const u8, bucket as usize * 8);
        let mut i = 0;
        while i < CHAIN {
            if node & 1 != 0 {
                // The end of a chain contains the number of its bucket
                // (include/linux/list_nulls.h).
                if node >> 1 == u64::from(bucket) {
                    return Lookup::Nothing;
                }
                return Lookup::Unknown;
            }
            let sk = (node as *const u8).wrapping_sub(at::OFF_SKC_NODE());
            if Probe::read::<u32>(sk, at::OFF_SKC_HASH()) == owner.hash
                && Probe::read::<u8>(sk, at::OFF_SKC_STATE()) == TIME_WAIT
                && Probe::read::<u16>(sk, at::OFF_SKC_NUM()) == owner.local_port
                && u16::from_be(Probe::read(sk, at::OFF_SKC_DPORT())) == owner.remote_port
                && Probe::read::<u64>(sk, at::OFF_SKC_NET()) == owner.net
            {
                return Lookup::Socket(sk);
            }
            node = Probe::read(node as *const u8, 0);
            i += 1;
        }
    }
    Lookup::Unknown
}

/// Whether a socket that goes from FIN_WAIT2 or CLOSING to CLOSE without an error is replaced by a
/// timewait socket. The kernel calls `tcp_time_wait` when the peer's FIN has arrived (`tcp_fin` sets
/// SOCK_DONE before) or when the socket is an orphan (`sock_orphan` sets SOCK_DEAD before). With
/// close() with unread data, SO_LINGER 0 and connect(AF_UNSPEC), neither is set. `None` if it depends
/// on whether an RST is sent after this transition.
#[inline(always)]
pub unsafe fn enters_time_wait<M: Memory>(sk: *const u8, old: u8) -> Option<bool> {
    if !has::OFF_SKC_FLAGS() {
        return Some(true);
    }
    // SAFETY: a full tcp_sock, offsets from BTF.
    unsafe {
        let flags = M::read::<u64>(sk, at::OFF_SKC_FLAGS());
        if flags & (SOCK_DEAD | SOCK_DONE) == 0 {
            return Some(false);
        }
        // With a negative TCP_LINGER2, orphans skip FIN_WAIT2.
        if flags & SOCK_DEAD != 0 && has::OFF_TP_LINGER2() {
            let linger2 = Probe::read::<i32>(sk, at::OFF_TP_LINGER2());
            if linger2 < 0 && old == FIN_WAIT2 {
                return Some(false);
            }
        }
        // May be close() with unread data in CLOSING: the FIN has arrived, and the program still
        // holds the socket.
        if old == CLOSING && flags & SOCK_DEAD == 0 {
            return None;
        }
        Some(true)
    }
}

/// Counts an inferred entry into TIME_WAIT.
#[inline(always)]
pub unsafe fn on_entered<M: Memory>(sk: *const u8, conn: *mut Conn, slot: u32) {
    let mut substate = TIME_WAIT;
    // SAFETY: points into the map; `sk` is a full socket, offsets from BTF.
    unsafe {
        (*conn).flags |= CONN_TIME_WAIT;
        if has::OFF_SKC_FLAGS() && M::read::<u64>(sk, at::OFF_SKC_FLAGS()) & SOCK_DONE == 0 {
            // The peer's FIN has not arrived.
            substate = FIN_WAIT2;
        }
        count_entered(slot, substate);
        let Some(counters) = counters::slot(slot) else {
            return;
        };
        if socket::netns::<M>(sk) != HOME_NETNS.load() {
            if let Some(stats) = counters::stats() {
                add(&raw mut (*stats).time_wait_elsewhere, 1);
            }
        }
        remember_owner::<M>(sk, slot, (*counters).generation);
    }
    write_record(sk, conn, slot, substate);
}

/// Stores owner and addresses of a socket that enters TIME_WAIT, for RSTs that answer late segments
/// and for the ports in use.
#[inline(always)]
unsafe fn remember_owner<M: Memory>(sk: *const u8, slot: u32, generation: u32) {
    let time = now();
    // SAFETY: a full socket, offsets from BTF.
    unsafe {
        let mut key = 0;
        if has::OFF_SKC_COOKIE() {
            key = M::read::<u64>(sk, at::OFF_SKC_COOKIE());
        }
        if key == 0 {
            // It has no cookie: its transition to FIN_WAIT1 was missed, or the kernel is older than
            // 5.12.
            key = key_without_cookie();
        }
        let mut net = 0;
        if has::OFF_SKC_NET() {
            net = M::read(sk, at::OFF_SKC_NET());
        }
        let Some(entry) = place_for(key, coarse_time(time)) else {
            return;
        };
        // The key is 0 while the element is being written.
        (&raw mut (*entry).key).write_volatile(0);
        *entry = TimeWaitOwner {
            key: 0,
            slot,
            generation,
            net,
            net_cookie: cookie_of::<M>(net),
            entered: coarse_time(time),
            // skc_num is 0 here, unless the socket was bound.
            local_port: u16::from_be(Probe::read(sk, at::OFF_INET_SPORT())),
            remote_port: u16::from_be(M::read(sk, at::OFF_SKC_DPORT())),
            local: local_address::<M>(sk),
            remote: remote_address::<M>(sk),
            hash: hash_of::<M>(sk),
            reserved: 0,
        };
        (&raw mut (*entry).key).write_volatile(key);
    }
}

/// A key for a socket without a cookie.
#[inline(always)]
fn key_without_cookie() -> u64 {
    let Some(stats) = counters::stats() else {
        return WITHOUT_COOKIE;
    };
    // SAFETY: points into the map; the helper takes no arguments. Only this CPU adds to the counter;
    // if an interrupt does so in between, one of the two elements is overwritten.
    unsafe {
        let turn = (*stats).without_cookie;
        (*stats).without_cookie = turn + 1;
        WITHOUT_COOKIE | turn << CPU_BITS.load() | u64::from(bpf_get_smp_processor_id())
    }
}

/// The element for a socket that enters TIME_WAIT under `key` now: a free or expired one, otherwise
/// the oldest.
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
pub fn owner_by_cookie(cookie: u64) -> Option<(u32, u32)> {
    let places = places_of(cookie, TIME_WAIT_OWNERS_MASK.load());
    let mut i = 0;
    while i < places.len() {
        let place = TIME_WAIT_OWNERS.get_ptr(places[i])?;
        // SAFETY: points into the map.
        unsafe {
            let key = (&raw const (*place).key).read_volatile();
            let owner = ((*place).slot, (*place).generation);
            // Unchanged, so it was not overwritten in between.
            if key == cookie && (&raw const (*place).key).read_volatile() == key {
                return (cookie != 0).then_some(owner);
            }
        }
        i += 1;
    }
    None
}

/// `net_cookie` of a `struct net`; 0 if the kernel has none.
#[inline(always)]
fn cookie_of<M: Memory>(net: u64) -> u64 {
    if !has::OFF_SKC_NET() || !has::OFF_NET_COOKIE() {
        return 0;
    }
    // SAFETY: a `struct net` that may have been freed, offset from BTF.
    unsafe { M::read(net as *const u8, at::OFF_NET_COOKIE()) }
}

/// Whether the `struct net` at `net` is still the one that had `cookie`. A namespace that ends takes
/// its timewait sockets with it (`inet_twsk_purge`), and the next namespace may get its address and
/// inode number.
#[inline(always)]
pub fn is_alive(net: u64, cookie: u64) -> bool {
    if cookie_of::<Probe>(net) != cookie {
        return false;
    }
    if !has::OFF_NET_LIST() {
        return true;
    }
    let here = net.wrapping_add(at::OFF_NET_LIST() as u64);
    // SAFETY: as above. `list_del_rcu` keeps the `next` pointer of the removed element, but that
    // next element no longer points back to it.
    unsafe {
        let next = Probe::read::<u64>(here as *const u8, 0) as *const u8;
        Probe::read::<u64>(next, 8) == here
    }
}
