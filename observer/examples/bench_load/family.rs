//! Destinations of connections: enough that local ports do not run out, although each connection
//! leaves one in TIME_WAIT for a minute.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// First listening port. Below the default range of local ports, so that no connection
/// takes a listener's port.
const FIRST_PORT: u16 = 10_000;
/// One past the last.
const END_PORT: u16 = 32_000;
/// Nobody listens there.
const CLOSED_PORT: u16 = 9;
/// Addresses of each family that connections are spread over. Of IPv6, loopback has only
/// one of its own: the others, `fd00::1` and up, are put there by the benchmark.
pub const ADDRESSES: u64 = 64;

/// The address of a listening socket: IPv4 and IPv6 alternate. `number` counts the
/// listening sockets of all workers.
pub fn listener(number: usize) -> anyhow::Result<SocketAddr> {
    let port = port(number)?;
    let any = if is_v4(number) {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    Ok(SocketAddr::new(any, port))
}

fn port(number: usize) -> anyhow::Result<u16> {
    u16::try_from(number)
        .ok()
        .and_then(|number| FIRST_PORT.checked_add(number))
        .filter(|port| *port < END_PORT)
        .ok_or_else(|| anyhow::anyhow!("too many listening sockets: {number}"))
}

fn is_v4(number: usize) -> bool {
    number.is_multiple_of(2)
}

/// One of the addresses of the family of listening socket `number`.
fn address(number: usize, which: u64) -> IpAddr {
    let which = (which % ADDRESSES) as u16;
    if is_v4(number) {
        let [high, low] = (which + 1).to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(127, 1, high, low))
    } else {
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, which + 1))
    }
}

/// Where the `which`th connection to listening socket `number` goes.
pub fn destination(number: usize, which: u64) -> SocketAddr {
    // The port was valid when the socket was bound.
    SocketAddr::new(address(number, which), FIRST_PORT + number as u16)
}

/// A destination that refuses.
pub fn closed(number: usize, which: u64) -> SocketAddr {
    SocketAddr::new(address(number, which), CLOSED_PORT)
}
