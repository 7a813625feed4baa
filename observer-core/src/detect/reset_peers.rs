//! Finds the local process at the other end of a process's reset connections, from records of RSTs.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use observer_common::{AF_INET, RECORD_RESET_SENT, Record};

/// A slot and its generation.
pub type Owner = (u32, u32);

/// Ends of a connection, as the one that sends the RST has them. Loopback addresses are those of a network
/// namespace; others connect namespaces.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Ends {
    netns: u32,
    sender: (IpAddr, u16),
    receiver: (IpAddr, u16),
}

/// The two owners of a connection that was reset, as far as records were seen.
#[derive(Debug, Default)]
struct Owners {
    sender: Option<Owner>,
    receiver: Option<Owner>,
}

#[derive(Debug, Default)]
struct Resets {
    records: u32,
    by_peer: HashMap<Owner, u32>,
}

/// Counts from records of RSTs.
#[derive(Debug, Default)]
pub struct ResetPeers {
    connections: HashMap<Ends, Owners>,
    resets: HashMap<Owner, Resets>,
}

impl ResetPeers {
    /// Halves all counts, and forgets connections of which one record came.
    pub fn fade(&mut self) {
        self.connections.clear();
        for resets in self.resets.values_mut() {
            resets.records /= 2;
            resets.by_peer.retain(|_, count| {
                *count /= 2;
                *count > 0
            });
        }
        self.resets.retain(|_, resets| resets.records > 0);
    }

    /// Takes in a record of an RST. The two of a connection come in either order.
    pub fn add(&mut self, record: &Record) {
        let is_sent = record.kind == RECORD_RESET_SENT;
        let [local, remote] = ends(record);
        let owner = (record.slot, record.generation);
        self.resets.entry(owner).or_default().records += 1;
        let (sender, receiver) = match is_sent {
            true => (local, remote),
            false => (remote, local),
        };
        let ends = Ends {
            netns: match local.0.is_loopback() {
                true => record.netns,
                false => 0,
            },
            sender,
            receiver,
        };
        let owners = self.connections.entry(ends).or_default();
        match is_sent {
            true => owners.sender = Some(owner),
            false => owners.receiver = Some(owner),
        }
        if let Owners {
            sender: Some(sender),
            receiver: Some(receiver),
        } = *owners
            && sender != receiver
        {
            *owners = Owners::default();
            for (one, other) in [(sender, receiver), (receiver, sender)] {
                let resets = self.resets.entry(one).or_default();
                *resets.by_peer.entry(other).or_default() += 1;
            }
        }
    }

    /// The process at the other end of most reset connections of `owner`.
    #[must_use]
    pub fn of(&self, owner: Owner) -> Option<Owner> {
        let resets = self.resets.get(&owner)?;
        let mut peers = resets.by_peer.iter();
        let (peer, _) = peers.find(|(_, count)| 2 * **count > resets.records)?;
        Some(*peer)
    }
}

/// Both ends of a record's connection: the local one first.
pub fn ends(record: &Record) -> [(IpAddr, u16); 2] {
    let address = |bytes: [u8; 16]| {
        let [a, b, c, d, ..] = bytes;
        match record.family {
            AF_INET => Ipv4Addr::new(a, b, c, d).into(),
            // A socket of this family may have an IPv4 connection.
            _ => Ipv6Addr::from(bytes).to_canonical(),
        }
    };
    [
        (address(record.local), record.local_port),
        (address(record.remote), record.remote_port),
    ]
}

#[cfg(test)]
mod tests {
    use observer_common::{AF_INET6, Pod as _, RECORD_RESET_RECEIVED, SLOT_FIRST};

    use super::*;

    const CLIENT: Owner = (SLOT_FIRST, 1);
    const SERVER: Owner = (SLOT_FIRST + 1, 1);

    fn zeroed() -> Record {
        Record::read_from(&[0; size_of::<Record>()]).unwrap()
    }

    fn record(kind: u8, owner: Owner, local_port: u16, remote_port: u16) -> Record {
        let mut record = zeroed();
        record.kind = kind;
        (record.slot, record.generation) = owner;
        record.netns = 1;
        record.family = AF_INET;
        (record.local_port, record.remote_port) = (local_port, remote_port);
        record.local[..4].copy_from_slice(&[127, 0, 0, 1]);
        record.remote = record.local;
        record
    }

    #[test]
    fn both_ends_are_told_whichever_record_comes_first() {
        let mut peers = ResetPeers::default();
        for port in 1000..1010 {
            let mut sent = record(RECORD_RESET_SENT, CLIENT, port, 80);
            let mut received = record(RECORD_RESET_RECEIVED, SERVER, 80, port);
            if port % 2 == 0 {
                // A server that takes IPv4 on an IPv6 socket.
                received.family = AF_INET6;
                let address = std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped();
                (received.local, received.remote) = (address.octets(), address.octets());
                std::mem::swap(&mut sent, &mut received);
            }
            peers.add(&sent);
            peers.add(&received);
        }
        assert_eq!(peers.of(CLIENT), Some(SERVER));
        assert_eq!(peers.of(SERVER), Some(CLIENT));
    }

    #[test]
    fn a_peer_of_few_is_none() {
        let mut peers = ResetPeers::default();
        for port in 1000..1010 {
            peers.add(&record(RECORD_RESET_RECEIVED, SERVER, 80, port));
        }
        for port in 1000..1005 {
            peers.add(&record(RECORD_RESET_SENT, CLIENT, port, 80));
        }
        assert_eq!(peers.of(SERVER), None);
        assert_eq!(peers.of(CLIENT), Some(SERVER));
    }

    #[test]
    fn loopback_of_another_namespace_is_another_connection() {
        let mut peers = ResetPeers::default();
        peers.add(&record(RECORD_RESET_SENT, CLIENT, 1000, 80));
        let mut received = record(RECORD_RESET_RECEIVED, SERVER, 80, 1000);
        received.netns = 2;
        peers.add(&received);
        assert_eq!(peers.of(CLIENT), None);
    }

    #[test]
    fn counts_fade() {
        let mut peers = ResetPeers::default();
        for port in 0..100 {
            peers.add(&record(RECORD_RESET_RECEIVED, SERVER, 80, port));
        }
        for _ in 0..7 {
            peers.fade();
        }
        assert!(peers.resets.is_empty() && peers.connections.is_empty());
    }
}
