//! Finds the programs that listen on the port of a refused connection, but at other addresses of this host.

use std::{collections::HashMap, net::SocketAddr};

use crate::{
    detect::{finding::Elsewhere, recorded_peers::RecordedPeers, sample::Listener},
    walk::Peer,
};

/// Listeners by network namespace and port.
pub(super) struct ByPort<'a> {
    listeners: HashMap<(u32, u16), Vec<&'a Listener>>,
    recorded: &'a RecordedPeers,
}

impl<'a> ByPort<'a> {
    pub fn new(all: &'a [Listener], recorded: &'a RecordedPeers) -> Self {
        let mut listeners: HashMap<_, Vec<_>> = HashMap::new();
        for it in all {
            let port = (it.place.netns, it.place.address.port());
            listeners.entry(port).or_default().push(it);
        }
        Self {
            listeners,
            recorded,
        }
    }

    /// Nothing if the destination is not known to be this host, or if a socket takes connections to it.
    pub fn elsewhere(&self, to: &Peer) -> Option<Elsewhere> {
        if !self.recorded.is_here(to.netns, to.address) {
            return None;
        }
        let listeners = self.listeners.get(&(to.netns, to.port))?;
        let at = SocketAddr::new(to.address, to.port);
        if listeners.iter().any(|it| it.place.takes(to.netns, at)) {
            return None;
        }
        let addresses = listeners.iter().map(|it| it.place.address.ip());
        let holder = listeners.iter().find_map(|it| it.holders.first());
        Some(Elsewhere {
            addresses: addresses.collect(),
            labels: holder.map(|it| it.labels.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Arc, time::Duration};

    use observer_common::{AF_INET, Pod as _, RECORD_CONNECT_FAILED, Record, SLOT_FIRST};

    use super::*;
    use crate::{
        detect::{finding::Holder, recorded_peers::Suspected},
        table::{Labels, ListenAddress, fake::key},
    };

    const NETNS: u32 = 7;

    fn listener(address: &str) -> Listener {
        let place = ListenAddress {
            netns: NETNS,
            address: address.parse().unwrap(),
        };
        Listener {
            sockets: 1,
            holders: vec![Holder {
                process: Some(key(71, 1)),
                labels: Arc::new(Labels::process(71, "nginx", "")),
                count: 1,
            }],
            ..Listener::new(place)
        }
    }

    /// Records of connects from one address to another.
    fn recorded(connects: &[([u8; 4], [u8; 4])]) -> RecordedPeers {
        let mut recorded = RecordedPeers::default();
        let suspected = Suspected {
            connects: true,
            ..Suspected::default()
        };
        recorded.want(suspected, Duration::from_secs(100));
        for (from, to) in connects {
            let mut record = Record::read_from(&[0; size_of::<Record>()]).unwrap();
            record.kind = RECORD_CONNECT_FAILED;
            (record.slot, record.family, record.netns) = (SLOT_FIRST, AF_INET, NETNS);
            record.remote_port = 80;
            record.local[..4].copy_from_slice(from);
            record.remote[..4].copy_from_slice(to);
            recorded.add(&[record]);
        }
        recorded
    }

    /// The addresses that programs listen at instead of `to`.
    fn instead(recorded: &RecordedPeers, listeners: &[&str], to: &str) -> Vec<String> {
        let listeners: Vec<_> = listeners.iter().map(|it| listener(it)).collect();
        let to = Peer {
            netns: NETNS,
            address: to.parse().unwrap(),
            port: 80,
            is_client: false,
        };
        let by_port = ByPort::new(&listeners, recorded);
        let in_other_netns = Peer { netns: 8, ..to };
        assert_eq!(by_port.elsewhere(&in_other_netns), None);
        let Some(elsewhere) = by_port.elsewhere(&to) else {
            return Vec::new();
        };
        assert_eq!(elsewhere.labels.unwrap().comm(), "nginx");
        let addresses = elsewhere.addresses.iter();
        addresses.map(IpAddr::to_string).collect()
    }

    #[test]
    fn only_sockets_that_do_not_take_the_connection_listen_elsewhere() {
        let none: [&str; 0] = [];
        let here = recorded(&[([10, 0, 0, 1], [10, 0, 0, 1])]);
        let to = |listeners: &[&str], to| instead(&here, listeners, to);
        assert_eq!(to(&["127.0.0.1:80"], "10.0.0.1"), ["127.0.0.1"]);
        let both = ["127.0.0.1:80", "[::1]:80", "10.0.0.1:81"];
        assert_eq!(to(&both, "10.0.0.1"), ["127.0.0.1", "::1"]);
        assert_eq!(to(&both, "127.0.0.2"), ["127.0.0.1", "::1"]);
        // Something else has refused the connection.
        for taking in ["10.0.0.1:80", "0.0.0.0:80", "[::]:80"] {
            assert_eq!(to(&["127.0.0.1:80", taking], "10.0.0.1"), none);
        }
        assert_eq!(to(&["0.0.0.0:80"], "::1"), ["0.0.0.0"]);
        assert_eq!(to(&["[::]:80"], "::1"), none);
        assert_eq!(to(&["127.0.0.1:81"], "10.0.0.1"), none);
    }

    #[test]
    fn other_hosts_have_listeners_of_their_own() {
        let other = recorded(&[([10, 0, 0, 1], [10, 0, 0, 2])]);
        assert!(instead(&other, &["127.0.0.1:80"], "10.0.0.2").is_empty());
    }
}
