//! Fields of kernel sockets that several signals read.

use observer_common::{AF_INET, AF_INET6, IPPROTO_MPTCP, IPPROTO_TCP, IPPROTO_UDP, V4_MAPPED};

use crate::core::{
    fields::{at, has},
    read::{Memory, Probe},
};

/// Bits of `sk_flags` (`enum sock_flags`, `include/net/sock.h`).
pub const SOCK_DEAD: u64 = 1 << 0;
pub const SOCK_KEEPOPEN: u64 = 1 << 3;
pub const SOCK_LINGER: u64 = 1 << 4;

/// Inode number of a socket's network namespace; 0 if the kernel has no namespaces.
#[inline(always)]
pub fn netns<M: Memory>(sk: *const u8) -> u32 {
    if !has::OFF_SKC_NET() || !has::OFF_NET_INUM() {
        return 0;
    }
    // SAFETY: a socket from the kernel, offsets from its BTF.
    unsafe {
        let net = M::read::<u64>(sk, at::OFF_SKC_NET()) as *const u8;
        M::read(net, at::OFF_NET_INUM())
    }
}

/// The parent of an MPTCP subflow; 0 if `sk` is not a subflow.
#[inline(always)]
pub fn mptcp_parent(sk: *const u8) -> u64 {
    if !has::OFF_TP_IS_MPTCP() || !has::OFF_ICSK_ULP_DATA() || !has::OFF_SUBFLOW_CONN() {
        return 0;
    }
    // SAFETY: a tcp_sock from the kernel, offsets from its BTF.
    unsafe {
        if Probe::read::<u8>(sk, at::OFF_TP_IS_MPTCP()) == 0 {
            return 0;
        }
        let subflow = Probe::read::<u64>(sk, at::OFF_ICSK_ULP_DATA()) as *const u8;
        if subflow.is_null() {
            return 0;
        }
        Probe::read::<u64>(subflow, at::OFF_SUBFLOW_CONN())
    }
}

/// The first subflow of an MPTCP parent; 0 if it has none.
#[inline(always)]
pub fn first_subflow(parent: *const u8) -> u64 {
    if !has::OFF_MSK_FIRST() {
        return 0;
    }
    // SAFETY: an mptcp_sock from the kernel, offset from its BTF.
    unsafe { Probe::read::<u64>(parent, at::OFF_MSK_FIRST()) }
}

/// Whether the socket's port is taken for every destination: of a listener, of its children, or chosen by bind().
#[inline(always)]
pub fn is_bound<M: Memory>(sk: *const u8) -> bool {
    // SAFETY: an inet_connection_sock, offset from BTF.
    has::OFF_ICSK_BIND_HASH()
        && is_bound_bucket(unsafe { M::read::<u64>(sk, at::OFF_ICSK_BIND_HASH()) })
}

/// The same from the port's `struct inet_bind_bucket`. `__inet_hash_connect` checks two fields,
/// which are negative if only connect() chose the port.
#[inline(always)]
pub fn is_bound_bucket(bucket: u64) -> bool {
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

/// Local address of any kind of socket, as the bytes of a `struct in6_addr`.
#[inline(always)]
pub fn local_address<M: Memory>(sk: *const u8) -> [u32; 4] {
    address::<M>(
        sk,
        at::OFF_SKC_RCV_SADDR(),
        has::OFF_SKC_V6_RCV_SADDR().then(at::OFF_SKC_V6_RCV_SADDR),
    )
}

/// Remote address of any kind of socket, as [`local_address`].
#[inline(always)]
pub fn remote_address<M: Memory>(sk: *const u8) -> [u32; 4] {
    address::<M>(
        sk,
        at::OFF_SKC_DADDR(),
        has::OFF_SKC_V6_DADDR().then(at::OFF_SKC_V6_DADDR),
    )
}

#[inline(always)]
fn address<M: Memory>(sk: *const u8, v4: usize, v6: Option<usize>) -> [u32; 4] {
    // SAFETY: every kind of socket begins with a `struct sock_common`, offsets from BTF.
    unsafe {
        match v6 {
            Some(v6) if M::read::<u16>(sk, at::OFF_SKC_FAMILY()) == AF_INET6 => M::read(sk, v6),
            _ => [0, 0, V4_MAPPED, M::read(sk, v4)],
        }
    }
}

/// `enum sock_type` (include/linux/net.h).
const SOCK_STREAM: u16 = 1;
const SOCK_DGRAM: u16 = 2;

/// The protocol of a socket, if it is TCP, MPTCP or UDP over IPv4 or IPv6.
#[inline(always)]
pub fn protocol(sk: *const u8) -> Option<u16> {
    // SAFETY: a socket from the kernel, offsets from BTF; null reads as zero.
    let (family, kind, protocol) = unsafe {
        (
            Probe::read::<u16>(sk, at::OFF_SKC_FAMILY()),
            Probe::read::<u16>(sk, at::OFF_SK_TYPE()),
            Probe::read::<u16>(sk, at::OFF_SK_PROTOCOL()),
        )
    };
    // A raw socket can have the same protocol, and is in ESTABLISHED once it is connected.
    let ours = match kind {
        SOCK_STREAM => matches!(protocol, IPPROTO_TCP | IPPROTO_MPTCP),
        SOCK_DGRAM => protocol == IPPROTO_UDP,
        _ => false,
    };
    (ours && matches!(family, AF_INET | AF_INET6)).then_some(protocol)
}

/// The protocol of a socket, if it is TCP or MPTCP over IPv4 or IPv6.
#[inline(always)]
pub fn tcp_protocol(sk: *const u8) -> Option<u16> {
    protocol(sk).filter(|protocol| *protocol != IPPROTO_UDP)
}

/// Number of packets that a socket has dropped, modulo 2^32; 0 if the kernel has no such field.
/// Since 6.18 UDP counts them by NUMA node (`sk_drops_inc`, include/net/sock.h).
#[inline(always)]
pub fn drops(sk: *const u8) -> u32 {
    if !has::OFF_SK_DROPS() {
        return 0;
    }
    // SAFETY: a full socket and its counters, offsets from BTF.
    unsafe {
        if has::OFF_SK_DROP_COUNTERS() && has::OFF_DROPS0() && has::OFF_DROPS1() {
            let counters = Probe::read::<u64>(sk, at::OFF_SK_DROP_COUNTERS()) as *const u8;
            if !counters.is_null() {
                let first = Probe::read::<u32>(counters, at::OFF_DROPS0());
                return first.wrapping_add(Probe::read(counters, at::OFF_DROPS1()));
            }
        }
        Probe::read(sk, at::OFF_SK_DROPS())
    }
}
