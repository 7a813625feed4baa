//! Counting ports.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
};

use observer_common::{PORT_BOUND, PORT_UNCONNECTED, PORT_WORDS, PortSpace, PortUse};

use super::{
    destination::{Destination, address},
    reuse::Rest,
};

/// What one process has of a destination's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which destination.
    pub destination: Destination,
    /// The process's slot and the slot's generation.
    pub owner: (u32, u32),
    /// Ports that it uses, TIME_WAIT included.
    pub used: u32,
    /// Of those, ports that connect() may not take for this destination now: all but those
    /// in TIME_WAIT that may be taken again.
    pub blocked: u32,
    /// Ports that all processes use.
    pub used_by_all: u32,
    /// Of those, ports that connect() may not take.
    pub blocked_by_all: u32,
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
    rest: Rest,
}

/// As the kernel side writes it: namespace, source, destination, its port.
type RawDestination = (u32, [u32; 4], [u32; 4], u16);

/// Ports of one destination.
#[derive(Clone, Copy, Default)]
struct Counts {
    used: u32,
    blocked: u32,
}

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
            rest: Rest::of(port),
        });
    }

    /// Adds up. Destinations of a namespace that is not among `spaces` are left out.
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
        // A port that was taken again counts for who has it now.
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
                let blocked = each.rest.blocks(spaces[&raw.0], &destination);
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
