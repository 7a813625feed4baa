//! Names of setsockopt levels and options.

use std::borrow::Cow;

use super::options::{self, Table};

/// The symbol of a level: `SOL_TCP`, or the decimal number.
#[must_use]
pub fn level_name(level: i32) -> Cow<'static, str> {
    named(options::LEVELS, level)
}

/// The symbol of an option within its level: `TCP_FASTOPEN`, or the decimal number.
#[must_use]
pub fn option_name(level: i32, option: i32) -> Cow<'static, str> {
    named(table(level), option)
}

fn table(level: i32) -> Table {
    match level {
        libc::SOL_IP => options::IP,
        libc::SOL_SOCKET => options::SOCKET,
        libc::SOL_TCP => options::TCP,
        libc::SOL_UDP => options::UDP,
        libc::AF_VSOCK => options::VSOCK,
        libc::SOL_IPV6 => options::IPV6,
        libc::SOL_ICMPV6 => options::ICMPV6,
        libc::IPPROTO_UDPLITE => options::UDPLITE,
        libc::SOL_RAW => options::RAW,
        libc::SOL_PACKET => options::PACKET,
        libc::SOL_NETLINK => options::NETLINK,
        libc::SOL_ALG => options::ALG,
        libc::SOL_TLS => options::TLS,
        libc::SOL_XDP => options::XDP,
        SOL_MPTCP => options::MPTCP,
        _ => &[],
    }
}

/// Missing from the libc crate.
const SOL_MPTCP: i32 = 284;

fn named(table: Table, number: i32) -> Cow<'static, str> {
    match table.iter().find(|(other, _)| *other == number) {
        Some((_, name)) => Cow::Borrowed(name),
        None => Cow::Owned(number.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn levels() -> impl Iterator<Item = i32> {
        options::LEVELS.iter().map(|(level, _)| *level)
    }

    #[test]
    fn numbers_and_names_are_unique_per_level() {
        for table in levels().map(table).chain([options::LEVELS]) {
            let numbers: HashSet<_> = table.iter().map(|(number, _)| number).collect();
            let names: HashSet<_> = table.iter().map(|(_, name)| name).collect();
            assert_eq!(numbers.len(), table.len(), "{table:?}");
            assert_eq!(names.len(), table.len(), "{table:?}");
        }
    }

    #[test]
    fn agrees_with_libc() {
        for (level, option, name) in [
            (libc::SOL_SOCKET, libc::SO_REUSEPORT, "SO_REUSEPORT"),
            (libc::SOL_SOCKET, libc::SO_RCVTIMEO, "SO_RCVTIMEO"),
            (libc::SOL_SOCKET, libc::SO_INCOMING_CPU, "SO_INCOMING_CPU"),
            (libc::SOL_SOCKET, libc::SO_TIMESTAMPING, "SO_TIMESTAMPING"),
            (libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, "SO_BINDTOIFINDEX"),
            (libc::SOL_TCP, libc::TCP_NODELAY, "TCP_NODELAY"),
            (libc::SOL_TCP, libc::TCP_FASTOPEN, "TCP_FASTOPEN"),
            (libc::SOL_TCP, libc::TCP_USER_TIMEOUT, "TCP_USER_TIMEOUT"),
            (libc::SOL_TCP, libc::TCP_ULP, "TCP_ULP"),
            (libc::SOL_IP, libc::IP_TRANSPARENT, "IP_TRANSPARENT"),
            (
                libc::SOL_IP,
                libc::IP_BIND_ADDRESS_NO_PORT,
                "IP_BIND_ADDRESS_NO_PORT",
            ),
            (libc::SOL_IPV6, libc::IPV6_V6ONLY, "IPV6_V6ONLY"),
            (libc::SOL_IPV6, libc::IPV6_RECVPKTINFO, "IPV6_RECVPKTINFO"),
            (libc::SOL_IPV6, libc::IPV6_TCLASS, "IPV6_TCLASS"),
            (libc::SOL_UDP, libc::UDP_SEGMENT, "UDP_SEGMENT"),
            (libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, "NETLINK_EXT_ACK"),
            (libc::SOL_PACKET, libc::PACKET_FANOUT, "PACKET_FANOUT"),
            (libc::SOL_TLS, libc::TLS_TX, "TLS_TX"),
            (libc::SOL_ALG, libc::ALG_SET_KEY, "ALG_SET_KEY"),
            (libc::SOL_XDP, libc::XDP_UMEM_REG, "XDP_UMEM_REG"),
            (SOL_MPTCP, 1, "MPTCP_INFO"),
        ] {
            assert_eq!(option_name(level, option), name);
        }
        assert_eq!(level_name(libc::SOL_IP), "SOL_IP");
        assert_eq!(level_name(libc::SOL_UDP), "SOL_UDP");
        assert_eq!(level_name(libc::SOL_PACKET), "SOL_PACKET");
        assert_eq!(level_name(libc::SOL_XDP), "SOL_XDP");
    }

    #[test]
    fn unknown_numbers_stay_numbers() {
        assert_eq!(level_name(-1), "-1");
        assert_eq!(option_name(libc::SOL_TCP, 9_999), "9999");
        assert_eq!(option_name(9_999, 1), "1");
        assert_eq!(option_name(libc::SOL_SOCKET, 0), "0");
    }

    proptest! {
        #[test]
        fn never_panics_and_never_merges(level: i32, a: i32, b in -10..200_i32) {
            prop_assert_eq!(a == b, option_name(level, a) == option_name(level, b));
            prop_assert_eq!(a == b, level_name(a) == level_name(b));
        }
    }
}
