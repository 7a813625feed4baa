//! Counting ports.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use observer_common::{PORT_BOUND, PORT_UNCONNECTED, PORT_WORDS, PortSpace, PortUse};

/// Whatever shares one set of local ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Source address.
    pub source: IpAddr,
    /// Destination address and port.
    pub remote: SocketAddr,
}

/// What one process has of a destination's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which destination.
    pub destination: Destination,
    /// The process's slot and the slot's generation.
    pub owner: (u32, u32),
    /// Ports that it uses.
    pub used: u32,
    /// Ports that all processes use.
    pub used_by_all: u32,
    /// Ports that there are for this destination.
    pub available: u32,
}

/// What a walk over all sockets found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// One for each process and destination.
    pub shares: Vec<Share>,
    /// Ports that there are for each destination of a network namespace.
    pub available: BTreeMap<u32, u32>,
}

/// One bit for each port.
#[derive(Clone)]
struct PortSet(Box<[u64; PORT_WORDS]>);

impl Default for PortSet {
    fn default() -> Self {
        Self(Box::new([0; PORT_WORDS]))
    }
}

impl PortSet {
    fn insert(&mut self, port: u16) {
        self.0[usize::from(port) / 64] |= 1 << (port % 64);
    }

    fn remove_all(&mut self, other: &[u64; PORT_WORDS]) {
        for (word, other) in self.0.iter_mut().zip(other) {
            *word &= !other;
        }
    }

    fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port) / 64] & 1 << (port % 64) != 0
    }

    fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}

/// A port towards a destination. In this order, its last user comes first: a live connection,
/// or what has rested in TIME_WAIT for the shortest time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    destination: u32,
    port: u16,
    age: u32,
    owner: (u32, u32),
}

/// As the kernel side writes it: namespace, source, destination, its port.
type RawDestination = (u32, [u32; 4], [u32; 4], u16);

/// Takes uses one by one.
#[derive(Default)]
pub struct Collector {
    /// Destinations by number, so that a use takes few bytes.
    numbers: HashMap<RawDestination, u32>,
    destinations: Vec<RawDestination>,
    uses: Vec<Use>,
    /// Ports that no destination can have, by network namespace.
    bound: HashMap<u32, PortSet>,
}

impl Collector {
    /// Takes one.
    pub fn add(&mut self, port: &PortUse) {
        if port.flags & PORT_BOUND != 0 {
            let bound = self.bound.entry(port.netns).or_default();
            bound.insert(port.local_port);
            return;
        }
        if port.flags & PORT_UNCONNECTED != 0 {
            return;
        }
        let raw = (port.netns, port.local, port.remote, port.remote_port);
        let destination = *self.numbers.entry(raw).or_insert_with(|| {
            self.destinations.push(raw);
            self.destinations.len() as u32 - 1
        });
        self.uses.push(Use {
            destination,
            port: port.local_port,
            age: port.age,
            owner: (port.slot, port.generation),
        });
    }

    /// Adds up. Destinations of a namespace that is not among `spaces` are left out.
    #[must_use]
    pub fn finish(mut self, spaces: &[Box<PortSpace>]) -> Usage {
        let mut usable = HashMap::new();
        for space in spaces {
            let mut ports = PortSet::default();
            for port in space.low..=space.high {
                ports.insert(port);
            }
            ports.remove_all(&space.reserved);
            if let Some(bound) = self.bound.get(&space.netns) {
                ports.remove_all(&bound.0);
            }
            usable.insert(space.netns, ports);
        }
        let mut usage = Usage {
            available: usable
                .iter()
                .map(|(netns, ports)| (*netns, ports.count()))
                .collect(),
            ..Usage::default()
        };
        self.uses.sort_unstable();
        // A port that was taken again counts for who has it now.
        self.uses.dedup_by_key(|each| (each.destination, each.port));
        for uses in self.uses.chunk_by(|a, b| a.destination == b.destination) {
            let raw = self.destinations[uses[0].destination as usize];
            let Some(ports) = usable.get(&raw.0) else {
                continue;
            };
            let mut owners: BTreeMap<(u32, u32), u32> = BTreeMap::new();
            for each in uses.iter().filter(|each| ports.contains(each.port)) {
                *owners.entry(each.owner).or_default() += 1;
            }
            let used_by_all = owners.values().sum();
            usage
                .shares
                .extend(owners.into_iter().map(|(owner, used)| Share {
                    destination: destination(raw),
                    owner,
                    used,
                    used_by_all,
                    available: usage.available[&raw.0],
                }));
        }
        usage
    }
}

fn destination((netns, source, remote, port): RawDestination) -> Destination {
    Destination {
        netns,
        source: address(source),
        remote: SocketAddr::new(address(remote), port),
    }
}

/// An address as the kernel side writes it.
#[must_use]
pub fn address(words: [u32; 4]) -> IpAddr {
    let mut bytes = [0; 16];
    for (bytes, word) in bytes.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: [u32; 4] = [0, 0, observer_common::V4_MAPPED, 0x7f00_0001_u32.to_be()];

    fn space(netns: u32, low: u16, high: u16, reserved: &[u16]) -> Box<PortSpace> {
        let mut set = PortSet::default();
        for port in reserved {
            set.insert(*port);
        }
        Box::new(PortSpace {
            seen_ns: 0,
            netns,
            low,
            high,
            reserved: *set.0,
        })
    }

    fn port(local_port: u16, remote_port: u16, slot: u32, flags: u32) -> PortUse {
        PortUse {
            slot,
            generation: 1,
            netns: 7,
            flags,
            age: 0,
            local_port,
            remote_port,
            local: V4,
            remote: V4,
        }
    }

    fn usage(spaces: &[Box<PortSpace>], ports: &[PortUse]) -> Usage {
        let mut collector = Collector::default();
        for port in ports {
            collector.add(port);
        }
        collector.finish(spaces)
    }

    #[test]
    fn addresses_are_read_in_both_families() {
        assert_eq!(address(V4).to_string(), "127.0.0.1");
        assert_eq!(address([0, 0, 0, 1_u32.to_be()]).to_string(), "::1");
        assert_eq!(address([0; 4]).to_string(), "::");
        let any = [0, 0, observer_common::V4_MAPPED, 0];
        assert_eq!(address(any).to_string(), "0.0.0.0");
    }

    #[test]
    fn reserved_and_bound_ports_are_not_to_be_had() {
        let bound = port(105, 0, 3, PORT_BOUND | PORT_UNCONNECTED);
        // Outside of the range, and reserved as well: nothing to take off.
        let others = [port(99, 0, 3, PORT_BOUND), port(101, 0, 3, PORT_BOUND)];
        let used = [port(102, 80, 3, 0), port(105, 80, 3, 0), port(99, 80, 3, 0)];
        let all = [&[bound][..], &others, &used].concat();
        let usage = usage(&[space(7, 100, 109, &[100, 101, 200])], &all);
        assert_eq!(usage.available[&7], 10 - 2 - 1);
        let [share] = usage.shares[..] else {
            panic!("{usage:?}")
        };
        assert_eq!((share.used, share.used_by_all, share.available), (1, 1, 7));
        assert_eq!(share.destination.remote.to_string(), "127.0.0.1:80");
        assert_eq!(share.destination.source.to_string(), "127.0.0.1");
    }

    #[test]
    fn a_port_that_was_taken_again_counts_once_and_for_its_new_user() {
        let rests = |port: PortUse, age| PortUse { age, ..port };
        let ports = [
            rests(port(100, 80, 3, 0), 1),
            port(100, 80, 4, 0),
            rests(port(101, 80, 2, 0), 9),
            rests(port(101, 80, 3, 0), 8),
            port(100, 81, 3, 0),
        ];
        let usage = usage(&[space(7, 100, 103, &[])], &ports);
        let shares: Vec<_> = usage
            .shares
            .iter()
            .map(|it| {
                (
                    it.destination.remote.port(),
                    it.owner.0,
                    it.used,
                    it.used_by_all,
                )
            })
            .collect();
        assert_eq!(shares.len(), 3);
        for expected in [(80, 3, 1, 2), (80, 4, 1, 2), (81, 3, 1, 1)] {
            assert!(shares.contains(&expected), "{shares:?}");
        }
    }

    #[test]
    fn the_whole_range_and_no_range_are_fine() {
        assert_eq!(
            usage(&[space(7, 0, u16::MAX, &[])], &[]).available[&7],
            65_536
        );
        // What is read of a namespace that is gone may be anything.
        assert_eq!(usage(&[space(7, 9, 1, &[])], &[]).available[&7], 0);
        assert_eq!(usage(&[], &[port(1, 2, 3, 0)]), Usage::default());
    }
}
