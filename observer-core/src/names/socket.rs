//! Names of address families and protocols.

use std::borrow::Cow;

use observer_common::IPPROTO_MPTCP;

/// The address family in lower case: `inet`, `unix`, or the decimal number. Zero in a key means
/// that the descriptor was not a socket: `none`.
#[must_use]
pub fn family_name(family: u16) -> Cow<'static, str> {
    let name = match i32::from(family) {
        libc::AF_UNSPEC => "none",
        libc::AF_UNIX => "unix",
        libc::AF_INET => "inet",
        libc::AF_AX25 => "ax25",
        libc::AF_X25 => "x25",
        libc::AF_INET6 => "inet6",
        libc::AF_KEY => "key",
        libc::AF_NETLINK => "netlink",
        libc::AF_PACKET => "packet",
        libc::AF_RDS => "rds",
        libc::AF_PPPOX => "pppox",
        libc::AF_LLC => "llc",
        libc::AF_IB => "ib",
        libc::AF_CAN => "can",
        libc::AF_TIPC => "tipc",
        libc::AF_BLUETOOTH => "bluetooth",
        libc::AF_IUCV => "iucv",
        libc::AF_RXRPC => "rxrpc",
        libc::AF_PHONET => "phonet",
        libc::AF_IEEE802154 => "ieee802154",
        libc::AF_ALG => "alg",
        libc::AF_NFC => "nfc",
        libc::AF_VSOCK => "vsock",
        // From include/linux/socket.h; missing from the libc crate.
        41 => "kcm",
        42 => "qipcrtr",
        43 => "smc",
        libc::AF_XDP => "xdp",
        45 => "mctp",
        _ => return Cow::Owned(family.to_string()),
    };
    Cow::Borrowed(name)
}

/// The protocol of a socket. In the internet families: `tcp`, `udp`, `mptcp`. In other families
/// protocol numbers have other meanings, and the type is used: `stream`, `dgram`, `seqpacket`.
/// Unknown numbers are decimal; `none` is a descriptor that was not a socket.
#[must_use]
pub fn protocol_name(family: u16, protocol: u16, socket_type: u16) -> Cow<'static, str> {
    match i32::from(family) {
        libc::AF_UNSPEC => Cow::Borrowed("none"),
        libc::AF_INET | libc::AF_INET6 => internet_protocol(protocol),
        _ => type_name(socket_type),
    }
}

fn internet_protocol(protocol: u16) -> Cow<'static, str> {
    if protocol == IPPROTO_MPTCP {
        return Cow::Borrowed("mptcp");
    }
    let name = match i32::from(protocol) {
        libc::IPPROTO_ICMP => "icmp",
        libc::IPPROTO_IGMP => "igmp",
        libc::IPPROTO_TCP => "tcp",
        libc::IPPROTO_UDP => "udp",
        libc::IPPROTO_DCCP => "dccp",
        libc::IPPROTO_GRE => "gre",
        libc::IPPROTO_ESP => "esp",
        libc::IPPROTO_AH => "ah",
        libc::IPPROTO_ICMPV6 => "icmpv6",
        libc::IPPROTO_PIM => "pim",
        115 => "l2tp",
        libc::IPPROTO_SCTP => "sctp",
        libc::IPPROTO_UDPLITE => "udplite",
        libc::IPPROTO_RAW => "raw",
        // Since 6.11, SMC sockets can be had as a protocol of AF_INET.
        256 => "smc",
        _ => return Cow::Owned(protocol.to_string()),
    };
    Cow::Borrowed(name)
}

fn type_name(socket_type: u16) -> Cow<'static, str> {
    let name = match i32::from(socket_type) {
        libc::SOCK_STREAM => "stream",
        libc::SOCK_DGRAM => "dgram",
        libc::SOCK_RAW => "raw",
        libc::SOCK_RDM => "rdm",
        libc::SOCK_SEQPACKET => "seqpacket",
        libc::SOCK_DCCP => "dccp",
        // SOCK_PACKET, deprecated since 2.2; its constant differs in type.
        10 => "packet",
        _ => return Cow::Owned(socket_type.to_string()),
    };
    Cow::Borrowed(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INET: u16 = libc::AF_INET as u16;
    const INET6: u16 = libc::AF_INET6 as u16;
    const UNIX: u16 = libc::AF_UNIX as u16;

    #[test]
    fn names_what_the_sockets_speak() {
        for (family, protocol, socket_type, expected) in [
            (INET, 6, 1, "tcp"),
            (INET6, 6, 1, "tcp"),
            (INET6, 17, 2, "udp"),
            (INET, 262, 1, "mptcp"),
            (INET, 132, 5, "sctp"),
            (INET, 253, 3, "253"),
            (UNIX, 0, 1, "stream"),
            (UNIX, 0, 2, "dgram"),
            (UNIX, 0, 5, "seqpacket"),
            // NETLINK_CONNECTOR, which is not UDP's or TCP's relative.
            (libc::AF_NETLINK as u16, 11, 3, "raw"),
            (UNIX, 0, 0, "0"),
            (0, 6, 1, "none"),
        ] {
            assert_eq!(protocol_name(family, protocol, socket_type), expected);
        }
    }

    #[test]
    fn names_families() {
        assert_eq!(family_name(INET), "inet");
        assert_eq!(family_name(INET6), "inet6");
        assert_eq!(family_name(UNIX), "unix");
        assert_eq!(family_name(0), "none");
        assert_eq!(family_name(999), "999");
    }

    proptest! {
        #[test]
        fn never_panics_and_never_merges(a: u16, b in 0..300_u16, socket_type: u16) {
            prop_assert_eq!(a == b, family_name(a) == family_name(b));
            let (x, y) = (protocol_name(INET, a, socket_type), protocol_name(INET, b, socket_type));
            prop_assert_eq!(a == b, x == y);
            prop_assert!(!protocol_name(a, b, socket_type).is_empty());
        }
    }
}
