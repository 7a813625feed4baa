//! The numbers of findings.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::{Serialize, Serializer};

use super::holder::{Holder, labels};
use crate::{
    heaviest::Heaviest,
    table::Labels,
    walk::{Peer, PeerWait, wait_name},
};

/// Descriptors of one kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KindCount {
    /// The kind, in words.
    pub kind: String,
    /// Number of descriptors.
    pub count: u64,
}

/// Connections that wait, and the program of this host at their other end.
#[derive(Clone, Debug)]
pub struct Awaited {
    /// The connections.
    pub wait: PeerWait,
    /// The server, if it is a known process of this host.
    pub server: Option<Arc<Labels>>,
}

/// Connections that wait with or for one peer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Waiting {
    /// The peer's address.
    pub address: IpAddr,
    /// The port that was connected to.
    pub port: u16,
    /// Whether the peer is a client.
    pub is_client: bool,
    /// What they wait for, as the metrics have it.
    pub reason: &'static str,
    /// How many.
    pub connections: u32,
    /// The server, if it is a known process of this host.
    #[serde(serialize_with = "labels", skip_serializing_if = "Option::is_none")]
    pub server: Option<Arc<Labels>>,
}

impl Waiting {
    /// One for each peer, with the reason of the first of `waits`; most connections first.
    pub fn by_peer<'a>(waits: impl Iterator<Item = &'a Awaited>) -> Vec<Self> {
        let mut all: BTreeMap<(IpAddr, u16, bool), (usize, Self)> = BTreeMap::new();
        for (index, Awaited { wait, server }) in waits.enumerate() {
            let (peer, connections) = (&wait.peer, wait.connections);
            let key = (peer.address, peer.port, peer.is_client);
            let (_, waiting) = all.entry(key).or_insert_with(|| {
                let waiting = Self {
                    address: peer.address,
                    port: peer.port,
                    is_client: peer.is_client,
                    reason: wait_name(wait.waits_for),
                    connections: 0,
                    server: server.clone(),
                };
                (index, waiting)
            });
            waiting.connections += connections;
            waiting.server = one_of(waiting.server.take(), server.as_ref());
        }
        let mut all: Vec<_> = all.into_values().collect();
        all.sort_by_key(|(index, it)| (Reverse(it.connections), *index));
        all.into_iter().map(|(_, it)| it).collect()
    }

    /// The first [`PEERS`] of those.
    pub fn most<'a>(waits: impl Iterator<Item = &'a Awaited>) -> Vec<Self> {
        let mut all = Self::by_peer(waits);
        all.truncate(PEERS);
        all
    }
}

/// The server of connections with these: of two workers, their name.
fn one_of(known: Option<Arc<Labels>>, other: Option<&Arc<Labels>>) -> Option<Arc<Labels>> {
    match (known, other) {
        (Some(known), Some(other)) if known != *other => {
            let (comm, unit) = known.name_key();
            let is_same = other.name_key() == (comm, unit);
            is_same.then(|| Arc::new(Labels::name(comm, unit)))
        }
        (known, other) => known.or_else(|| other.cloned()),
    }
}

/// Where programs of the same host listen on the port of a destination at which nothing listens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Elsewhere {
    /// Their addresses.
    pub addresses: Vec<IpAddr>,
    /// One of the programs.
    #[serde(flatten, serialize_with = "labels")]
    pub labels: Option<Arc<Labels>>,
}

/// A peer, and how connects to it failed, if it is about that.
pub type PeerReason = (Peer, Option<&'static str>);

/// A peer and its share of the connections that an incident is about.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerShare {
    /// The network namespace of a connection to it, by inode number.
    #[serde(skip)]
    pub netns: u32,
    /// The peer's address.
    pub address: IpAddr,
    /// The port that was connected to.
    pub port: u16,
    /// Whether the peer is a client.
    pub is_client: bool,
    /// How connects to it failed: a name of the results. `None` if it is about something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// As a fraction of all peers.
    pub share: f64,
    /// Of one of this host that refuses: where programs listen on the port instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<Elsewhere>,
}

/// Many ports of one address that refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Scanned {
    /// The address.
    pub address: IpAddr,
    /// How many are known.
    pub ports: u32,
}

/// Maximum number of peers that a finding has.
const PEERS: usize = 5;

impl PeerShare {
    /// Those with the largest shares, largest first.
    #[must_use]
    pub fn first(of: &Heaviest<PeerReason>) -> Vec<Self> {
        Self::largest(Self::all(of))
    }

    /// All that are known, the largest first.
    #[must_use]
    pub fn all(of: &Heaviest<PeerReason>) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for ((peer, reason), weight) in of.first(usize::MAX) {
            let share = weight / of.total();
            let it = Self {
                netns: peer.netns,
                address: peer.address,
                port: peer.port,
                is_client: peer.is_client,
                reason,
                share,
                elsewhere: None,
            };
            // A name may have the same peer in two network namespaces.
            let is_same = |other: &&mut Self| {
                (other.address, other.port, other.is_client, other.reason)
                    == (it.address, it.port, it.is_client, it.reason)
            };
            match all.iter_mut().find(is_same) {
                Some(other) => other.share += share,
                None => all.push(it),
            }
        }
        all.sort_by(|a, b| b.share.total_cmp(&a.share));
        all
    }

    /// The largest of these, of which the first is the largest.
    #[must_use]
    pub fn largest(mut of: Vec<Self>) -> Vec<Self> {
        of.truncate(PEERS);
        of
    }
}

/// Which side sent the RSTs of a storm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// This side.
    Sent,
    /// The peers.
    Received,
}

/// Counts by name, without those that are 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Breakdown(Vec<(&'static str, u64)>);

impl Breakdown {
    /// From names and counts.
    pub fn new(counts: impl IntoIterator<Item = (&'static str, u64)>) -> Self {
        Self(counts.into_iter().filter(|(_, count)| *count > 0).collect())
    }

    /// The count of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        let found = self.0.iter().find(|(other, _)| *other == name);
        found.map_or(0, |(_, count)| *count)
    }

    /// Names and counts.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().copied()
    }

    /// The sum.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }
}

impl Serialize for Breakdown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

/// The numbers behind a finding.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Evidence {
    /// Of a storm.
    Resets {
        /// The direction with the higher score.
        direction: Direction,
        /// RSTs per second, over 10 s of a process or 60 s of a name.
        per_second: f64,
        /// Baseline per second; `None` if the subject is too new.
        baseline: Option<f64>,
        /// Fraction of the connections that ended.
        share: f64,
        /// RSTs sent in the last 10 to 20 s, by what led to them.
        sent: Breakdown,
        /// RSTs received in the last 10 to 20 s, by the state of the connection.
        received: Breakdown,
        /// The local process at the other end of most.
        peer_pid: Option<u32>,
        /// Its labels.
        #[serde(serialize_with = "labels", skip_serializing_if = "Option::is_none")]
        peer: Option<Arc<Labels>>,
        /// With whom most connections of this direction were, of the RSTs recorded since it was suspected; later
        /// ones count more.
        peers: Vec<PeerShare>,
    },
    /// Of failed connects.
    Connects {
        /// Failures in the window that raised it.
        failed: u64,
        /// All attempts in that window.
        attempts: u64,
        /// Seconds of that window.
        seconds: u64,
        /// Sockets in SYN_SENT for over 3 s.
        waiting: u32,
        /// Attempts that ended in the last 10 to 20 s, by result.
        results: Breakdown,
        /// To whom most failures were, of those recorded since it was suspected; later ones count more.
        peers: Vec<PeerShare>,
        /// To whom most of those that wait are.
        waiting_peers: Vec<PeerShare>,
        /// The address whose ports it tries one after the other, if it does.
        #[serde(skip_serializing_if = "Option::is_none")]
        scanned: Option<Scanned>,
    },
    /// Of connections that nothing answered.
    Unanswered {
        /// Established connections that ended so, those left out that keepalive ended.
        unanswered: u64,
        /// All that ended in the same time.
        ended: u64,
        /// Seconds of that time.
        seconds: u64,
        /// With whom most were, of those recorded since it was suspected; later ones count more.
        peers: Vec<PeerShare>,
    },
    /// Of connections that the program gave up.
    GaveUp {
        /// Those that it closed after it had waited for an answer for 1.5 s or longer.
        gave_up: u64,
        /// All that ended in the same time, and those that are in use; of a proxy, the connections of one side.
        connections: u64,
        /// Seconds of that time.
        seconds: u64,
        /// With whom most were, of those recorded since it was suspected; later ones count more.
        peers: Vec<PeerShare>,
    },
    /// Of local ports.
    Ports {
        /// Ports that connect() cannot use for the destination, or that bind() took.
        blocked: u32,
        /// Ports that there are for it.
        available: u32,
        /// Of the blocked, those of live sockets.
        live: u32,
        /// Of the blocked, those in TIME_WAIT.
        time_wait: u32,
        /// New connections per second.
        opened_per_second: f64,
        /// Ports that will be blocked at this rate, divided by the available ones.
        end: f64,
        /// Searches for a port that failed in 10 s.
        failed_searches: u64,
        /// Whose they are, most first.
        holders: Vec<Holder>,
    },
    /// Of TIME_WAIT overflows.
    TimeWaitOverflows {
        /// Connections closed without TIME_WAIT in 10 s.
        overflows: u64,
    },
    /// Of descriptors.
    Descriptors {
        /// Open ones.
        open: u64,
        /// Soft limit, RLIMIT_NOFILE.
        limit: u64,
        /// Growth per second, 0 if it was not found.
        growth_per_second: f64,
        /// socket() and accept() calls that failed with EMFILE in the last 10 to 20 s.
        emfile: u64,
        /// The same with ENFILE.
        enfile: u64,
        /// The newest ones by kind, most first.
        newest: Vec<KindCount>,
        /// With whom sockets in CLOSE_WAIT for over 10 s are, if these are the cause.
        peers: Vec<PeerShare>,
    },
    /// Of CLOSE_WAIT.
    CloseWait {
        /// Sockets in CLOSE_WAIT for over 10 s.
        over_10s: u32,
        /// Sockets in CLOSE_WAIT for over 60 s.
        over_60s: u32,
        /// With whom those over 10 s are.
        peers: Vec<PeerShare>,
    },
    /// Of connections that wait.
    Waits {
        /// Connections that wait.
        waiting: u32,
        /// All connections of the process, in ESTABLISHED and CLOSE_WAIT.
        connections: u32,
        /// Those that have waited for `--stall-after` or longer, by reason; `answer` are requests unanswered for 60 s.
        reasons: Breakdown,
        /// The longest wait of them, seconds.
        longest_seconds: f64,
        /// For whom, most connections first.
        peers: Vec<Waiting>,
    },
    /// Of TLS handshakes of a client.
    Handshakes {
        /// Those that failed, without those that the program gave up after it had waited.
        failed: u64,
        /// All that ended in the same time.
        handshakes: u64,
        /// Seconds of that time.
        seconds: u64,
        /// With whom the connections were that it opened and that ended within ten seconds, since it was suspected; later
        /// ones count more. Which of them failed in the handshake is unknown.
        peers: Vec<PeerShare>,
    },
    /// Of connections that carry nothing.
    Idle {
        /// Connections that have been nobody's turn for 10 s or longer.
        idle: u32,
        /// Of those, for 10 minutes or longer.
        idle_10min: u32,
        /// All connections of the process, in ESTABLISHED and CLOSE_WAIT.
        connections: u32,
        /// Growth per second.
        growth_per_second: f64,
    },
    /// Of early data of QUIC.
    EarlyData {
        /// Seconds that were looked back.
        seconds: u64,
        /// Connections with early data, by what became of it.
        attempts: Breakdown,
        /// Connections on which it was rejected, by what the program did.
        rejections: Breakdown,
        /// Of those that are `cancelled`, the ones that frames to reset streams came with.
        reset: u64,
    },
    /// Of an accept queue.
    AcceptQueue {
        /// Requests dropped in 10 s because it was full.
        overflows: u64,
        /// Connections waiting for accept().
        backlog: u64,
        /// Maximum of those.
        max_backlog: u64,
        /// Fill of the fullest socket.
        fullest: f64,
        /// Of those waiting, the ones that had waited for `--stall-after` or longer at the last walk.
        stalled: u64,
        /// The longest of these waits.
        stalled_seconds: f64,
        /// Number of listening sockets.
        sockets: u64,
        /// Connections accepted in the last 10 to 20 s.
        accepts: u64,
        /// The worker that accepts nothing although others do.
        stuck_pid: Option<u32>,
        /// The servers that its processes wait for, most connections first.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        waits: Vec<Waiting>,
        /// Whose sockets.
        holders: Vec<Holder>,
    },
    /// Of a scan.
    Scan {
        /// Distinct closed ports, at least: counted in a bitmap of 256.
        ports: u32,
        /// Segments without a socket.
        segments: u64,
    },
}

/// Maximum number of holders that a finding names.
const HOLDERS: usize = 10;

/// The first of all holders.
pub(in crate::detect) fn named(holders: &[Holder]) -> Vec<Holder> {
    holders.iter().take(HOLDERS).cloned().collect()
}

impl Evidence {
    /// Whose ports or sockets they are.
    #[must_use]
    pub fn holders(&self) -> &[Holder] {
        match self {
            Self::Ports { holders, .. } | Self::AcceptQueue { holders, .. } => holders,
            _ => &[],
        }
    }

    /// With whom the connections that it is about are, by address and port.
    pub(in crate::detect) fn peers(&self) -> Vec<(IpAddr, u16)> {
        match self {
            Self::Resets { peers, .. }
            | Self::Connects { peers, .. }
            | Self::Unanswered { peers, .. }
            | Self::GaveUp { peers, .. }
            | Self::Descriptors { peers, .. }
            | Self::CloseWait { peers, .. }
            | Self::Handshakes { peers, .. } => {
                peers.iter().map(|it| (it.address, it.port)).collect()
            }
            Self::Waits { peers, .. } => peers.iter().map(|it| (it.address, it.port)).collect(),
            Self::Ports { .. }
            | Self::TimeWaitOverflows { .. }
            | Self::Idle { .. }
            | Self::EarlyData { .. }
            | Self::AcceptQueue { .. }
            | Self::Scan { .. } => Vec::new(),
        }
    }
}
