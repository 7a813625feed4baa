//! For whom connections wait: the peers of each process, and which of them are programs of this host.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::{IpAddr, SocketAddr},
};

use observer_common::{
    CLOSE_WAIT, ESTABLISHED, LISTEN, SEEN_PASSIVE, SocketSeen, WAIT_PEER, WAIT_PEER_FIRST_BYTE,
    WAIT_UNUSED,
};

use super::{
    destination::address,
    waits::{Waits, is_judged, is_server, stall},
};

/// Peers kept of each process, those with the most waiting connections; and as many of either kind that is kept for
/// [`PeerWait::is_for_tls`].
pub(super) const PEERS: usize = 5;

/// A peer of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Its address.
    pub address: IpAddr,
    /// The port connected to: the peer's, or the process's own if the peer is a client.
    pub port: u16,
    /// Whether the peer is a client.
    pub is_client: bool,
}

/// Connections of a process with one peer that wait for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerWait {
    /// The process's slot and the slot's generation.
    pub owner: (u32, u32),
    /// The peer.
    pub peer: Peer,
    /// A `WAIT_` number: one of [`STALL_NAMES`], [`WAIT_PEER`], or of a client [`WAIT_UNUSED`].
    pub waits_for: u8,
    /// Whether detectors count them.
    pub is_judged: bool,
    /// Connections that have waited for `--stall-after` or longer; those that are [for TLS](Self::is_for_tls) for two
    /// seconds.
    pub connections: u32,
    /// The longest wait, milliseconds.
    pub longest_ms: u32,
    /// The slot and generation of the process of this host that is the server, if it is known: of the same network namespace
    /// by [`Served`], of another one by both ends of the connection, because its addresses are not unique.
    pub server: Option<(u32, u32)>,
}

/// An address of this host at which a connection to a local server has waited for a second or longer: in the accept queue,
/// or for the program or its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// The address.
    pub address: SocketAddr,
    /// Whose connection: slot and generation.
    pub owner: (u32, u32),
}

impl PeerWait {
    /// Whether it is kept for `tls_stall` alone, which names peers after five seconds: the first byte of the peer has been
    /// awaited for less than `--stall-after`, or the peer is a client that has sent nothing.
    #[must_use]
    pub fn is_for_tls(&self) -> bool {
        !self.is_judged && matches!(self.waits_for, WAIT_PEER_FIRST_BYTE | WAIT_UNUSED)
    }

    /// Those with the same are kept up to a number of peers, beside the others.
    fn kind(&self) -> u8 {
        if self.is_for_tls() { self.waits_for } else { 0 }
    }
}

impl Waits {
    /// Leaves out connections of a program with itself, by which its threads wake each other up: no answer is missing.
    fn remove(&mut self, it: &PeerWait) {
        let less = |count: &mut u32| *count = count.saturating_sub(it.connections);
        less(&mut self.connections);
        less(&mut self.in_use_of_clients);
        // Others have not waited for that long.
        if it.is_judged {
            match stall(it.waits_for) {
                Some(stall) => less(&mut self.stalled[stall]),
                None => less(&mut self.unanswered),
            }
        }
    }

    /// Whether a wait for a server may have begun for a request that the process has not answered. One that is older is of a
    /// connection that it has for something else, as for logs.
    #[must_use]
    pub fn is_for_request(&self, it: &PeerWait) -> bool {
        const LATER_MS: u32 = 2_000;
        self.owed_ms > 0 && it.longest_ms <= self.owed_ms.saturating_add(LATER_MS)
    }
}

/// Milliseconds after which a peer that has sent nothing is kept for [`PeerWait::is_for_tls`].
const SILENT_MS: u32 = 2_000;

/// Maximum number of peers per process during a walk, and of clients that have sent nothing.
const MOST_PEERS: u32 = 1000;

/// Maximum number of addresses of a process in [`Served`], which a client on loopback has millions to choose from.
const MOST_SERVED: u32 = 64;

/// Maximum number of connections of a process of which both ends are compared.
const MOST_ENDS: u32 = 1_000;

/// Addresses and ports of a connection: the server's, and the client's.
type Ends = [([u32; 4], u16); 2];

/// Aggregates the connections of a walk.
#[derive(Default)]
pub(super) struct WaitCollector {
    processes: BTreeMap<(u32, u32), Waits>,
    /// Connections, the longest wait, and the ends of that one.
    peers: BTreeMap<PeerKey, (u32, u32, Ends)>,
    /// Number of those of each owner: clients that have sent nothing, and others.
    known: BTreeMap<((u32, u32), bool), u32>,
    /// By address, port and namespace.
    served: BTreeMap<([u32; 4], u16, u32), (u32, u32)>,
    /// Servers' connections, but for those on loopback.
    ends: BTreeMap<Ends, (u32, u32)>,
    /// Number of either kind of each owner.
    served_by: BTreeMap<(u32, u32), [u32; 2]>,
    /// Owners and ports of listening sockets.
    listening: BTreeSet<((u32, u32), u16)>,
}

/// Owner, whether detectors count the wait, its number, and the peer.
type PeerKey = ((u32, u32), bool, u8, RawPeer);

/// [`Waits`] of a process: its slot and the slot's generation.
pub type ProcessWaits = ((u32, u32), Waits);

/// A peer as the kernel programs write it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RawPeer {
    netns: u32,
    address: [u32; 4],
    port: u16,
    is_client: bool,
}

impl RawPeer {
    pub fn of(socket: &SocketSeen, is_client: bool) -> Self {
        Self {
            netns: socket.netns,
            address: socket.remote,
            port: if is_client {
                socket.local_port
            } else {
                socket.remote_port
            },
            is_client,
        }
    }

    pub fn decode(self) -> Peer {
        Peer {
            netns: self.netns,
            address: address(self.address),
            port: self.port,
            is_client: self.is_client,
        }
    }
}

impl WaitCollector {
    pub fn add(&mut self, socket: &SocketSeen, stall_after_ms: u32) {
        let owner = (socket.slot, socket.generation);
        if socket.state == LISTEN {
            self.listening.insert((owner, socket.local_port));
        }
        if !matches!(socket.state, ESTABLISHED | CLOSE_WAIT) {
            return;
        }
        let waits = self.processes.entry(owner).or_default();
        let is_judged = is_judged(socket, stall_after_ms);
        waits.add(socket, stall_after_ms, is_judged);
        let waits_for = socket.waits_for;
        let is_server = is_server(socket);
        // Nothing is known of the addresses of those that have waited for less.
        if socket.flags & SEEN_PASSIVE != 0 && socket.local_port != 0 {
            self.add_served(socket, owner);
        }
        let is_unused = waits_for == WAIT_UNUSED && is_server;
        let is_for_somebody = stall(waits_for).is_some() || waits_for == WAIT_PEER;
        let least = match waits_for {
            WAIT_PEER_FIRST_BYTE | WAIT_UNUSED => stall_after_ms.min(SILENT_MS),
            _ => stall_after_ms,
        };
        if !(is_for_somebody || is_unused) || socket.waited_ms < least {
            return;
        }
        let peer = RawPeer::of(socket, is_server);
        let key = (owner, is_judged, waits_for, peer);
        let ends = [
            (socket.remote, socket.remote_port),
            (socket.local, socket.local_port),
        ];
        if let Some((count, longest, of_longest)) = self.peers.get_mut(&key) {
            *count += 1;
            if socket.waited_ms > *longest {
                (*longest, *of_longest) = (socket.waited_ms, ends);
            }
            return;
        }
        // Addresses of peers are easily had in any number.
        let known = self.known.entry((owner, is_unused)).or_default();
        if *known < MOST_PEERS {
            *known += 1;
            self.peers.insert(key, (1, socket.waited_ms, ends));
        }
    }

    fn add_served(&mut self, socket: &SocketSeen, owner: (u32, u32)) {
        let at = (socket.local, socket.local_port);
        let [addresses, connections] = self.served_by.entry(owner).or_default();
        if let Entry::Vacant(vacant) = self.served.entry((at.0, at.1, socket.netns))
            && *addresses < MOST_SERVED
        {
            *addresses += 1;
            vacant.insert(owner);
        }
        if *connections < MOST_ENDS && !address(at.0).is_loopback() {
            *connections += 1;
            let ends = [at, (socket.remote, socket.remote_port)];
            self.ends.insert(ends, owner);
        }
    }

    /// The waits of each process, in the order of owners; the peers, grouped by process: first
    /// those that detectors count, then by number of connections; and the addresses of servers.
    pub fn finish(self) -> (Vec<ProcessWaits>, Vec<PeerWait>, Vec<Served>) {
        let server = |peer: &RawPeer, ends: &Ends| {
            let at = (peer.address, peer.port, peer.netns);
            let here = self.served.get(&at).or_else(|| self.ends.get(ends));
            here.filter(|_| !peer.is_client).copied()
        };
        let peers = self.peers.iter();
        let peers = peers.map(
            |((owner, is_judged, waits_for, raw), (connections, longest_ms, ends))| PeerWait {
                owner: *owner,
                peer: raw.decode(),
                waits_for: *waits_for,
                is_judged: *is_judged,
                connections: *connections,
                longest_ms: *longest_ms,
                server: server(raw, ends),
            },
        );
        let mut peers: Vec<_> = peers.collect();
        let mut processes = self.processes;
        peers.retain(|it| {
            let is_for_answer = matches!(it.waits_for, WAIT_PEER | WAIT_PEER_FIRST_BYTE);
            // The listener of such a pair was closed once it was made. One that is there gets requests, from its own threads, too.
            let is_pair = is_for_answer
                && it.server == Some(it.owner)
                && !self.listening.contains(&(it.owner, it.peer.port));
            if is_pair && let Some(waits) = processes.get_mut(&it.owner) {
                waits.remove(it);
            }
            !is_pair
        });
        let served = self.served.into_iter();
        let served = served.map(|((raw, port, netns), owner)| Served {
            netns,
            address: SocketAddr::new(address(raw), port),
            owner,
        });
        let served: Vec<_> = served.collect();
        peers.sort_by_key(|it| {
            let most = Reverse((it.is_judged, it.connections, it.longest_ms));
            (it.owner, it.kind(), most, it.peer)
        });
        let (mut of, mut kept) = (None, 0);
        peers.retain(|it| {
            let group = Some((it.owner, it.kind()));
            kept = if of == group { kept + 1 } else { 1 };
            of = group;
            kept <= PEERS
        });
        peers.shrink_to_fit();
        (processes.into_iter().collect(), peers, served)
    }
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
