//! Which findings explain others.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
};

use observer_common::{ProcessKey, TLS_CLIENT, WAIT_PEER_FIRST_BYTE};

use super::{
    super::{
        anomaly::Anomaly,
        board::Board,
        cause,
        detector::At,
        finding::{Awaited, Direction, Evidence, Finding, PeerShare, Severity, Subject},
        listen_overflow::ListenOverflow,
        read_stall::{self, ReadStall},
        sample::{ConnectResult, Connecting, Listener, Name, Process, Sample},
        tls_failures::TlsFailures,
    },
    watches::{Rows, Watch, Watches},
};
use crate::table::Labels;

/// Whether it is raised for a process of the name.
pub(super) fn is_raised_for_process(board: &Board, anomaly: Anomaly, name: &Labels) -> bool {
    board.all_raised(anomaly).any(|finding| {
        let labels = finding.labels.as_ref();
        matches!(finding.subject, Subject::Process(_))
            && labels.is_some_and(|it| it.name_key() == name.name_key())
    })
}

/// Whether the ports that searches failed for are a finding.
pub(super) fn is_exhausted(board: &Board, failed_at: Option<&Subject>) -> bool {
    let finding = failed_at.and_then(|it| board.raised(Anomaly::PortExhaustion, it));
    finding.is_some()
}

/// Whether the local process at the other end sends the RSTs.
pub(super) fn is_sent_by_peer(board: &Board, process: &Process) -> bool {
    storm_of_peer(board, process).is_some()
}

/// The same of RSTs that are no consequence of handshakes.
pub(super) fn is_reset_by_peer(board: &Board, process: &Process) -> bool {
    let storm = storm_of_peer(board, process);
    storm.is_some_and(|it| {
        it.causes
            .iter()
            .all(|it| it.cause != &cause::HANDSHAKES_FAIL)
    })
}

/// The RSTs that the local process at the other end sends.
fn storm_of_peer<'a>(board: &'a Board, process: &Process) -> Option<&'a Finding> {
    let peer = process.reset_peer.map(Subject::Process)?;
    let storm = board.raised(Anomaly::RstStorm, &peer)?;
    let is_sent = matches!(
        storm.evidence,
        Evidence::Resets {
            direction: Direction::Sent,
            ..
        }
    );
    is_sent.then_some(storm)
}

/// Whether failed TLS handshakes of this name, of the local process at the other end of its reset connections, or of
/// clients of its listeners on this host are a finding.
pub(super) fn are_handshakes(
    board: &Board,
    listeners: &[Listener],
    name: &Labels,
    peer: Option<ProcessKey>,
) -> bool {
    let is_of_name = |it: &Labels| it.name_key() == name.name_key();
    board.all_raised(Anomaly::TlsFailures).any(|finding| {
        let Evidence::Handshakes { peers, .. } = &finding.evidence else {
            return false;
        };
        finding.labels.as_deref().is_some_and(is_of_name)
            || peer.is_some_and(|peer| finding.subject == Subject::Process(peer))
            || are_at_listeners(listeners, name, peers)
    })
}

/// Whether most of these connections are to listeners of this name.
fn are_at_listeners(listeners: &[Listener], name: &Labels, peers: &[PeerShare]) -> bool {
    let mut holders = |it: &&Listener| {
        let mut holders = it.holders.iter().map(|it| it.labels.name_key());
        holders.any(|it| it == name.name_key())
    };
    let own: Vec<_> = listeners.iter().filter(&mut holders).collect();
    let at = |it: &&PeerShare| is_one_at(&own, it.netns, SocketAddr::new(it.address, it.port));
    peers.iter().filter(at).map(|it| it.share).sum::<f64>() > 0.5
}

/// Clients whose TLS handshakes fail, or may soon be known to: their RSTs follow from that.
pub(super) struct FailingClients<'a> {
    processes: HashSet<ProcessKey>,
    /// With whom each of them, or of their names, has short connections.
    peers: Vec<&'a [PeerShare]>,
}

impl<'a> FailingClients<'a> {
    /// As of the last sample.
    pub(super) fn new(
        sample: &'a Sample,
        processes: (&Watches<TlsFailures<Process>>, &Rows),
        names: (&Watches<TlsFailures<Name>>, &Rows),
    ) -> Self {
        let (watches, rows) = processes;
        let parts = sample.processes.iter().enumerate();
        let failing = parts.filter(|(index, _)| is_suspected(watches, rows, *index));
        let failing: Vec<_> = failing.map(|(_, it)| it).collect();
        let (watches, rows) = names;
        let parts = sample.names.iter().enumerate();
        let names = parts.filter(|(index, _)| is_suspected(watches, rows, *index));
        let of_processes = failing.iter().map(|it| &it.culprits.short[..]);
        let of_names = names.map(|(_, it)| &it.culprits.short[..]);
        Self {
            processes: failing.iter().map(|it| it.key).collect(),
            peers: of_processes.chain(of_names).collect(),
        }
    }

    /// Whether they are those of this name, or the local process at the other end of its reset connections is one of them.
    pub(super) fn are_of(
        &self,
        listeners: &[Listener],
        name: &Labels,
        peer: Option<ProcessKey>,
    ) -> bool {
        let mut peers = self.peers.iter();
        peer.is_some_and(|peer| self.processes.contains(&peer))
            || peers.any(|it| are_at_listeners(listeners, name, it))
    }
}

fn is_suspected<D>(watches: &Watches<D>, rows: &Rows, index: usize) -> bool {
    let watch = watches.get(rows.of_part(index));
    watch.is_some_and(Watch::is_suspected)
}

/// Whether a process at its descriptor limit is among the holders.
pub(super) fn is_out_of_descriptors(board: &Board, listener: &Listener) -> bool {
    board.all_raised(Anomaly::FdExhaustion).any(|finding| {
        // By name: workers accept what their parent listens for.
        let is_holder = |labels: &Labels| {
            let mut holders = listener.holders.iter().map(|holder| &holder.labels);
            holders.any(|it| it.name_key() == labels.name_key())
        };
        let labels = finding.labels.as_deref();
        finding.severity == Severity::Critical && labels.is_some_and(is_holder)
    })
}

/// Whether the server of most short connections lets others wait, by a finding of these: handshakes with it end in other ways,
/// too.
pub(super) fn are_unanswered(
    board: &Board,
    short: &[PeerShare],
    is_of_client: impl Fn(&Finding) -> bool,
) -> bool {
    let most = short.iter().find(|it| it.share > 0.5);
    let is_most = |at: (IpAddr, u16)| most.is_none_or(|it| (it.address, it.port) == at);
    let waits = |finding: &Finding| {
        let peers: Vec<_> = match &finding.evidence {
            Evidence::Waits { peers, .. } => peers.iter().map(|it| (it.address, it.port)).collect(),
            Evidence::GaveUp { peers, .. } => {
                peers.iter().map(|it| (it.address, it.port)).collect()
            }
            _ => return false,
        };
        peers.is_empty() || peers.into_iter().any(is_most)
    };
    [Anomaly::TlsStall, Anomaly::ReadStall]
        .into_iter()
        .flat_map(|it| board.all_raised(it))
        .any(|it| is_of_client(it) && waits(it))
}

/// Listeners of this host that do not accept, or too slowly.
pub(super) struct FullListeners<'a> {
    /// Those with a finding, or with one that another explains.
    full: Vec<&'a Listener>,
    /// Those at which as many connections wait as a finding takes: only a walk can tell for how long.
    filling: Vec<&'a Listener>,
}

impl<'a> FullListeners<'a> {
    pub(super) fn new(
        all: &'a [Listener],
        watches: &Watches<ListenOverflow>,
        rows: &Rows,
        at: &At<'_>,
    ) -> Self {
        let is_full = |(index, _): &(usize, &Listener)| {
            let watch = watches.get(rows.of_part(*index));
            watch.is_some_and(|it| it.flag.raised().is_some() || it.is_hidden(at.now))
        };
        let full = all.iter().enumerate().filter(is_full);
        let least = at.thresholds.listen_stalled;
        let filling = all.iter().filter(|it| it.backlog as f64 >= least);
        Self {
            full: full.map(|(_, listener)| listener).collect(),
            filling: filling.collect(),
        }
    }

    /// Whether connections that wait are with a full one: at its address, or with a process that is known to be its holder.
    fn is_awaited(&self, it: &Awaited) -> bool {
        let peer = &it.wait.peer;
        let server = it.server.as_deref().map(Labels::name_key);
        let is_holder = |listener: &&Listener| {
            let mut holders = listener.holders.iter().map(|it| it.labels.name_key());
            listener.place.address.port() == peer.port && holders.any(|it| server == Some(it))
        };
        let at = SocketAddr::new(peer.address, peer.port);
        !peer.is_client
            && (is_one_at(&self.full, peer.netns, at) || self.full.iter().any(is_holder))
    }
}

/// Whether connects from a namespace to an address reach one of these. Of another namespace nothing is known: addresses are
/// not unique.
fn is_one_at(listeners: &[&Listener], netns: u32, at: SocketAddr) -> bool {
    listeners.iter().any(|it| {
        let place = &it.place;
        place.is_reached_at(netns, at) || place.netns == netns && it.queued_at.contains(&at)
    })
}

/// How connects to such a listener fail.
const UNANSWERED: [ConnectResult; 3] = [
    ConnectResult::TimedOut,
    ConnectResult::GaveUp,
    ConnectResult::Canceled,
];

/// Whether most of each of these connects were to such listeners. Nothing is known of those that are empty.
pub(super) fn is_at_full_listeners(
    listeners: &FullListeners<'_>,
    connects: &[Vec<PeerShare>],
) -> bool {
    are_at(&listeners.full, connects)
}

fn are_at(listeners: &[&Listener], connects: &[Vec<PeerShare>]) -> bool {
    let is_full = |it: &&PeerShare| {
        let mut unanswered = UNANSWERED.iter().map(|it| it.name());
        let at = SocketAddr::new(it.address, it.port);
        it.reason
            .is_none_or(|reason| unanswered.any(|it| it == reason))
            && !it.is_client
            && is_one_at(listeners, it.netns, at)
    };
    let at_full = |of: &Vec<PeerShare>| of.iter().filter(is_full).map(|it| it.share).sum::<f64>();
    let mut known = connects.iter().filter(|it| !it.is_empty()).peekable();
    known.peek().is_some() && known.all(|it| at_full(it) > 0.5)
}

/// The connections in `waits` to such listeners, and the others.
fn divide<'a>(
    listeners: &FullListeners<'_>,
    waits: impl Iterator<Item = &'a Awaited>,
) -> (u32, u32) {
    let (mut full, mut others) = (0, 0);
    for it in waits {
        match listeners.is_awaited(it) {
            true => full += it.wait.connections,
            false => others += it.wait.connections,
        }
    }
    (full, others)
}

/// Whether most of what connections wait for, or of what they were given up for, is at such listeners.
pub(super) fn stalls_at_full_listeners<S: Connecting>(
    listeners: &FullListeners<'_>,
    detector: &ReadStall<S>,
    sample: &S,
) -> bool {
    let waits = read_stall::waiting(sample);
    let (full, others) = divide(listeners, waits);
    let gave_up = std::slice::from_ref(&sample.culprits().gave_up);
    // Clients may lose patience before the listener is a finding.
    full > others || detector.is_of_ended() && are_at(&listeners.filling, gave_up)
}

/// Whether slow TLS handshakes as a client may all be at such listeners.
pub(super) fn handshakes_at_full_listeners(
    listeners: &FullListeners<'_>,
    process: &Process,
) -> bool {
    let waits = process.peers.iter();
    let waits = waits.filter(|it| it.wait.waits_for == WAIT_PEER_FIRST_BYTE);
    let (full, others) = divide(listeners, waits);
    let slow = &process.handshakes.slow;
    let as_client = slow[TLS_CLIENT as usize];
    // Any of them may be with the others.
    full > 0 && 2 * as_client > slow.iter().sum() && 2 * others < as_client
}
