//! Headers of a received TCP segment, with the offsets of RFC 791, RFC 8200 and RFC 9293.

use observer_common::V4_MAPPED;

use crate::core::{
    fields::{at, has},
    read::{Memory, Probe},
};

/// A received segment, whose headers are in the linear part of the `sk_buff` (`tcp_v4_rcv` and
/// `tcp_v6_rcv` pull them there).
#[derive(Clone, Copy)]
pub struct Segment {
    network: *const u8,
    transport: *const u8,
}

/// The headers of `skb`, if the running kernel has the fields that lead to them.
#[inline(always)]
pub fn of(skb: *const u8) -> Option<Segment> {
    if !has::OFF_SKB_HEAD() || !has::OFF_SKB_NETWORK() || !has::OFF_SKB_TRANSPORT() {
        return None;
    }
    // SAFETY: an sk_buff from the kernel, offsets from its BTF.
    unsafe {
        let head = Probe::read::<u64>(skb, at::OFF_SKB_HEAD()) as *const u8;
        let header = |offset| head.wrapping_add(usize::from(Probe::read::<u16>(skb, offset)));
        Some(Segment {
            network: header(at::OFF_SKB_NETWORK()),
            transport: header(at::OFF_SKB_TRANSPORT()),
        })
    }
}

/// Inode number of the network namespace of the device that `skb` was received on, which `tcp_v4_rcv`
/// and `tcp_v6_rcv` search for a socket; 0 if unknown. The device is set until a socket is found.
#[inline(always)]
pub fn netns(skb: *const u8) -> u32 {
    if !has::OFF_SKB_DEV() || !has::OFF_DEV_NET() || !has::OFF_NET_INUM() {
        return 0;
    }
    // SAFETY: an sk_buff from the kernel, offsets from its BTF.
    unsafe {
        let device = Probe::read::<u64>(skb, at::OFF_SKB_DEV()) as *const u8;
        let net = Probe::read::<u64>(device, at::OFF_DEV_NET()) as *const u8;
        Probe::read(net, at::OFF_NET_INUM())
    }
}

impl Segment {
    /// Flags of the TCP header.
    #[inline(always)]
    pub fn flags(self) -> u8 {
        self.tcp(13)
    }

    #[inline(always)]
    pub fn source_port(self) -> u16 {
        u16::from_be(self.tcp(0))
    }

    #[inline(always)]
    pub fn destination_port(self) -> u16 {
        u16::from_be(self.tcp(2))
    }

    /// Whether the addresses are of IPv6; `None` if they are of neither version.
    #[inline(always)]
    pub fn is_v6(self) -> Option<bool> {
        match self.ip::<u8>(0) >> 4 {
            4 => Some(false),
            6 => Some(true),
            _ => None,
        }
    }

    /// Source address as the bytes of a `struct in6_addr`, IPv4 as `::ffff:a.b.c.d`.
    #[inline(always)]
    pub fn source(self) -> Option<[u32; 4]> {
        Some(match self.is_v6()? {
            true => self.ip(8),
            false => [0, 0, V4_MAPPED, self.ip(12)],
        })
    }

    #[inline(always)]
    fn tcp<T: Copy + Default>(self, offset: usize) -> T {
        // SAFETY: within the TCP header; the types that are asked for are integers.
        unsafe { Probe::read(self.transport, offset) }
    }

    /// A field of the IP header.
    #[inline(always)]
    pub fn ip<T: Copy + Default>(self, offset: usize) -> T {
        // SAFETY: within the IP header; the types that are asked for are integers.
        unsafe { Probe::read(self.network, offset) }
    }
}
