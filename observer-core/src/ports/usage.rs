//! Counting ports.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
};

use observer_common::{PORT_BOUND, PORT_UNCONNECTED, PORT_WORDS, PortSpace, PortUse};

use super::{
    destination::{Destination, address},
    reuse::Reuse,
};

/// The ports of one process for one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which destination.
    pub destination: Destination,
    /// The process's slot and the slot's generation.
    pub owner: (u32, u32),
    /// Ports that it uses, TIME_WAIT included.
    pub used: u32,
    /// Of those, ports that connect() cannot use for this destination now: all but those in TIME_WAIT
    /// that can be reused.
    pub blocked: u32,
    /// Ports that all processes use.
    pub used_by_all: u32,
    /// Of those, ports that connect() cannot use.
    pub blocked_by_all: u32,
    /// Ports available for this destination.
    pub available: u32,
}

/// The result of a walk over all sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// One for each process and destination.
    pub shares: Vec<Share>,
    /// Ports available for each destination of a network namespace.
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

/// One use of a port for a destination. Ordered so that the last user comes first: a live connection,
/// or the socket that entered TIME_WAIT last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    destination: u32,
    port: u16,
    age: u32,
    owner: (u32, u32),
    reuse: Reuse,
}

/// As the kernel side writes it: namespace, source, destination, its port.
type RawDestination = (u32, [u32; 4], [u32; 4], u16);

/// Ports of one destination.
#[derive(Clone, Copy, Default)]
struct Counts {
    used: u32,
    blocked: u32,
}

/// Collects uses of ports.
#[derive(Default)]
pub struct Collector {
    /// Destinations by number, so that a use takes few bytes.
    numbers: HashMap<RawDestination, u32>,
    destinations: Vec<RawDestination>,
    uses: Vec<Use>,
    /// Ports not available for any destination, by network namespace.
    bound: HashMap<u32, PortSet>,
}

impl Collector {
    /// Adds one.
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
            reuse: Reuse::of(port),
        });
    }

    /// Sums up. Destinations in namespaces that are not in `spaces` are left out.
    #[must_use]
    pub fn finish(mut self, spaces: &[Box<PortSpace>]) -> Usage {
        let mut usable = HashMap::new();
        let spaces: HashMap<u32, &PortSpace> =
            spaces.iter().map(|space| (space.netns, &**space)).collect();
        for space in spaces.values() {
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
        // A reused port counts for its current user.
        self.uses.dedup_by_key(|each| (each.destination, each.port));
        for uses in self.uses.chunk_by(|a, b| a.destination == b.destination) {
            let raw = self.destinations[uses[0].destination as usize];
            let Some(ports) = usable.get(&raw.0) else {
                continue;
            };
            let mut owners: BTreeMap<(u32, u32), Counts> = BTreeMap::new();
            let mut all = Counts::default();
            let destination = destination(raw);
            for each in uses.iter().filter(|each| ports.contains(each.port)) {
                let blocked = each.reuse.blocks(spaces[&raw.0], &destination);
                for counts in [owners.entry(each.owner).or_default(), &mut all] {
                    counts.used += 1;
                    counts.blocked += u32::from(blocked);
                }
            }
            usage
                .shares
                .extend(owners.into_iter().map(|(owner, counts)| Share {
                    destination,
                    owner,
                    used: counts.used,
                    blocked: counts.blocked,
                    used_by_all: all.used,
                    blocked_by_all: all.blocked,
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

#[cfg(test)]
mod tests;
