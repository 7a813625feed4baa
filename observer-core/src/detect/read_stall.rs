//! Connections wait for peers that do not answer, read or acknowledge.

use observer_common::{WAIT_PEER, WAIT_PEER_ACK, WAIT_PEER_FIRST_BYTE, WAIT_PEER_WINDOW};

use super::{
    anomaly::Anomaly,
    cause::{self, Explanation},
    detector::{Assessment, At, Detector, all, share},
    finding::{Breakdown, Evidence, Severity, Waiting},
    sample::Process,
    settings::Thresholds,
};
use crate::walk::{UNANSWERED_SECONDS, Waits};

/// State of the detector.
#[derive(Debug)]
pub struct ReadStall;

/// The kinds of wait for a peer, which it owes something.
const OWED: [u8; 3] = [WAIT_PEER_FIRST_BYTE, WAIT_PEER_WINDOW, WAIT_PEER_ACK];

fn owed(waits: &Waits) -> u32 {
    OWED.iter().map(|it| waits.stalled_for(*it).0).sum()
}

impl Detector for ReadStall {
    const ANOMALY: Anomaly = Anomaly::ReadStall;
    type Sample = Process;

    fn new(_: &Thresholds) -> Self {
        Self
    }

    fn wants_walk(&self, _: &Process, _: &Thresholds) -> Option<bool> {
        Some(false)
    }

    fn assess(&mut self, sample: &Process, at: &At<'_>) -> Assessment {
        let (thresholds, waits) = (at.thresholds, &sample.waits);
        let in_use = f64::from(waits.in_use());
        let (owed, unanswered) = (f64::from(owed(waits)), f64::from(waits.unanswered));
        let both = owed + unanswered;
        let score = all(&[
            owed / thresholds.read_stall,
            share(owed, in_use) / thresholds.read_stall_share,
        ])
        // A proxy has a connection to a client for each to a server.
        .max(all(&[
            both / thresholds.read_stall,
            share(both, waits.in_use_of_clients.into()).min(1.0)
                / thresholds.read_stall_answer_share,
        ]));
        Assessment {
            raise: (score >= 1.0).then_some(Severity::Warning),
            calm: score < thresholds.read_stall_clear_share,
            score,
            time_left: None,
        }
    }

    fn evidence(&self, sample: &Process) -> (Evidence, Vec<Explanation>) {
        let waits = &sample.waits;
        let [first_byte, window, ack] = OWED.map(|it| waits.stalled_for(it));
        let is_for_peer = |waits_for: u8| OWED.contains(&waits_for) || waits_for == WAIT_PEER;
        let peers = sample.peers.iter();
        let peers = peers.filter(|it| it.wait.is_judged && is_for_peer(it.wait.waits_for));
        let longest_ms = peers.clone().map(|it| it.wait.longest_ms);
        // Those of further peers, too.
        let longest_ms = longest_ms.chain([first_byte.1, window.1, ack.1]).max();
        let evidence = Evidence::Waits {
            waiting: owed(waits) + waits.unanswered,
            connections: waits.connections,
            reasons: Breakdown::new([
                ("peer_first_byte", first_byte.0.into()),
                ("peer_window", window.0.into()),
                ("peer_ack", ack.0.into()),
                ("answer", waits.unanswered.into()),
            ]),
            longest_seconds: f64::from(longest_ms.unwrap_or(UNANSWERED_SECONDS * 1000)) / 1e3,
            peers: Waiting::by_peer(peers),
        };
        let causes = [
            (&cause::NO_FIRST_BYTE, first_byte.0.into()),
            (&cause::NO_ANSWER, waits.unanswered.into()),
            (&cause::PEER_NOT_READING, window.0.into()),
            (&cause::NOT_RECEIVED, ack.0.into()),
        ];
        (evidence, cause::explain(&causes))
    }
}
