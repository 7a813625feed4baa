//! Connection requests are dropped because the accept queue is full, or soon will be.

use std::collections::HashMap;

use observer_common::ProcessKey;

use super::{
    anomaly::Anomaly,
    cause::{self, Explanation},
    detector::{Assessment, At, Detector, all},
    finding::{Evidence, Severity, named},
    sample::{Listener, Worker},
    settings::Thresholds,
    windows::{Counters, Recent, Window},
};

/// A backlog up to this is a cause of its own: the default of net.core.somaxconn before 5.4.
const SMALL_BACKLOG: u64 = 128;
/// Ticks running on which the queue is nearly full although connections are accepted: it does not drain between
/// bursts, so a longer queue would not help.
const SLOW_TICKS: f64 = 3.0;

/// Ticks running on which the queue of one worker was nearly full and it accepted nothing: the kernel divides
/// connections unevenly, so a queue that is full although it moves is no sign of a worker that is stuck.
const STUCK_TICKS: u32 = 3;

/// State of the detector.
#[derive(Debug)]
pub struct ListenOverflow {
    totals: Counters<3>,
    /// Total of SYN cookies, as of the last number.
    syncookies: Option<u64>,
    /// Of each worker, its total of accepted connections and for how many ticks it has been stuck.
    workers: HashMap<ProcessKey, (u64, u32)>,
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
            syncookies: None,
            workers: HashMap::new(),
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
        let [overflows, accepts, exhausted] =
            self.totals
                .since([listener.overflows, listener.accepts, listener.exhausted]);
        let mut syncookies = 0;
        if let Some(now) = listener.syncookies {
            // The first number is that since the namespace was made.
            syncookies = self
                .syncookies
                .map_or(0, |before| now.saturating_sub(before));
            self.syncookies = Some(now);
        }
        self.overflows.add(at.now, at.pace, overflows);
        self.recent.add(at.now, [accepts, exhausted, syncookies]);
        let workers = listener.workers.iter().map(|it| {
            let before = self.workers.get(&it.process);
            let stuck = match before {
                Some((accepts, stuck))
                    if *accepts == it.accepts && it.fullest >= thresholds.listen_full =>
                {
                    stuck + 1
                }
                _ => 0,
            };
            (it.process, (it.accepts, stuck))
        });
        self.workers = workers.collect();
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
        let is_stuck = |it: &&Worker| {
            let worker = self.workers.get(&it.process);
            worker.is_some_and(|(_, stuck)| *stuck >= STUCK_TICKS)
        };
        let stuck = listener.workers.iter().find(is_stuck);
        let cause = if exhausted > 0 {
            &cause::ACCEPT_WITHOUT_DESCRIPTORS
        } else if accepts == 0 {
            &cause::NO_ACCEPTS
        } else if stuck.is_some() {
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
            stuck_pid: stuck.map(|it| it.process.tgid),
            holders: named(&listener.holders),
        };
        (evidence, cause::explain(&[(cause, 1)]))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        detect::{Thresholds, Worker, windows::Pace},
        table::ListenAddress,
    };

    /// The cause after ten seconds of overflows and accepts, with these numbers of waiting connections.
    fn cause(backlog: impl Fn(u64) -> u64) -> &'static str {
        cause_with(backlog, |_| Vec::new()).0
    }

    /// The same with several workers, and which of them is stuck.
    fn cause_with(
        backlog: impl Fn(u64) -> u64,
        workers: impl Fn(u64) -> Vec<Worker>,
    ) -> (&'static str, Option<u32>) {
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
            syncookies: Some(0),
            holders: Vec::new(),
            workers: workers(second),
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
        let (evidence, causes) = detector.evidence(&listener(9));
        let Evidence::AcceptQueue { stuck_pid, .. } = evidence else {
            panic!("{evidence:?}");
        };
        (causes[0].cause.id, stuck_pid)
    }

    /// One worker's queue is full, and it accepts so many connections a second.
    fn of_full_worker(accepts: u64) -> (&'static str, Option<u32>) {
        let worker = |tgid, fullest, accepts| Worker {
            process: ProcessKey {
                start_boottime_ns: 1,
                tgid,
                reserved: 0,
            },
            fullest,
            accepts,
        };
        cause_with(
            |_| 100,
            |second| vec![worker(1, 0.1, 0), worker(2, 1.0, accepts * second)],
        )
    }

    #[test]
    fn a_worker_that_accepts_is_not_stuck() {
        assert_eq!(of_full_worker(0), ("one_worker_stuck", Some(2)));
        // The kernel gave it more than the others.
        assert_eq!(of_full_worker(1), ("slow_accept", None));
    }

    #[test]
    fn a_longer_queue_helps_against_bursts_only() {
        assert_eq!(cause(|_| 100), "slow_accept");
        assert_eq!(cause(|second| 100 * (second % 2)), "small_backlog");
    }
}
