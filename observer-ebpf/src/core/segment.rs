//! Headers of a received TCP segment, with the offsets of RFC 791, RFC 8200 and RFC 9293.

use observer_common::V4_MAPPED;

use crate::core::{
    fields::{at, has},
    read::{Memory, Probe},
};

/// A received segment.
#[derive(Clone, Copy)]
pub struct Segment {
    /// Begin of the IP header: all of IPv4's without options, and of IPv6's up to the source.
    ip: [u32; 6],
    network: *const u8,
    /// Begin of the TCP header.
    tcp: [u32; 4],
}

/// The headers of `skb`, if the running kernel has the fields that lead to them. They are in its linear
/// part (`tcp_v4_rcv` and `tcp_v6_rcv` pull them there).
#[inline(always)]
pub fn of<M: Memory>(skb: *const u8) -> Option<Segment> {
    if !has::OFF_SKB_HEAD() || !has::OFF_SKB_NETWORK() || !has::OFF_SKB_TRANSPORT() {
        return None;
    }
    // SAFETY: an sk_buff from the kernel, offsets from its BTF. Both headers together are longer than
    // what is read from the start of either.
    unsafe {
        let head = M::read::<u64>(skb, at::OFF_SKB_HEAD()) as *const u8;
        let network = M::read::<u16>(skb, at::OFF_SKB_NETWORK());
        let transport = M::read::<u16>(skb, at::OFF_SKB_TRANSPORT());
        let network = head.wrapping_add(usize::from(network));
        Some(Segment {
            ip: Probe::read(network, 0),
            network,
            tcp: Probe::read(head, usize::from(transport)),
        })
    }
}

/// Inode number of the network namespace of the device that `skb` was received on, in which `tcp_v4_rcv`
/// and `tcp_v6_rcv` search for a socket; 0 if unknown. The device is set until a socket is found.
#[inline(always)]
pub fn netns<M: Memory>(skb: *const u8) -> u32 {
    if !has::OFF_SKB_DEV() || !has::OFF_DEV_NET() || !has::OFF_NET_INUM() {
        return 0;
    }
    // SAFETY: an sk_buff from the kernel, offsets from its BTF.
    unsafe {
        let device = M::read::<u64>(skb, at::OFF_SKB_DEV()) as *const u8;
        let net = Probe::read::<u64>(device, at::OFF_DEV_NET()) as *const u8;
        Probe::read(net, at::OFF_NET_INUM())
    }
}

impl Segment {
    /// Flags of the TCP header.
    #[inline(always)]
    pub fn flags(&self) -> u8 {
        self.tcp[3].to_ne_bytes()[1]
    }

    #[inline(always)]
    pub fn source_port(&self) -> u16 {
        (u32::from_be(self.tcp[0]) >> 16) as u16
    }

    #[inline(always)]
    pub fn destination_port(&self) -> u16 {
        u32::from_be(self.tcp[0]) as u16
    }

    /// IP version, 4 or 6; another value if it is no segment.
    #[inline(always)]
    pub fn version(&self) -> u8 {
        self.ip[0].to_ne_bytes()[0] >> 4
    }

    /// Source address as the bytes of a `struct in6_addr`, IPv4 as `::ffff:a.b.c.d`.
    #[inline(always)]
    pub fn source(&self) -> [u32; 4] {
        let ip = &self.ip;
        match self.version() {
            6 => [ip[2], ip[3], ip[4], ip[5]],
            _ => [0, 0, V4_MAPPED, ip[3]],
        }
    }

    /// A field of the IP header.
    #[inline(always)]
    pub fn ip<T: Copy + Default>(&self, offset: usize) -> T {
        // SAFETY: within the IP header; the types that are asked for are integers.
        unsafe { Probe::read(self.network, offset) }
    }
}
