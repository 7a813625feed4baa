//! A program does not read received data.

use observer_common::WAIT_PROGRAM_READ;

use super::{
    anomaly::Anomaly,
    cause::{self, Explanation},
    detector::{Assessment, At, Detector, Settled, all, share},
    finding::{Breakdown, Evidence, Severity, Waiting},
    sample::Process,
    settings::Thresholds,
};

/// State of the detector.
#[derive(Debug)]
pub struct ProgramNotReading;

impl Detector for ProgramNotReading {
    const ANOMALY: Anomaly = Anomaly::ProgramNotReading;
    type Sample = Process;

    fn new(_: &Thresholds) -> Self {
        Self
    }

    fn wants_walk(&self, _: &Process, _: &Thresholds) -> Option<bool> {
        Some(false)
    }

    fn settled(&self) -> Settled {
        Settled::Yes
    }

    fn assess(&mut self, sample: &Process, at: &At<'_>) -> Assessment {
        let (thresholds, waits) = (at.thresholds, &sample.waits);
        let unread = f64::from(waits.unread);
        let score = all(&[
            unread / thresholds.not_reading,
            share(
                unread,
                waits.in_use().saturating_sub(waits.close_wait).into(),
            ) / thresholds.not_reading_share,
        ]);
        Assessment {
            raise: (score >= 1.0).then_some(Severity::Warning),
            calm: score < thresholds.not_reading_clear_share,
            score,
            time_left: None,
        }
    }

    fn evidence(&self, sample: &Process) -> (Evidence, Vec<Explanation>) {
        let waits = &sample.waits;
        let peers = sample.peers.iter();
        let peers = peers.filter(|it| it.wait.is_judged && it.wait.waits_for == WAIT_PROGRAM_READ);
        let longest_ms = peers.clone().map(|it| it.wait.longest_ms).max();
        let evidence = Evidence::Waits {
            waiting: waits.unread,
            connections: waits.connections,
            reasons: Breakdown::new([("program_read", waits.unread.into())]),
            longest_seconds: f64::from(longest_ms.unwrap_or(0)) / 1e3,
            peers: Waiting::most(peers),
        };
        let served = waits.unread_of_servers;
        let causes = [
            (&cause::SERVER_DOES_NOT_READ, served.into()),
            (
                &cause::CLIENT_DOES_NOT_READ,
                waits.unread.saturating_sub(served).into(),
            ),
        ];
        (evidence, cause::explain(&causes))
    }
}
