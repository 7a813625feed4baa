//! Aggregates the sockets of a walk.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    time::Duration,
};

use observer_common::{
    CLOSE, CLOSE_WAIT, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, PORT_BOUND, PORT_FIN_WAIT2,
    PORT_UNCONNECTED, PORT_WORDS, PortSpace, SEEN_ASKED, SEEN_DESCRIPTOR, SEEN_PASSIVE,
    SEEN_UNGUARDED, SYN_SENT, SocketSeen, TIME_WAIT, coarse_time,
};

use super::{
    TIME_WAIT_LENGTH,
    destination::{Destination, RawDestination},
    history::History,
    peers::{PEERS, RawPeer, WaitCollector},
    result::{DestinationUse, NamespaceUse, ProcessUse, Share, StatePeer, Walk},
    reuse::Reuse,
    waits::is_server,
};
use crate::heaviest::Heaviest;

/// Milliseconds without data after which a connection is idle.
const IDLE_MS: u32 = 300_000;
/// The same, from which it counts as unguarded.
const QUIET_MS: u32 = 60_000;

/// One bit for each port.
#[derive(Clone)]
struct PortSet(Box<[u64; PORT_WORDS]>);

impl Default for PortSet {
    fn default() -> Self {
        Self(Box::new([0; PORT_WORDS]))
    }
}

impl PortSet {
    /// The ports from `low` to `high`, both included.
    fn range(low: u16, high: u16) -> Self {
        let mut this = Self::default();
        for (word, first) in this.0.iter_mut().zip((0_u32..).step_by(64)) {
            let below = |end: u32| {
                let bits = end.saturating_sub(first).min(64);
                1_u64.checked_shl(bits).unwrap_or_default().wrapping_sub(1)
            };
            *word = below(u32::from(high) + 1) & !below(low.into());
        }
        this
    }

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
    /// For live connections 0.
    age: u32,
    owner: (u32, u32),
    state: u8,
    is_idle: bool,
    reuse: Reuse,
}

/// A port that bind() or listen() took.
struct BoundUse {
    port: u16,
    /// As in [`Use`].
    age: u32,
    owner: (u32, u32),
}

/// The bound ports of a network namespace.
#[derive(Default)]
struct Bound {
    all: PortSet,
    /// Those of which a socket is not in TIME_WAIT.
    live: PortSet,
    /// At most two of a port.
    uses: Vec<BoundUse>,
}

impl Bound {
    fn add(&mut self, socket: &SocketSeen) {
        let port = socket.local_port;
        let is_live = !Reuse::of(socket).in_time_wait;
        let known = if is_live { &self.live } else { &self.all };
        if known.contains(port) {
            return;
        }
        self.all.insert(port);
        if is_live {
            self.live.insert(port);
        }
        self.uses.push(BoundUse {
            port,
            age: if is_live {
                0
            } else {
                socket.age.saturating_add(1)
            },
            owner: (socket.slot, socket.generation),
        });
    }

    /// One use of each port in `range`, in their order: the live one, if there is one.
    fn uses(&self, range: &PortSet) -> Vec<&BoundUse> {
        let within = self.uses.iter().filter(|each| range.contains(each.port));
        let mut uses: Vec<_> = within.collect();
        uses.sort_by_key(|each| (each.port, each.age));
        uses.dedup_by_key(|each| each.port);
        uses
    }
}

/// The holders of the ports, most ports first.
fn binders(uses: &[&BoundUse]) -> Vec<((u32, u32), u32)> {
    let mut owners: BTreeMap<(u32, u32), u32> = BTreeMap::new();
    for each in uses {
        *owners.entry(each.owner).or_default() += 1;
    }
    let mut binders: Vec<_> = owners.into_iter().collect();
    binders.sort_by_key(|(_, ports)| std::cmp::Reverse(*ports));
    binders
}

/// Collects the sockets of a walk.
#[derive(Default)]
pub struct Collector {
    /// Destinations by number, so that a use takes few bytes.
    numbers: HashMap<RawDestination, u32>,
    destinations: Vec<RawDestination>,
    uses: Vec<Use>,
    /// Ports not available for any destination, by network namespace.
    bound: HashMap<u32, Bound>,
    /// By slot and generation.
    processes: BTreeMap<(u32, u32), ProcessUse>,
    waits: WaitCollector,
    /// By owner and state: peers of sockets that have been in it for long.
    state_peers: BTreeMap<((u32, u32), u8), Heaviest<RawPeer>>,
    /// See [`Walk::sockets`].
    sockets: BTreeMap<u32, u64>,
    stall_after_ms: u32,
}

impl Collector {
    /// For a walk that counts connections as stalled after `stall_after`.
    #[must_use]
    pub fn new(stall_after: Duration) -> Self {
        Self {
            stall_after_ms: stall_after.as_millis().min(u32::MAX.into()) as u32,
            ..Self::default()
        }
    }

    /// Adds one socket.
    pub fn add(&mut self, socket: &SocketSeen) {
        // The state is 0 in an empty record.
        if !matches!(socket.state, 0 | CLOSE | TIME_WAIT) {
            *self.sockets.entry(socket.netns).or_default() += 1;
        }
        self.add_to_process(socket);
        self.waits.add(socket, self.stall_after_ms);
        if socket.local_port == 0 || socket.flags & SEEN_PASSIVE != 0 {
            return;
        }
        if socket.flags & PORT_BOUND != 0 {
            self.bound.entry(socket.netns).or_default().add(socket);
            return;
        }
        if socket.flags & PORT_UNCONNECTED != 0 {
            return;
        }
        let raw = RawDestination::of(socket);
        let destination = *self.numbers.entry(raw).or_insert_with(|| {
            self.destinations.push(raw);
            self.destinations.len() as u32 - 1
        });
        let reuse = Reuse::of(socket);
        self.uses.push(Use {
            destination,
            port: socket.local_port,
            age: if reuse.in_time_wait {
                socket.age.saturating_add(1)
            } else {
                0
            },
            owner: (socket.slot, socket.generation),
            state: socket.state,
            is_idle: socket.state == ESTABLISHED && socket.idle_ms > IDLE_MS,
            reuse,
        });
    }

    fn add_to_process(&mut self, socket: &SocketSeen) {
        const fn over(seconds: u64, socket: &SocketSeen) -> u32 {
            (socket.age > coarse_time(seconds * 1_000_000_000)) as u32
        }
        let has = |flag| u32::from(socket.flags & flag != 0);
        let owner = (socket.slot, socket.generation);
        let mut seen = ProcessUse {
            owner,
            ..ProcessUse::default()
        };
        match socket.state {
            SYN_SENT => seen.syn_sent_over_3s = over(3, socket),
            CLOSE_WAIT if has(SEEN_DESCRIPTOR) != 0 => {
                seen.close_wait_over_10s = over(10, socket);
                seen.close_wait_over_60s = over(60, socket);
                seen.close_wait_of_servers = seen.close_wait_over_10s * has(SEEN_PASSIVE);
                seen.close_wait_unanswered = seen.close_wait_of_servers * has(SEEN_ASKED);
            }
            FIN_WAIT2 if has(SEEN_DESCRIPTOR) != 0 => seen.owned_fin_wait2 = 1,
            FIN_WAIT2 => seen.not_closed_by_peer = over(2, socket),
            TIME_WAIT => seen.not_closed_by_peer = over(2, socket) * has(PORT_FIN_WAIT2),
            ESTABLISHED if socket.idle_ms > QUIET_MS => seen.unguarded = has(SEEN_UNGUARDED),
            _ => return,
        }
        if seen.syn_sent_over_3s + seen.close_wait_over_10s > 0 {
            // A client that bound its port before connect() still connects.
            let is_client = socket.state != SYN_SENT && is_server(socket);
            let peers = self.state_peers.entry((owner, socket.state)).or_default();
            peers.add(RawPeer::of(socket, is_client), 1.0);
        }
        let any = seen.syn_sent_over_3s + seen.close_wait_over_10s + seen.owned_fin_wait2;
        if any + seen.unguarded + seen.not_closed_by_peer > 0 {
            let sum = self.processes.entry(owner).or_default();
            *sum = ProcessUse {
                owner,
                syn_sent_over_3s: sum.syn_sent_over_3s + seen.syn_sent_over_3s,
                close_wait_over_10s: sum.close_wait_over_10s + seen.close_wait_over_10s,
                close_wait_over_60s: sum.close_wait_over_60s + seen.close_wait_over_60s,
                close_wait_of_servers: sum.close_wait_of_servers + seen.close_wait_of_servers,
                close_wait_unanswered: sum.close_wait_unanswered + seen.close_wait_unanswered,
                owned_fin_wait2: sum.owned_fin_wait2 + seen.owned_fin_wait2,
                not_closed_by_peer: sum.not_closed_by_peer + seen.not_closed_by_peer,
                unguarded: sum.unguarded + seen.unguarded,
            };
        }
    }

    /// Sums up the walk that lasted for `walked` (CLOCK_MONOTONIC). Destinations in namespaces that are not in
    /// `spaces` are left out.
    #[must_use]
    pub fn finish(
        mut self,
        spaces: &[Box<PortSpace>],
        walked: Range<Duration>,
        history: &mut History,
    ) -> Walk {
        let mut usable = HashMap::new();
        let (waits, peers, served) = self.waits.finish();
        let mut walk = Walk {
            walked_at: walked.end,
            waits,
            peers,
            served,
            took: walked.end.saturating_sub(walked.start),
            interval: history.interval(walked.end),
            processes: self.processes.into_values().collect(),
            state_peers: state_peers(self.state_peers),
            sockets: self.sockets,
            ..Walk::default()
        };
        let mut remembered = history.begin(walked);
        for space in spaces {
            let mut ports = PortSet::range(space.low, space.high);
            ports.remove_all(&space.reserved);
            let range = ports.count();
            let mut namespace = NamespaceUse {
                range,
                ..NamespaceUse::default()
            };
            if let Some(bound) = self.bound.remove(&space.netns) {
                let uses = bound.uses(&ports);
                namespace = NamespaceUse {
                    bound: uses.len() as u32,
                    bound_time_wait: uses.iter().filter(|each| each.age > 0).count() as u32,
                    binders: binders(&uses),
                    ..namespace
                };
                let ratio = namespace.ratio();
                let taken = uses.iter().map(|each| (each.port, each.age));
                namespace.bound_opened =
                    remembered.add(RawDestination::all(space.netns), ratio, taken);
                ports.remove_all(&bound.all.0);
            }
            walk.namespaces.insert(space.netns, namespace);
            usable.insert(space.netns, (&**space, ports));
        }
        self.uses.sort_unstable();
        // A reused port counts for its current user.
        self.uses.dedup_by_key(|each| (each.destination, each.port));
        self.uses.retain(|each| {
            let netns = self.destinations[each.destination as usize].netns;
            usable
                .get(&netns)
                .is_some_and(|(_, ports)| ports.contains(each.port))
        });
        for uses in self.uses.chunk_by(|a, b| a.destination == b.destination) {
            let raw = self.destinations[uses[0].destination as usize];
            let space = usable[&raw.netns].0;
            let mut sum = sum(raw.decode(), uses, space, &mut walk.shares);
            sum.available = walk.namespaces[&raw.netns].available();
            for share in &mut walk.shares[sum.holders.clone()] {
                share.used_by_all = sum.used;
                share.blocked_by_all = sum.blocked;
                share.available = sum.available;
            }
            let ports = uses.iter().map(|each| (each.port, each.age));
            sum.opened = remembered.add(raw, sum.ratio(), ports);
            walk.destinations.push(sum);
        }
        remembered.end();
        walk
    }
}

/// The peers with the most sockets of each owner and state.
fn state_peers(all: BTreeMap<((u32, u32), u8), Heaviest<RawPeer>>) -> Vec<StatePeer> {
    let peers = all.into_iter().flat_map(|((owner, state), peers)| {
        let first = peers.first(PEERS).into_iter();
        first.map(move |(peer, sockets)| StatePeer {
            owner,
            state,
            peer: peer.decode(),
            sockets: sockets as u32,
        })
    });
    peers.collect()
}

/// Adds up the uses of one destination, and adds its holders to `shares`. Leaves out what depends on all
/// destinations or on other walks.
fn sum(
    destination: Destination,
    uses: &[Use],
    space: &PortSpace,
    shares: &mut Vec<Share>,
) -> DestinationUse {
    let first = shares.len();
    let mut all = DestinationUse {
        destination,
        available: 0,
        used: uses.len() as u32,
        blocked: 0,
        syn_sent: 0,
        established: 0,
        idle: 0,
        closing: 0,
        fin_wait2: 0,
        time_wait: 0,
        blocked_for: TIME_WAIT_LENGTH,
        opened: 0,
        holders: first..first,
    };
    let mut owners: BTreeMap<(u32, u32), (u32, u32)> = BTreeMap::new();
    let (mut waiting, mut reusable) = (0, 0);
    for each in uses {
        let blocks = u32::from(each.reuse.blocks(space, &destination));
        let (used, blocked) = owners.entry(each.owner).or_default();
        *used += 1;
        *blocked += blocks;
        all.blocked += blocks;
        all.idle += u32::from(each.is_idle);
        if each.reuse.in_time_wait {
            all.time_wait += blocks;
            all.fin_wait2 += blocks * u32::from(each.reuse.waits);
            waiting += 1;
            reusable += u32::from(each.reuse.applies(space, &destination));
            continue;
        }
        match each.state {
            SYN_SENT => all.syn_sent += 1,
            ESTABLISHED => all.established += 1,
            CLOSE_WAIT | FIN_WAIT1 | FIN_WAIT2 => all.closing += 1,
            _ => {}
        }
    }
    let reused = match waiting {
        0 => Reuse::usual().applies(space, &destination),
        _ => 2 * reusable >= waiting,
    };
    if reused {
        let delay = Duration::from_millis(space.tw_reuse_delay_ms.into());
        all.blocked_for = delay.min(TIME_WAIT_LENGTH);
    }
    let of_owner = owners.into_iter().map(|(owner, (used, blocked))| Share {
        destination,
        owner,
        used,
        blocked,
        used_by_all: 0,
        blocked_by_all: 0,
        available: 0,
    });
    shares.extend(of_owner);
    shares[first..].sort_by_key(|share| std::cmp::Reverse(share.used));
    all.holders.end = shares.len();
    all
}

#[cfg(test)]
mod tests;
