//! Requests that a client sent as early data of QUIC and lost.

use std::time::Duration;

use observer_common::{
    QUIC_ABANDONED, QUIC_CANCELLED, QUIC_FAILED, QUIC_REJECTIONS, QUIC_RESULTS, QUIC_SENT,
    QuicCounters,
};

use super::{
    anomaly::Anomaly,
    cause::{self, Explanation},
    detector::{Assessment, At, Detector, Settled, all, share},
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

/// Events of one kind that none of the other has been put down to: those of this period of at least [`TOGETHER`] and
/// of the one before.
#[derive(Debug, Default)]
struct Unmatched {
    counts: [u64; 2],
    period: u64,
}

impl Unmatched {
    fn add(&mut self, period: u64, count: u64) {
        if period != self.period {
            let follows = period == self.period + 1;
            let last = if follows { self.counts[1] } else { 0 };
            self.counts = [last, 0];
            self.period = period;
        }
        self.counts[1] += count;
    }

    fn sum(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The oldest first.
    fn take(&mut self, count: u64) {
        let old = count.min(self.counts[0]);
        self.counts[0] -= old;
        self.counts[1] -= count - old;
    }
}

/// State of the detector; nothing for a process without QUIC, as most are.
#[derive(Debug)]
pub struct Quic0RttLost(Option<Box<Early>>);

/// What became of early data.
#[derive(Debug)]
struct Early {
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
    /// What was found when the score was last 1 or more: the finding is raised for longer than that.
    found: Option<(Evidence, Vec<Explanation>)>,
}

impl Detector for Quic0RttLost {
    const ANOMALY: Anomaly = Anomaly::Quic0RttLost;
    type Sample = Process;

    fn new(_: &Thresholds) -> Self {
        Self(None)
    }

    fn settled(&self) -> Settled {
        Settled::any_if(self.0.is_none())
    }

    fn assess(&mut self, sample: &Process, at: &At<'_>) -> Assessment {
        let counts = &sample.counts.quic;
        if self.0.is_none() && *counts == QuicCounters::default() {
            return Assessment {
                calm: true,
                ..Assessment::default()
            };
        }
        let early = self.0.get_or_insert_with(|| Box::new(Early::new()));
        early.assess(counts, at)
    }

    fn evidence(&self, _: &Process) -> (Evidence, Vec<Explanation>) {
        match &self.0 {
            Some(early) => early.evidence(),
            None => Early::new().evidence(),
        }
    }
}

impl Early {
    fn new() -> Self {
        let window = |_| Window::new(SECONDS);
        Self {
            // A process with UDP sockets alone gets its counters with its first event, which is often the loss.
            totals: (
                Counters::from_zero(),
                Counters::from_zero(),
                Counters::from_zero(),
            ),
            attempts: std::array::from_fn(window),
            rejections: std::array::from_fn(window),
            cancelled: Unmatched::default(),
            frames: Unmatched::default(),
            reset: window(0),
            found: None,
        }
    }

    fn assess(&mut self, counts: &QuicCounters, at: &At<'_>) -> Assessment {
        let thresholds = at.thresholds;
        let attempts = self.totals.0.since(counts.attempts);
        let rejections = self.totals.1.since(counts.rejections);
        let sent = counts.resets[QUIC_SENT].iter().sum();
        let [frames] = self.totals.2.since([sent]);
        for (window, count) in self.attempts.iter_mut().zip(attempts) {
            window.add(at.span(), count);
        }
        for (window, count) in self.rejections.iter_mut().zip(rejections) {
            window.add(at.span(), count);
        }
        // From quic-go 0.48.0 on, streams that are cancelled after a rejection send no frames.
        let period = at.now.as_secs() / TOGETHER.max(at.pace.gap()).as_secs();
        self.cancelled.add(period, rejections[QUIC_CANCELLED]);
        self.frames.add(period, frames);
        let reset = self.cancelled.sum().min(self.frames.sum());
        self.cancelled.take(reset);
        self.frames.take(reset);
        self.reset.add(at.span(), reset);

        let sum = |windows: &[Window]| windows.iter().map(Window::sum).sum::<u64>() as f64;
        let reset = self.reset.sum() as f64 / thresholds.quic_0rtt_lost;
        let abandoned = self.rejections[QUIC_ABANDONED].sum() as f64;
        let abandoned = all(&[
            abandoned / thresholds.quic_0rtt_lost,
            share(abandoned, sum(&self.rejections)) / thresholds.quic_0rtt_abandoned_share,
        ]);
        let failed = self.attempts[QUIC_FAILED].sum() as f64;
        let failed_seconds = self.attempts[QUIC_FAILED].seconds_with(0.0);
        let failed = all(&[
            failed / thresholds.quic_0rtt_failed,
            failed_seconds as f64 / thresholds.quic_0rtt_failed_seconds,
            share(failed, sum(&self.attempts)) / thresholds.quic_0rtt_failed_share,
        ]);
        let score = reset.max(abandoned).max(failed);
        if score >= 1.0 {
            self.found = Some(self.find(abandoned >= 1.0, failed >= 1.0));
        }
        Assessment {
            raise: (score >= 1.0).then_some(Severity::Warning),
            calm: score < thresholds.quic_0rtt_clear_share,
            score,
            time_left: None,
        }
    }

    fn evidence(&self) -> (Evidence, Vec<Explanation>) {
        self.found.clone().unwrap_or_else(|| self.find(true, true))
    }

    /// What the windows show. The causes are those of rejections, of which what was abandoned may not be enough, and
    /// that of connections that failed, if these are enough.
    fn find(&self, abandoned: bool, failed: bool) -> (Evidence, Vec<Explanation>) {
        let named = |names: &[&'static str], windows: &[Window]| {
            Breakdown::new(names.iter().copied().zip(windows.iter().map(Window::sum)))
        };
        let sum = |is_enough: bool, window: &Window| if is_enough { window.sum() } else { 0 };
        let evidence = Evidence::EarlyData {
            seconds: SECONDS,
            attempts: named(&QUIC_RESULTS, &self.attempts),
            rejections: named(&QUIC_REJECTIONS, &self.rejections),
            reset: self.reset.sum(),
        };
        let abandoned = sum(abandoned, &self.rejections[QUIC_ABANDONED]);
        let mut causes = cause::explain(&[
            (&cause::CANCELLED_EARLY_STREAMS, self.reset.sum()),
            (&cause::NEVER_RESUMED, abandoned),
        ]);
        let failed = sum(failed, &self.attempts[QUIC_FAILED]);
        causes.extend(cause::explain(&[(&cause::EARLY_DATA_UNANSWERED, failed)]));
        (evidence, causes)
    }
}
