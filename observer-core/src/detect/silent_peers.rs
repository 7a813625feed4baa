//! Established connections end because nothing answers them any more, and no RST shows it.

use std::marker::PhantomData;

use super::{
    anomaly::Anomaly,
    cause::{self, Explanation},
    detector::{Assessment, At, Detector, Settled, all, share},
    finding::{Evidence, Severity},
    sample::{Connecting, SentReset},
    settings::Thresholds,
    windows::{Counters, Window},
};

/// Length of the window in seconds: retransmissions end after different times, so the errors of one incident are spread.
const SECONDS: u64 = 120;

/// State of the detector.
#[derive(Debug)]
pub struct SilentPeers<S> {
    totals: Counters<3>,
    unanswered: Window,
    ended: Window,
    of: PhantomData<S>,
}

impl<S> SilentPeers<S> {
    /// Connections that ended. Their errors are counted shortly before.
    fn all(&self) -> u64 {
        self.ended.sum().max(self.unanswered.sum())
    }

    fn share(&self) -> f64 {
        share(self.unanswered.sum() as f64, self.all() as f64)
    }
}

impl<S: Connecting> Detector for SilentPeers<S> {
    const ANOMALY: Anomaly = Anomaly::SilentPeers;
    type Sample = S;

    fn new(_: &Thresholds) -> Self {
        Self {
            totals: Counters::default(),
            unanswered: Window::new(SECONDS),
            ended: Window::new(SECONDS),
            of: PhantomData,
        }
    }

    fn settled(&self) -> Settled {
        Settled::any_if(self.unanswered.sum() == 0)
    }

    fn assess(&mut self, sample: &S, at: &At<'_>) -> Assessment {
        let (thresholds, counts) = (at.thresholds, sample.counts());
        let [unanswered, keepalive, ended] = self.totals.since([
            counts.unanswered,
            counts.resets_sent[SentReset::Keepalive as usize],
            counts.ended,
        ]);
        // Those that keepalive ended are RSTs.
        self.unanswered
            .add(at.span(), unanswered.saturating_sub(keepalive));
        self.ended.add(at.span(), ended);
        let number = self.unanswered.sum() as f64 / thresholds.silent_peers;
        let score = all(&[
            number,
            self.unanswered.seconds_with(0.0) as f64 / thresholds.silent_peers_seconds,
            self.share() / thresholds.silent_peers_share,
        ]);
        Assessment {
            raise: (score >= 1.0).then_some(Severity::Warning),
            calm: number < thresholds.silent_peers_clear_share,
            score,
            time_left: None,
        }
    }

    fn evidence(&self, sample: &S) -> (Evidence, Vec<Explanation>) {
        let evidence = Evidence::Unanswered {
            unanswered: self.unanswered.sum(),
            ended: self.all(),
            seconds: SECONDS,
            peers: sample.culprits().unanswered.clone(),
        };
        (evidence, cause::explain(&[(&cause::NOT_ACKNOWLEDGED, 1)]))
    }
}
