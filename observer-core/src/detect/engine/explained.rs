//! Which findings explain others.

use std::net::SocketAddr;

use observer_common::{
    TLS_CLIENT, WAIT_PEER, WAIT_PEER_ACK, WAIT_PEER_FIRST_BYTE, WAIT_PEER_WINDOW,
};

use super::super::{
    anomaly::Anomaly,
    board::Board,
    finding::{Direction, Evidence, PeerShare, Severity, Subject},
    sample::{ConnectResult, Listener, Process},
};
use crate::{table::Labels, walk::PeerWait};

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
    let peer = process.reset_peer.map(Subject::Process);
    let storm = peer.and_then(|peer| board.raised(Anomaly::RstStorm, &peer));
    storm.is_some_and(|storm| {
        matches!(
            storm.evidence,
            Evidence::Resets {
                direction: Direction::Sent,
                ..
            }
        )
    })
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

/// Whether a listener of this host that does not accept, or too slowly, is there.
fn is_full(board: &Board, netns: u32, at: SocketAddr) -> bool {
    board
        .all_raised(Anomaly::ListenOverflow)
        .any(|it| match &it.subject {
            Subject::Listener(place) => place.is_reached_at(netns, at),
            _ => false,
        })
}

/// How connects to such a listener fail.
const UNANSWERED: [ConnectResult; 3] = [
    ConnectResult::TimedOut,
    ConnectResult::GaveUp,
    ConnectResult::Canceled,
];

/// Whether most of each of these connects were to such listeners. Nothing is known of those that are empty.
pub(super) fn is_at_full_listeners(board: &Board, connects: &[Vec<PeerShare>]) -> bool {
    let is_full = |it: &&PeerShare| {
        let mut unanswered = UNANSWERED.iter().map(|it| it.name());
        let at = SocketAddr::new(it.address, it.port);
        it.reason
            .is_none_or(|reason| unanswered.any(|it| it == reason))
            && is_full(board, it.netns, at)
    };
    let at_full = |of: &Vec<PeerShare>| of.iter().filter(is_full).map(|it| it.share).sum::<f64>();
    let mut known = connects.iter().filter(|it| !it.is_empty()).peekable();
    known.peek().is_some() && known.all(|it| at_full(it) > 0.5)
}

/// Whether most of the connections with which it waits for servers are with such listeners.
pub(super) fn stalls_at_full_listeners(board: &Board, process: &Process, of: Anomaly) -> bool {
    let slow = &process.handshakes.slow;
    if of == Anomaly::TlsStall && 2 * slow[TLS_CLIENT as usize] <= slow.iter().sum() {
        return false;
    }
    let is_it = |it: &&PeerWait| match it.waits_for {
        WAIT_PEER_FIRST_BYTE => it.is_judged || of == Anomaly::TlsStall,
        WAIT_PEER | WAIT_PEER_ACK | WAIT_PEER_WINDOW => it.is_judged && of == Anomaly::ReadStall,
        _ => false,
    };
    let (mut all, mut full) = (0, 0);
    for PeerWait {
        peer, connections, ..
    } in process.peers.iter().filter(is_it)
    {
        let at = SocketAddr::new(peer.address, peer.port);
        all += connections;
        full += match peer.is_client || !is_full(board, peer.netns, at) {
            true => 0,
            false => *connections,
        };
    }
    2 * full > all
}
