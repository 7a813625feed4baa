//! Which findings explain others.

use std::{
    collections::{HashMap, HashSet},
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
    watches::{Rows, Watches},
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
    failed_at.is_some_and(|it| board.is_found(Anomaly::PortExhaustion, it))
}

/// Whether the local process at the other end sends the RSTs.
pub(super) fn is_sent_by_peer(board: &Board, process: &Process) -> bool {
    storm_of_peer(board, process).is_some()
}

/// Whether the local process at the other end gives up waiting for answers.
pub(super) fn is_given_up_by_peer(board: &Board, process: &Process) -> bool {
    let peer = process.reset_peer.map(Subject::Process);
    let stall = peer.and_then(|it| board.raised(Anomaly::ReadStall, &it));
    stall.is_some_and(|it| matches!(it.evidence, Evidence::GaveUp { .. }))
}

/// Whether it sends RSTs that are no consequence of handshakes.
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

/// Whether failed TLS handshakes of this name, or of the local process at the other end of its reset connections, are a
/// finding.
pub(super) fn are_handshakes(board: &Board, name: &Labels, peer: Option<ProcessKey>) -> bool {
    let is_of_name = |it: &Labels| it.name_key() == name.name_key();
    board.all_raised(Anomaly::TlsFailures).any(|finding| {
        finding.labels.as_deref().is_some_and(is_of_name)
            || peer.is_some_and(|peer| finding.subject == Subject::Process(peer))
    })
}

/// Clients whose TLS handshakes fail, or may soon be known to: their RSTs follow from that.
#[derive(Default)]
pub(super) struct FailingClients<'a> {
    processes: HashSet<ProcessKey>,
    /// Their failed handshakes per second, by the name of the program of this host that most of their short connections are
    /// with.
    failed: HashMap<(&'a str, &'a str), f64>,
}

impl<'a> FailingClients<'a> {
    /// As of the last sample.
    pub(super) fn new(
        sample: &'a Sample,
        processes: (&Watches<TlsFailures<Process>>, &Rows),
        names: (&Watches<TlsFailures<Name>>, &Rows),
    ) -> Self {
        // Usually there is none, and nothing is read of any.
        if !processes.0.any_suspected && !names.0.any_suspected {
            return Self::default();
        }
        let of_processes = suspected(&sample.processes, processes);
        let of_names = suspected(&sample.names, names);
        let mut failed = at_listeners(&sample.listeners, &of_processes);
        // Those of a name include those of its processes.
        for (name, rate) in at_listeners(&sample.listeners, &of_names) {
            let known = failed.entry(name).or_default();
            *known = known.max(rate);
        }
        Self {
            processes: of_processes.iter().map(|(it, _)| it.key).collect(),
            failed,
        }
    }

    /// Whether half of so many RSTs per second of this name are theirs, or the local process at the other end of its reset
    /// connections is one of them.
    pub(super) fn are_of(&self, rate: f64, name: &Labels, peer: Option<ProcessKey>) -> bool {
        let failed = self.failed.get(&name.name_key());
        peer.is_some_and(|peer| self.processes.contains(&peer))
            || failed.is_some_and(|it| 2.0 * it >= rate)
    }
}

/// The failed handshakes per second of clients, by the names that listen where most of their short connections are to.
fn at_listeners<'a, S: Connecting>(
    listeners: &'a [Listener],
    clients: &[(&'a S, f64)],
) -> HashMap<(&'a str, &'a str), f64> {
    let mut at: HashMap<(u32, SocketAddr), f64> = HashMap::new();
    for (client, rate) in clients {
        for peer in &client.culprits().short {
            let place = (peer.netns, SocketAddr::new(peer.address, peer.port));
            *at.entry(place).or_default() += peer.share * rate;
        }
    }
    let mut failed = HashMap::new();
    for ((netns, address), rate) in at {
        let here = listeners
            .iter()
            .filter(|it| is_one_at(&[it], netns, address));
        let holders = here.flat_map(|it| &it.holders);
        let names: HashSet<_> = holders.map(|it| it.labels.name_key()).collect();
        for name in names {
            *failed.entry(name).or_default() += rate;
        }
    }
    failed
}

/// Those that are suspected, with their failed handshakes per second.
fn suspected<'a, S: Connecting>(
    parts: &'a [S],
    (watches, rows): (&Watches<TlsFailures<S>>, &Rows),
) -> Vec<(&'a S, f64)> {
    let all = parts.iter().enumerate().filter_map(|(index, part)| {
        let watch = watches.get(rows.of_part(index))?;
        watch
            .is_suspected()
            .then(|| (part, watch.detector.failed_per_second()))
    });
    all.collect()
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
    let are_most = |with: &[(IpAddr, u16)]| {
        let same = short
            .iter()
            .filter(|it| with.contains(&(it.address, it.port)));
        short.is_empty() || same.map(|it| it.share).sum::<f64>() > 0.5
    };
    let waits = |finding: &Finding| {
        let peers = finding.evidence.peers();
        peers.is_empty() || are_most(&peers)
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
