//! Requests that a client sent as early data of QUIC and lost.

use std::time::Duration;

use observer_common::{
    QUIC_ABANDONED, QUIC_CANCELLED, QUIC_FAILED, QUIC_REJECTIONS, QUIC_RESULTS, QUIC_SENT,
};

use super::{
    anomaly::Anomaly,
    cause::{self, Explanation},
    detector::{Assessment, At, Detector, all, share},
    finding::{Breakdown, Evidence, Severity},
    sample::Process,
    settings::Thresholds,
    windows::{Counters, Window},
};

/// Seconds that are looked back. Rejections come when a server restarts or changes its ticket keys, so they come
/// rarely, and then on many connections at once.
const SECONDS: u64 = 600;

/// Time between the end of a connection's early data and a frame that is put down to it. The frames of streams that
/// were cancelled are sent at once, before NextConnection or just after it.
const TOGETHER: Duration = Duration::from_secs(10);

/// Events of one kind that none of the other has been put down to.
#[derive(Debug, Default)]
struct Unmatched {
    count: u64,
    last: Duration,
}

impl Unmatched {
    fn add(&mut self, now: Duration, count: u64) {
        if now.saturating_sub(self.last) > TOGETHER {
            self.count = 0;
        }
        if count > 0 {
            self.last = now;
            self.count += count;
        }
    }
}

/// State of the detector.
#[derive(Debug)]
pub struct Quic0RttLost {
    totals: (
        Counters<{ QUIC_RESULTS.len() }>,
        Counters<{ QUIC_REJECTIONS.len() }>,
        Counters<1>,
    ),
    attempts: [Window; QUIC_RESULTS.len()],
    rejections: [Window; QUIC_REJECTIONS.len()],
    cancelled: Unmatched,
    frames: Unmatched,
    /// Connections that went on after streams were cancelled, and frames that reset streams came with it.
    reset: Window,
    /// Whether what was abandoned, and what failed, is enough.
    speaks: [bool; 2],
}

impl Detector for Quic0RttLost {
    const ANOMALY: Anomaly = Anomaly::Quic0RttLost;
    type Sample = Process;

    fn new(_: &Thresholds) -> Self {
        let window = |_| Window::new(SECONDS);
        Self {
            totals: Default::default(),
            attempts: std::array::from_fn(window),
            rejections: std::array::from_fn(window),
            cancelled: Unmatched::default(),
            frames: Unmatched::default(),
            reset: window(0),
            speaks: [false; 2],
        }
    }

    fn assess(&mut self, sample: &Process, at: &At<'_>) -> Assessment {
        let (thresholds, counts) = (at.thresholds, &sample.counts.quic);
        let attempts = self.totals.0.since(counts.attempts);
        let rejections = self.totals.1.since(counts.rejections);
        let sent = counts.resets[QUIC_SENT].iter().sum();
        let [frames] = self.totals.2.since([sent]);
        for (window, count) in self.attempts.iter_mut().zip(attempts) {
            window.add(at.now, at.pace, count);
        }
        for (window, count) in self.rejections.iter_mut().zip(rejections) {
            window.add(at.now, at.pace, count);
        }
        // From quic-go 0.48.0 on, streams that were cancelled send no frames after a rejection.
        self.cancelled.add(at.now, rejections[QUIC_CANCELLED]);
        self.frames.add(at.now, frames);
        let reset = self.cancelled.count.min(self.frames.count);
        self.cancelled.count -= reset;
        self.frames.count -= reset;
        self.reset.add(at.now, at.pace, reset);

        let sum = |windows: &[Window]| windows.iter().map(Window::sum).sum::<u64>() as f64;
        let reset = self.reset.sum() as f64 / thresholds.quic_0rtt_lost;
        let abandoned = self.rejections[QUIC_ABANDONED].sum() as f64;
        let abandoned = all(&[
            abandoned / thresholds.quic_0rtt_lost,
            share(abandoned, sum(&self.rejections)) / thresholds.quic_0rtt_abandoned_share,
        ]);
        let failed = self.attempts[QUIC_FAILED].sum() as f64;
        let failed = all(&[
            failed / thresholds.quic_0rtt_failed,
            share(failed, sum(&self.attempts)) / thresholds.quic_0rtt_failed_share,
        ]);
        self.speaks = [abandoned >= 1.0, failed >= 1.0];
        let score = reset.max(abandoned).max(failed);
        Assessment {
            raise: (score >= 1.0).then_some(Severity::Warning),
            calm: score < 0.5,
            score,
            time_left: None,
        }
    }

    fn evidence(&self, _: &Process) -> (Evidence, Vec<Explanation>) {
        let named = |names: &[&'static str], windows: &[Window]| {
            Breakdown::new(names.iter().copied().zip(windows.iter().map(Window::sum)))
        };
        let reset = self.reset.sum();
        let [abandoned, failed] = [
            &self.rejections[QUIC_ABANDONED],
            &self.attempts[QUIC_FAILED],
        ]
        .map(Window::sum);
        let evidence = Evidence::EarlyData {
            seconds: SECONDS,
            attempts: named(&QUIC_RESULTS, &self.attempts),
            rejections: named(&QUIC_REJECTIONS, &self.rejections),
            reset,
        };
        let if_enough = |enough: bool, count| if enough { count } else { 0 };
        let causes = [
            (&cause::CANCELLED_EARLY_STREAMS, reset),
            (&cause::NEVER_RESUMED, if_enough(self.speaks[0], abandoned)),
            (
                &cause::EARLY_DATA_UNANSWERED,
                if_enough(self.speaks[1], failed),
            ),
        ];
        (evidence, cause::explain(&causes))
    }
}
