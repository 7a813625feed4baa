//! The destination for which a local port is in use.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use observer_common::SocketSeen;

/// The key of one set of local ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Source address.
    pub source: IpAddr,
    /// Destination address and port.
    pub remote: SocketAddr,
}

/// Decodes an address as the kernel programs write it.
#[must_use]
pub fn address(words: [u32; 4]) -> IpAddr {
    let mut bytes = [0; 16];
    for (bytes, word) in bytes.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
}

/// A destination as the kernel programs write it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RawDestination {
    pub netns: u32,
    source: [u32; 4],
    remote: [u32; 4],
    port: u16,
}

impl RawDestination {
    pub fn of(socket: &SocketSeen) -> Self {
        Self {
            netns: socket.netns,
            source: socket.local,
            remote: socket.remote,
            port: socket.remote_port,
        }
    }

    /// All destinations of a namespace, for which a port is taken by bind().
    pub fn all(netns: u32) -> Self {
        Self {
            netns,
            source: [0; 4],
            remote: [0; 4],
            port: 0,
        }
    }

    pub fn decode(self) -> Destination {
        Destination {
            netns: self.netns,
            source: address(self.source),
            remote: SocketAddr::new(address(self.remote), self.port),
        }
    }
}
