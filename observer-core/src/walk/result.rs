//! The result of a walk.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use super::{
    destination::Destination,
    peers::{Peer, PeerWait, ProcessWaits, Served},
    waits::Waits,
};

/// Ratio of blocked ports from which a destination is [busy](Walk::busy_destinations).
const BUSY: f64 = 0.1;

/// The result of a walk. The default is an empty result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// CLOCK_MONOTONIC at its end; 0 without a walk.
    pub walked_at: Duration,
    /// Destinations of connections that were opened here.
    pub destinations: Vec<DestinationUse>,
    /// The holders of ports, grouped by destination, most ports first.
    pub shares: Vec<Share>,
    /// Processes of which any number in [`ProcessUse`] is not 0, in the order of slots.
    pub processes: Vec<ProcessUse>,
    /// Waits of the connections of each process with connections, in the order of slots.
    pub waits: Vec<ProcessWaits>,
    /// For whom they wait: those of a process one after the other, first those that detectors count, most connections
    /// first.
    pub peers: Vec<PeerWait>,
    /// Addresses of servers of this host whose connections wait.
    pub served: Vec<Served>,
    /// The peers of sockets that have been in a state for long, in the order of owners and states, most sockets
    /// first.
    pub state_peers: Vec<StatePeer>,
    /// Duration of the walk.
    pub took: Duration,
    /// From the end of the walk before to the end of this one; 0 without one.
    pub interval: Duration,
    /// Network namespaces that a local port is in use in, by inode number.
    pub namespaces: BTreeMap<u32, NamespaceUse>,
    /// Sockets that are neither closed nor in TIME_WAIT, by inode number of the network namespace.
    pub sockets: BTreeMap<u32, u64>,
}

/// Local ports for a destination, of all processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationUse {
    /// The destination.
    pub destination: Destination,
    /// Ports available for it.
    pub available: u32,
    /// Of those, ports in use, TIME_WAIT included.
    pub used: u32,
    /// Of those in use, ports that connect() cannot use now: all but those in TIME_WAIT that can be
    /// reused.
    pub blocked: u32,
    /// Ports of sockets in SYN_SENT.
    pub syn_sent: u32,
    /// Ports of sockets in ESTABLISHED.
    pub established: u32,
    /// Of those, sockets that have neither sent nor received data for over 5 minutes. 0 if the kernel's
    /// fields for that are not known.
    pub idle: u32,
    /// Ports of sockets in CLOSE_WAIT, FIN_WAIT1 and FIN_WAIT2.
    pub closing: u32,
    /// Of the blocked ports, those in TIME_WAIT.
    pub time_wait: u32,
    /// Of those, timewait sockets in the substate FIN_WAIT2: this side has closed, and the other has not. They end after
    /// `net.ipv4.tcp_fin_timeout`, and `tcp_tw_reuse` does not apply.
    pub fin_wait2: u32,
    /// How long a port stays blocked after its connection: TIME_WAIT, or the delay of `tcp_tw_reuse` where
    /// that applies.
    pub blocked_for: Duration,
    /// Connections that took a port, since the first of the walks running that found the destination. Those
    /// that began and ended without TIME_WAIT between two walks are missing.
    pub opened: u64,
    /// The holders of the ports, as indices of [`Walk::shares`].
    pub holders: Range<usize>,
}

impl DestinationUse {
    /// Blocked ports as a fraction of the available ones.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        f64::from(self.blocked) / f64::from(self.available.max(1))
    }
}

/// The ports of one process for one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The destination.
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

/// Sockets of a process that have been in a state for long, those of its listeners included. The state of
/// a socket that is older than the daemon counts from when the daemon found it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessUse {
    /// The process's slot and the slot's generation.
    pub owner: (u32, u32),
    /// In SYN_SENT for over 3 s.
    pub syn_sent_over_3s: u32,
    /// In CLOSE_WAIT for over 10 s, with a descriptor: one that waits for accept() has none.
    pub close_wait_over_10s: u32,
    /// The same, for over 60 s.
    pub close_wait_over_60s: u32,
    /// Of those over 10 s, the ones that came from a listener.
    pub close_wait_of_servers: u32,
    /// Of these, the ones on which the process was sent something and has sent nothing at all.
    pub close_wait_unanswered: u32,
    /// In FIN_WAIT2, with a descriptor: shutdown() was called and not close().
    pub owned_fin_wait2: u32,
    /// Closed by the process, and for over 2 s not by the peer: in FIN_WAIT2 without a descriptor, a timewait socket included.
    pub not_closed_by_peer: u32,
    /// In ESTABLISHED without data for over 60 s, with neither SO_KEEPALIVE nor TCP_USER_TIMEOUT.
    pub unguarded: u32,
}

/// Sockets of a process and one peer that have been in a state for as long as those in [`ProcessUse`]: SYN_SENT over
/// 3 s, CLOSE_WAIT over 10 s.
/// Of each process, the peers with the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatePeer {
    /// The process's slot and the slot's generation.
    pub owner: (u32, u32),
    /// The state.
    pub state: u8,
    /// The peer.
    pub peer: Peer,
    /// Number of sockets.
    pub sockets: u32,
}

/// Local ports of a network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceUse {
    /// Ports of `ip_local_port_range` without reserved ones.
    pub range: u32,
    /// Of those, ports that bind() or listen() took, for every destination.
    pub bound: u32,
    /// Of the bound ones, those of which all sockets are in TIME_WAIT.
    pub bound_time_wait: u32,
    /// Sockets that took such a port, as [`DestinationUse::opened`].
    pub bound_opened: u64,
    /// Slot and generation of those who have them, and how many, most first.
    pub binders: Vec<((u32, u32), u32)>,
}

impl NamespaceUse {
    /// Ports available for each destination.
    #[must_use]
    pub const fn available(&self) -> u32 {
        self.range.saturating_sub(self.bound)
    }

    /// Bound ports as a fraction of the range.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        f64::from(self.bound) / f64::from(self.range.max(1))
    }

    /// Whether a tenth of the ports are bound.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.ratio() >= BUSY
    }
}

impl Walk {
    /// The values of a process.
    #[must_use]
    pub fn process(&self, owner: (u32, u32)) -> ProcessUse {
        let found = self.processes.binary_search_by_key(&owner, |it| it.owner);
        found.map_or(
            ProcessUse {
                owner,
                ..ProcessUse::default()
            },
            |index| self.processes[index],
        )
    }

    /// Waits of the connections of a process; `None` if it has none.
    #[must_use]
    pub fn waits(&self, owner: (u32, u32)) -> Option<&Waits> {
        let found = self.waits.binary_search_by_key(&owner, |(it, _)| *it);
        found.ok().map(|index| &self.waits[index].1)
    }

    /// For whom the connections of a process wait, in that order.
    #[must_use]
    pub fn peers(&self, owner: (u32, u32)) -> &[PeerWait] {
        let first = self.peers.partition_point(|it| it.owner < owner);
        let count = self.peers[first..].partition_point(|it| it.owner == owner);
        &self.peers[first..first + count]
    }

    /// The peers of the sockets of a process that have been in this state for long, most sockets first.
    #[must_use]
    pub fn state_peers(&self, owner: (u32, u32), state: u8) -> &[StatePeer] {
        let all = &self.state_peers;
        let first = all.partition_point(|it| (it.owner, it.state) < (owner, state));
        let count = all[first..].partition_point(|it| (it.owner, it.state) == (owner, state));
        &all[first..first + count]
    }

    /// The holders of the ports for a destination, most ports first.
    #[must_use]
    pub fn holders(&self, destination: &DestinationUse) -> &[Share] {
        self.shares
            .get(destination.holders.clone())
            .unwrap_or_default()
    }

    /// Destinations that may run out of ports before long: a tenth of the ports are blocked.
    pub fn busy_destinations(&self) -> impl Iterator<Item = &DestinationUse> {
        let all = self.destinations.iter();
        all.filter(|destination| destination.ratio() >= BUSY)
    }

    /// The highest ratio of blocked ports to available ones of any destination, or of bound ports of any
    /// namespace.
    #[must_use]
    pub fn fullest(&self) -> f64 {
        let destinations = self.destinations.iter().map(DestinationUse::ratio);
        let namespaces = self.namespaces.values().map(NamespaceUse::ratio);
        destinations.chain(namespaces).fold(0.0, f64::max)
    }
}
