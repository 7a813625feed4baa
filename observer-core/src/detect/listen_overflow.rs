//! Connection requests are dropped because the accept queue is full, or soon will be.

use super::{
    anomaly::Anomaly,
    cause::{self, Explanation},
    detector::{Assessment, At, Detector, all},
    finding::{Evidence, Severity},
    sample::Listener,
    settings::Thresholds,
    windows::{Counters, Recent, Window},
};

/// A backlog up to this is a cause of its own: the default of net.core.somaxconn before 5.4.
const SMALL_BACKLOG: u64 = 128;
/// Ticks running on which the queue is nearly full although connections are accepted: it does not drain between
/// bursts, so a longer queue would not help.
const SLOW_TICKS: f64 = 3.0;

/// State of the detector.
#[derive(Debug)]
pub struct ListenOverflow {
    totals: Counters<4>,
    overflows: Window,
    /// Ticks running on which the queue was nearly full.
    full: f64,
    /// accept() calls that succeeded and that found no descriptor, and SYN cookies.
    recent: Recent<3>,
}

impl Detector for ListenOverflow {
    const ANOMALY: Anomaly = Anomaly::ListenOverflow;
    type Sample = Listener;

    fn new(_: &Thresholds) -> Self {
        Self {
            totals: Counters::default(),
            overflows: Window::new(10),
            full: 0.0,
            recent: Recent::default(),
        }
    }

    fn hold(thresholds: &Thresholds) -> f64 {
        thresholds.listen_hold_seconds
    }

    fn assess(&mut self, listener: &Listener, at: &At<'_>) -> Assessment {
        let thresholds = at.thresholds;
        let [overflows, accepts, exhausted, syncookies] = self.totals.since([
            listener.overflows,
            listener.accepts,
            listener.exhausted,
            listener.syncookies,
        ]);
        self.overflows.add(at.now, at.pace, overflows);
        self.recent.add(at.now, [accepts, exhausted, syncookies]);
        let full = listener.fullest >= thresholds.listen_full;
        self.full = if full { self.full + 1.0 } else { 0.0 };
        let dropping = all(&[
            self.overflows.seconds_with(0.0) as f64 / thresholds.listen_overflow_seconds,
            self.overflows.sum() as f64 / thresholds.listen_overflows,
        ]);
        let filling = self.full / thresholds.listen_full_ticks;
        let raise = match (dropping >= 1.0, filling >= 1.0) {
            (true, _) => Some(Severity::Critical),
            (false, true) => Some(Severity::Warning),
            (false, false) => None,
        };
        Assessment {
            raise,
            calm: overflows == 0 && !full,
            score: dropping.max(filling),
            time_left: None,
        }
    }

    fn evidence(&self, listener: &Listener) -> (Evidence, Vec<Explanation>) {
        let [accepts, exhausted, syncookies] = self.recent.sums();
        let full = listener.backlog as f64 >= 0.8 * listener.max_backlog.max(1) as f64;
        let cause = if exhausted > 0 {
            &cause::ACCEPT_WITHOUT_DESCRIPTORS
        } else if accepts == 0 {
            &cause::NO_ACCEPTS
        } else if listener.sockets > 1 && !full {
            &cause::ONE_WORKER_STUCK
        } else if self.full >= SLOW_TICKS {
            // Before the flood: the kernel sends SYN cookies while any queue is full.
            &cause::SLOW_ACCEPT
        } else if syncookies > 0 {
            &cause::FLOOD
        } else if listener.max_backlog <= SMALL_BACKLOG * listener.sockets {
            &cause::SMALL_BACKLOG
        } else {
            &cause::BURST
        };
        let evidence = Evidence::AcceptQueue {
            overflows: self.overflows.sum(),
            backlog: listener.backlog,
            max_backlog: listener.max_backlog,
            fullest: listener.fullest,
            sockets: listener.sockets,
            accepts,
            holders: listener.holders.clone(),
        };
        (evidence, cause::explain(&[(cause, 1)]))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        detect::{Thresholds, windows::Pace},
        table::ListenAddress,
    };

    /// The cause after ten seconds of overflows and accepts, with these numbers of waiting connections.
    fn cause(backlog: impl Fn(u64) -> u64) -> &'static str {
        let thresholds = Thresholds::default();
        let mut detector = ListenOverflow::new(&thresholds);
        let listener = |second: u64| Listener {
            place: ListenAddress {
                netns: 1,
                address: "0.0.0.0:80".parse().unwrap(),
            },
            sockets: 1,
            backlog: backlog(second),
            max_backlog: 100,
            fullest: backlog(second) as f64 / 100.0,
            overflows: 10 * second,
            accepts: 2 * second,
            exhausted: 0,
            syncookies: 0,
            holders: Vec::new(),
        };
        for second in 0..10 {
            let at = At {
                now: Duration::from_secs(second),
                elapsed: Duration::from_secs(1),
                pace: Pace::default(),
                raised: false,
                thresholds: &thresholds,
            };
            detector.assess(&listener(second), &at);
        }
        detector.evidence(&listener(9)).1[0].cause.id
    }

    #[test]
    fn a_longer_queue_helps_against_bursts_only() {
        assert_eq!(cause(|_| 100), "slow_accept");
        assert_eq!(cause(|second| 100 * (second % 2)), "small_backlog");
    }
}
