//! Aggregates what connections wait for.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::{IpAddr, SocketAddr},
};

use observer_common::{
    AGE_BOUNDS, BUCKETS, CLOSE_WAIT, ESTABLISHED, Histogram, LISTEN, PORT_BOUND, SEEN_ASKED,
    SEEN_MUCH_UNREAD, SEEN_PASSIVE, STALL_NAMES, STALLS, SocketSeen, TURN_NAMES, TURNS,
    WAIT_NOBODY, WAIT_NOTHING, WAIT_PEER, WAIT_PEER_ACK, WAIT_PEER_FIRST_BYTE, WAIT_PEER_WINDOW,
    WAIT_PROGRAM, WAIT_PROGRAM_EOF, WAIT_PROGRAM_READ, WAIT_UNUSED, bucket_of,
};

use super::destination::address;

/// Seconds of quiet from which on connections are counted.
pub const QUIET_SECONDS: [u32; 4] = [10, 60, 600, 3600];

/// Seconds without an answer after which a request on a connection that worked before is [`Waits::unanswered`]: slow
/// queries take tens of seconds.
pub const UNANSWERED_SECONDS: u32 = 60;

/// Index of nobody's turn in [`Waits::quiet`].
pub const NOBODY: usize = (WAIT_NOBODY - WAIT_PEER) as usize;

/// Peers kept of each process, those with the most waiting connections; and as many of either kind that is kept for
/// [`PeerWait::is_for_tls`].
pub(super) const PEERS: usize = 5;

/// Waits of the connections of a process or a name, in ESTABLISHED and CLOSE_WAIT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    /// Connections in ESTABLISHED and CLOSE_WAIT.
    pub connections: u32,
    /// Connections that have been stalled for `--stall-after` or longer, in the order of [`STALL_NAMES`].
    pub stalled: [u32; STALLS],
    /// The longest of those waits, milliseconds.
    pub longest_ms: [u32; STALLS],
    /// Connections in ESTABLISHED that are not stalled and have been quiet for each of [`QUIET_SECONDS`], in the order of
    /// [`TURN_NAMES`].
    pub quiet: [[u32; QUIET_SECONDS.len()]; TURNS],
    /// Of the connections [in use](Self::in_use), those that were opened here.
    pub in_use_of_clients: u32,
    /// Connections in CLOSE_WAIT.
    pub close_wait: u32,
    /// Of the quiet ones, those of nobody's turn that came from a listener, for each of [`QUIET_SECONDS`].
    pub idle_of_servers: [u32; QUIET_SECONDS.len()],
    /// Requests on connections that have received data before, without an answer for 60 s or longer.
    pub unanswered: u32,
    /// The same of those that follow data of the peer at once, as the statement after BEGIN does, or an acknowledgement that
    /// needs no answer.
    pub unanswered_at_once: u32,
    /// Connections from its listeners that have sent it data and have received nothing at all, for `--stall-after`.
    pub owed_by_program: u32,
    /// The longest of those waits, milliseconds.
    pub owed_ms: u32,
    /// Connections with unread data, those of servers, and those with more than a TLS session ticket or close_notify.
    pub unread: u32,
    /// Of those, the ones that came from a listener.
    pub unread_of_servers: u32,
    /// Time since connections began, or the observer found them; by [`AGE_BOUNDS`].
    pub ages: [u32; BUCKETS],
    /// Sum of those times, in units of [`observer_common::coarse_time`].
    pub age_sum: u64,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            connections: 0,
            stalled: [0; STALLS],
            longest_ms: [0; STALLS],
            quiet: [[0; QUIET_SECONDS.len()]; TURNS],
            in_use_of_clients: 0,
            close_wait: 0,
            idle_of_servers: [0; QUIET_SECONDS.len()],
            unanswered: 0,
            unanswered_at_once: 0,
            owed_by_program: 0,
            owed_ms: 0,
            unread: 0,
            unread_of_servers: 0,
            ages: [0; BUCKETS],
            age_sum: 0,
        }
    }
}

impl Waits {
    fn add(&mut self, socket: &SocketSeen, stall_after_ms: u32, is_judged: bool) {
        self.connections += 1;
        let alive_ns = u64::from(socket.alive) << 20;
        self.ages[bucket_of(&AGE_BOUNDS, alive_ns)] += 1;
        self.age_sum += u64::from(socket.alive);
        let is_server = u32::from(is_server(socket));
        let is_nobodys = turn(socket.waits_for) == Some(NOBODY);
        let is_idle = is_nobodys && waited(socket, QUIET_SECONDS[0]);
        if !is_idle {
            self.in_use_of_clients += 1 - is_server;
        }
        self.close_wait += u32::from(socket.state == CLOSE_WAIT);
        let is_asked = socket.flags & SEEN_ASKED != 0;
        match socket.waits_for {
            WAIT_PEER if !is_asked => {
                self.unanswered_at_once += u32::from(waited(socket, UNANSWERED_SECONDS));
            }
            // Also if the client has gone meanwhile, which no data shows.
            WAIT_PROGRAM | WAIT_PROGRAM_EOF if is_asked => {
                self.owed_by_program += u32::from(socket.idle_ms >= stall_after_ms);
                self.owed_ms = self.owed_ms.max(socket.idle_ms);
            }
            _ => {}
        }
        if is_judged {
            match socket.waits_for {
                WAIT_PEER => self.unanswered += 1,
                WAIT_PROGRAM_READ => {
                    self.unread += 1;
                    self.unread_of_servers += is_server;
                }
                _ => {}
            }
        }
        if let Some(stall) = stall(socket.waits_for) {
            if socket.waited_ms >= stall_after_ms {
                self.stalled[stall] += 1;
                self.longest_ms[stall] = self.longest_ms[stall].max(socket.waited_ms);
            }
        } else if let Some(turn) = turn(socket.waits_for) {
            for (index, seconds) in QUIET_SECONDS.into_iter().enumerate() {
                let is_quiet = u32::from(waited(socket, seconds));
                self.quiet[turn][index] += is_quiet;
                self.idle_of_servers[index] += is_quiet * u32::from(is_nobodys) * is_server;
            }
        }
    }

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

    /// Adds the waits of another process.
    pub fn merge(&mut self, other: &Self) {
        self.connections += other.connections;
        self.in_use_of_clients += other.in_use_of_clients;
        self.close_wait += other.close_wait;
        self.unanswered += other.unanswered;
        self.unanswered_at_once += other.unanswered_at_once;
        self.owed_by_program += other.owed_by_program;
        self.owed_ms = self.owed_ms.max(other.owed_ms);
        self.unread += other.unread;
        self.unread_of_servers += other.unread_of_servers;
        self.age_sum += other.age_sum;
        let pairs = |all: &mut [u32], others: &[u32]| {
            all.iter_mut()
                .zip(others)
                .for_each(|(all, other)| *all += other);
        };
        pairs(&mut self.stalled, &other.stalled);
        pairs(&mut self.ages, &other.ages);
        pairs(&mut self.idle_of_servers, &other.idle_of_servers);
        pairs(self.quiet.as_flattened_mut(), other.quiet.as_flattened());
        for (longest, other) in self.longest_ms.iter_mut().zip(other.longest_ms) {
            *longest = (*longest).max(other);
        }
    }

    /// Whether a wait for a server may have begun for a request that the process has not answered. One that is older is of a
    /// connection that it has for something else, as for logs.
    #[must_use]
    pub fn is_for_request(&self, it: &PeerWait) -> bool {
        const LATER_MS: u32 = 2_000;
        self.owed_ms > 0 && it.longest_ms <= self.owed_ms.saturating_add(LATER_MS)
    }

    /// Stalled connections, and the longest wait in milliseconds, of one of the kinds of wait in [`STALL_NAMES`].
    #[must_use]
    pub fn stalled_for(&self, waits_for: u8) -> (u32, u32) {
        stall(waits_for).map_or((0, 0), |it| (self.stalled[it], self.longest_ms[it]))
    }

    /// Connections that have been nobody's turn for 10 s or longer.
    #[must_use]
    pub fn idle(&self) -> u32 {
        self.quiet[NOBODY][0]
    }

    /// The others.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.connections.saturating_sub(self.idle())
    }

    /// Stalled connections by reason, where there are any: reason, number, longest wait in milliseconds.
    pub fn stalls(&self) -> impl Iterator<Item = (&'static str, u32, u32)> {
        let all = STALL_NAMES.into_iter().zip(self.stalled);
        let all = all.zip(self.longest_ms);
        let all = all.map(|((name, count), longest)| (name, count, longest));
        all.filter(|(_, count, _)| *count > 0)
    }

    /// Quiet connections, where there are any: whose turn it is, for how many seconds, number.
    pub fn quiets(&self) -> impl Iterator<Item = (&'static str, u32, u32)> {
        let all = TURN_NAMES.into_iter().zip(self.quiet);
        let all = all.flat_map(|(turn, counts)| {
            let by_seconds = QUIET_SECONDS.into_iter().zip(counts);
            by_seconds.map(move |(seconds, count)| (turn, seconds, count))
        });
        all.filter(|(_, _, count)| *count > 0)
    }

    /// [`Self::ages`] as a histogram.
    #[must_use]
    pub fn age_histogram(&self) -> Histogram {
        Histogram {
            sum_ns: self.age_sum << 20,
            buckets: self.ages.map(u64::from),
        }
    }
}

/// Whether the connection came from a listener. For a connection older than the observer, this is derived from its port.
pub(super) fn is_server(socket: &SocketSeen) -> bool {
    socket.flags & (SEEN_PASSIVE | PORT_BOUND) != 0
}

/// Whether it has waited for this number of seconds.
fn waited(socket: &SocketSeen, seconds: u32) -> bool {
    socket.waited_ms / 1000 >= seconds
}

/// Whether detectors count the wait: a stall by the peer; a request without an answer, unless it
/// looks like traffic of an idle client; and unread data, if it is more than a TLS session ticket
/// or close_notify.
fn is_judged(socket: &SocketSeen, stall_after_ms: u32) -> bool {
    let has = |flag| socket.flags & flag != 0;
    let is_stalled = socket.waited_ms >= stall_after_ms;
    match socket.waits_for {
        WAIT_PEER => has(SEEN_ASKED) && waited(socket, UNANSWERED_SECONDS),
        WAIT_PROGRAM_READ => {
            let is_much = is_server(socket) || has(SEEN_MUCH_UNREAD);
            is_stalled && socket.state == ESTABLISHED && is_much
        }
        WAIT_PEER_WINDOW | WAIT_PEER_ACK | WAIT_PEER_FIRST_BYTE => is_stalled,
        _ => false,
    }
}

/// Index of a `WAIT_` number in [`STALL_NAMES`].
fn stall(waits_for: u8) -> Option<usize> {
    let index = usize::from(waits_for.checked_sub(WAIT_NOTHING + 1)?);
    (index < STALLS).then_some(index)
}

/// Index of a `WAIT_` number in [`TURN_NAMES`].
fn turn(waits_for: u8) -> Option<usize> {
    if waits_for == WAIT_UNUSED {
        return Some(NOBODY);
    }
    let index = usize::from(waits_for.checked_sub(WAIT_PEER)?);
    (index < TURNS).then_some(index)
}

/// The reason of a wait: one of [`STALL_NAMES`] or [`TURN_NAMES`], or `unused`.
#[must_use]
pub fn wait_name(waits_for: u8) -> &'static str {
    if waits_for == WAIT_UNUSED {
        return "unused";
    }
    match (stall(waits_for), turn(waits_for)) {
        (Some(stall), _) => STALL_NAMES[stall],
        (_, Some(turn)) => TURN_NAMES[turn],
        _ => "nothing",
    }
}

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
#[path = "waits_tests.rs"]
mod tests;
