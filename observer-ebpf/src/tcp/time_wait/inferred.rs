//! What a timewait socket says of its port: whether connect() may take it again, which
//! `tcp_twsk_unique` decides (net/ipv4/tcp_ipv4.c), and whether bind() chose it.
//!
//! Only the facts are read here; the daemon decides.

use observer_common::{
    FIN_WAIT2, PORT_BOUND, PORT_FIN_WAIT2, PORT_LOOPBACK_DEVICE, PORT_TIMESTAMPS, TIME_WAIT,
    TW_REUSE_DELAY_MS, TimeWaitOwner,
};

use crate::{
    core::{
        clock::now,
        fields::{at, has},
        read::{Memory, Probe},
    },
    tcp::ports::in_use,
};

/// `LOOPBACK_IFINDEX` (include/net/flow.h).
const LOOPBACK_IFINDEX: u32 = 1;

/// The most sockets of one hash bucket that are looked at. There are about as many buckets
/// as sockets at most, unless somebody made the table small.
const CHAIN: u32 = 32;

/// Nanoseconds in a millisecond.
const MS: u64 = 1_000_000;

/// What was read.
#[derive(Clone, Copy, Default)]
pub struct Rest {
    /// `PORT_` flags.
    pub flags: u32,
    /// See [`observer_common::PortUse::waited_ms`].
    pub waited_ms: u32,
}

/// What has become of a socket that entered TIME_WAIT.
pub enum Found {
    /// Its timewait socket.
    Socket(*const u8),
    /// It is not there any more.
    Nothing,
    /// The fields to look are absent, or the bucket changed meanwhile or is too long.
    Unknown,
}

/// Reads a timewait socket.
#[inline(always)]
pub fn read(tw: *const u8) -> Rest {
    let mut rest = Rest::default();
    // SAFETY: a `struct tcp_timewait_sock`, offsets from BTF. It may be gone, as everything
    // that an iterator reads.
    unsafe {
        if has::OFF_TW_BIND_HASH()
            && in_use::bound_bucket(Probe::read::<u64>(tw, at::OFF_TW_BIND_HASH()))
        {
            rest.flags |= PORT_BOUND;
        }
        if !has::OFF_TW_SUBSTATE() || !has::OFF_TW_TS_STAMP() {
            // Without timestamps, as far as anybody knows: not to be taken again.
            return rest;
        }
        if Probe::read::<u8>(tw, at::OFF_TW_SUBSTATE()) == FIN_WAIT2 {
            rest.flags |= PORT_FIN_WAIT2;
        }
        // Seconds, of the last timestamp that came.
        let stamp = Probe::read::<u32>(tw, at::OFF_TW_TS_STAMP());
        if stamp != 0 {
            rest.flags |= PORT_TIMESTAMPS;
        }
        if has::OFF_SKC_BOUND_IF()
            && Probe::read::<u32>(tw, at::OFF_SKC_BOUND_IF()) == LOOPBACK_IFINDEX
        {
            rest.flags |= PORT_LOOPBACK_DEVICE;
        }
        let since = if has::OFF_TW_ENTRY_STAMP() {
            Probe::read::<u32>(tw, at::OFF_TW_ENTRY_STAMP())
        } else {
            // Before 6.14 the next second is waited for.
            stamp.wrapping_mul(1000)
        };
        // The kernel's clocks in these units wrap as well.
        let waited = ((now() / MS) as u32).wrapping_sub(since);
        if waited >> 31 == 0 {
            rest.waited_ms = waited;
        }
    }
    rest
}

/// `skc_hash` of a full socket, which its timewait socket takes over.
#[inline(always)]
pub fn hash_of<M: Memory>(sk: *const u8) -> u32 {
    if !has::OFF_SKC_HASH() {
        return 0;
    }
    // SAFETY: a `struct sock_common`, offset from BTF.
    unsafe { M::read(sk, at::OFF_SKC_HASH()) }
}

/// Finds the timewait socket of `owner` in the kernel's table of connections, where it is
/// before the socket that it replaces is closed (`tcp_time_wait`).
#[inline(always)]
pub fn find(owner: &TimeWaitOwner) -> Found {
    if !has::OFF_NET_HASHINFO()
        || !has::OFF_HASHINFO_EHASH()
        || !has::OFF_HASHINFO_MASK()
        || !has::OFF_SKC_HASH()
        || !has::OFF_SKC_NODE()
        || !has::OFF_SKC_NET()
    {
        return Found::Unknown;
    }
    // SAFETY: a `struct net`, its inet_hashinfo, and the chain of a bucket, offsets from BTF.
    // The chain may lead anywhere when a socket of it is freed meanwhile; all reads are safe.
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
                // The end of a chain says of which (include/linux/list_nulls.h).
                if node >> 1 == u64::from(bucket) {
                    return Found::Nothing;
                }
                return Found::Unknown;
            }
            let sk = (node as *const u8).wrapping_sub(at::OFF_SKC_NODE());
            if Probe::read::<u32>(sk, at::OFF_SKC_HASH()) == owner.hash
                && Probe::read::<u8>(sk, at::OFF_SKC_STATE()) == TIME_WAIT
                && Probe::read::<u16>(sk, at::OFF_SKC_NUM()) == owner.local_port
                && u16::from_be(Probe::read(sk, at::OFF_SKC_DPORT())) == owner.remote_port
                && Probe::read::<u64>(sk, at::OFF_SKC_NET()) == owner.net
            {
                return Found::Socket(sk);
            }
            node = Probe::read(node as *const u8, 0);
            i += 1;
        }
    }
    Found::Unknown
}

/// `tcp_tw_reuse` of a namespace, and its delay in milliseconds.
#[inline(always)]
pub fn reuse_in(net: *const u8) -> (u32, u32) {
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
