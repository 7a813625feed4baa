//! Connection requests are dropped because the accept queue is full, or soon will be, or connections wait in it for long.

use std::{collections::HashMap, time::Duration};

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

/// A backlog up to this size has the cause `small_backlog`: the default of net.core.somaxconn before 5.4.
const SMALL_BACKLOG: u64 = 128;
/// Seconds for which the queue is nearly full at each tick although connections are accepted: it
/// does not drain between bursts, so a longer queue would not help.
const SLOW: Duration = Duration::from_secs(2);

/// Queues that are emptied so often in 10 s are short for the rate at which connections are accepted: a longer one holds
/// the next burst, though it is full at each tick.
const DRAINED: u64 = 20;

/// Seconds for which the queue of one worker is nearly full at each tick and it accepts nothing:
/// the kernel divides connections unevenly, so a full queue of a worker that accepts does not mean
/// that it is stuck.
const STUCK: Duration = Duration::from_secs(2);

/// Mean fill of its other sockets up to which a full one of a process with several (SO_REUSEPORT) is that of a worker
/// that is stuck: connections are divided by a hash of their addresses, so a server that is slow as a whole fills all.
const NEARLY_EMPTY: f64 = 0.25;

/// State of the detector.
#[derive(Debug)]
pub struct ListenOverflow {
    totals: Counters<3>,
    /// Total of SYN cookies, as of the last number.
    syncookies: Option<u64>,
    /// Of each worker, its total of accepted connections and since when it has been stuck.
    workers: HashMap<ProcessKey, (u64, Option<Duration>)>,
    overflows: Window,
    /// Since when the queue has been nearly full at each tick.
    full_since: Option<Duration>,
    /// Since when one of several sockets of a process has been nearly full at each tick, and the others nearly empty.
    one_full_since: Option<Duration>,
    now: Duration,
    /// accept() calls that succeeded and that found no descriptor, and SYN cookies.
    recent: Recent<3>,
}

impl ListenOverflow {
    /// Whether requests were dropped in the last ten seconds.
    #[must_use]
    pub fn overflows(&self) -> bool {
        self.overflows.sum() > 0
    }

    /// Time since then, 0 if it is not so now.
    fn time_since(&self, since: Option<Duration>) -> Duration {
        since.map_or(Duration::ZERO, |since| self.now.saturating_sub(since))
    }
}

/// Mean fill of all sockets but the fullest, if their maxima are equal; infinite without any.
fn others(listener: &Listener) -> f64 {
    let others = listener.sockets.saturating_sub(1) as f64;
    let max = listener.max_backlog as f64 / (others + 1.0);
    let waiting = listener.backlog as f64 - listener.fullest * max;
    if others * max > 0.0 {
        waiting.max(0.0) / (others * max)
    } else {
        f64::INFINITY
    }
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
            full_since: None,
            one_full_since: None,
            now: Duration::ZERO,
            recent: Recent::default(),
        }
    }

    fn hold(thresholds: &Thresholds) -> f64 {
        thresholds.listen_hold_seconds
    }

    fn wants_walk(&self, listener: &Listener, thresholds: &Thresholds) -> Option<bool> {
        // They may wait for long: only a walk can tell.
        Some(listener.backlog as f64 >= thresholds.listen_stalled)
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
            let since = match self.workers.get(&it.process) {
                Some((accepts, since))
                    if *accepts == it.accepts && it.fullest >= thresholds.listen_full =>
                {
                    since.or(Some(at.now))
                }
                _ => None,
            };
            (it.process, (it.accepts, since))
        });
        self.workers = workers.collect();
        let full = listener.fullest >= thresholds.listen_full;
        self.full_since = full.then(|| self.full_since.unwrap_or(at.now));
        let one_full = full && listener.workers.is_empty() && others(listener) <= NEARLY_EMPTY;
        self.one_full_since = one_full.then(|| self.one_full_since.unwrap_or(at.now));
        self.now = at.now;
        let dropping = all(&[
            self.overflows.seconds_with(0.0) as f64 / thresholds.listen_overflow_seconds,
            self.overflows.sum() as f64 / thresholds.listen_overflows,
        ]);
        let filling =
            self.time_since(self.full_since).as_secs_f64() / thresholds.listen_full_seconds;
        let waiting = listener.stalled as f64 / thresholds.listen_stalled;
        let score = dropping.max(filling).max(waiting);
        let raise = match (dropping >= 1.0, score >= 1.0) {
            (true, _) => Some(Severity::Critical),
            (false, true) => Some(Severity::Warning),
            (false, false) => None,
        };
        Assessment {
            raise,
            calm: overflows == 0 && !full && listener.stalled == 0,
            score,
            time_left: None,
        }
    }

    fn evidence(&self, listener: &Listener) -> (Evidence, Vec<Explanation>) {
        let [accepts, exhausted, syncookies] = self.recent.sums();
        let is_stuck = |it: &&Worker| {
            let worker = self.workers.get(&it.process);
            worker.is_some_and(|(_, since)| self.time_since(*since) >= STUCK)
        };
        let stuck = listener.workers.iter().find(is_stuck);
        let is_small = listener.max_backlog <= SMALL_BACKLOG * listener.sockets;
        let drains = accepts > DRAINED * listener.backlog;
        let cause = if exhausted > 0 {
            &cause::ACCEPT_WITHOUT_DESCRIPTORS
        } else if accepts == 0 {
            &cause::NO_ACCEPTS
        } else if stuck.is_some() || self.time_since(self.one_full_since) >= STUCK {
            &cause::ONE_WORKER_STUCK
        } else if self.time_since(self.full_since) >= SLOW && !(is_small && drains)
            || self.overflows.sum() == 0 && listener.stalled > 0
        {
            // Before the flood: the kernel sends SYN cookies while any queue is full.
            &cause::SLOW_ACCEPT
        } else if syncookies > accepts + self.overflows.sum() {
            // A burst that the queue does not hold gets cookies, too, for at most as many connections as come.
            &cause::FLOOD
        } else if is_small {
            &cause::SMALL_BACKLOG
        } else {
            &cause::BURST
        };
        let evidence = Evidence::AcceptQueue {
            overflows: self.overflows.sum(),
            backlog: listener.backlog,
            max_backlog: listener.max_backlog,
            fullest: listener.fullest,
            stalled: listener.stalled,
            stalled_seconds: f64::from(listener.stalled_ms) / 1e3,
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

    /// Ten overflows and two accepts a second.
    fn listener(second: u64, backlog: u64, workers: Vec<Worker>) -> Listener {
        Listener {
            place: ListenAddress {
                netns: 1,
                address: "0.0.0.0:80".parse().unwrap(),
            },
            sockets: 1,
            backlog,
            max_backlog: 100,
            fullest: backlog as f64 / 100.0,
            stalled: 0,
            stalled_ms: 0,
            overflows: 10 * second,
            accepts: 2 * second,
            exhausted: 0,
            syncookies: Some(0),
            holders: Vec::new(),
            workers,
        }
    }

    /// The detector after ten seconds of these samples, and the last assessment.
    fn after_ten_seconds(sample: impl Fn(u64) -> Listener) -> (ListenOverflow, Assessment) {
        let thresholds = Thresholds::default();
        let mut detector = ListenOverflow::new(&thresholds);
        let mut last = Assessment::default();
        for second in 0..10 {
            last = detector.assess(&sample(second), &at(second, &thresholds));
        }
        (detector, last)
    }

    fn at(second: u64, thresholds: &Thresholds) -> At<'_> {
        At {
            now: Duration::from_secs(second),
            elapsed: Duration::from_secs(1),
            pace: Pace::default(),
            raised: false,
            thresholds,
        }
    }

    /// The cause after ten seconds of these samples.
    fn cause_of(sample: impl Fn(u64) -> Listener) -> &'static str {
        let (detector, _) = after_ten_seconds(&sample);
        detector.evidence(&sample(9)).1[0].cause.id
    }

    /// The cause after ten seconds of overflows and accepts, with these numbers of waiting connections.
    fn cause(backlog: impl Fn(u64) -> u64) -> &'static str {
        cause_with(backlog, |_| Vec::new()).0
    }

    /// The same with several workers, and which of them is stuck.
    fn cause_with(
        backlog: impl Fn(u64) -> u64,
        workers: impl Fn(u64) -> Vec<Worker>,
    ) -> (&'static str, Option<u32>) {
        let listener = |second| listener(second, backlog(second), workers(second));
        let (detector, _) = after_ten_seconds(listener);
        let (evidence, causes) = detector.evidence(&listener(9));
        let Evidence::AcceptQueue { stuck_pid, .. } = evidence else {
            panic!("{evidence:?}");
        };
        (causes[0].cause.id, stuck_pid)
    }

    /// One worker's queue is full, and it accepts this number of connections per second.
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

    /// Time from the first sample to the one at which it is raised for a queue that stays full.
    fn raised_after(tick: Duration) -> Duration {
        let thresholds = Thresholds::default();
        let mut detector = ListenOverflow::new(&thresholds);
        let full = listener(0, 100, Vec::new());
        for number in 0..100 {
            let now = number * tick;
            let at = At {
                now,
                elapsed: tick,
                pace: Pace::new(tick),
                raised: false,
                thresholds: &thresholds,
            };
            if detector.assess(&full, &at).raise.is_some() {
                return now;
            }
        }
        panic!("it is not raised");
    }

    #[test]
    fn a_full_queue_is_raised_as_soon_at_any_pace() {
        for (tick, after) in [(100, 5_000), (1_000, 5_000), (60_000, 60_000)] {
            let [tick, after] = [tick, after].map(Duration::from_millis);
            assert_eq!(raised_after(tick), after);
        }
    }

    /// The total since the creation of the namespace does not show the current rate, nor does a
    /// counter that could not be read for a while.
    #[test]
    fn cookies_of_the_past_are_no_flood() {
        let thresholds = Thresholds::default();
        let cause = |cookies: [Option<u64>; 6]| {
            let mut detector = ListenOverflow::new(&thresholds);
            let mut last = None;
            for (second, cookies) in (0..).zip(cookies) {
                let now = Listener {
                    syncookies: cookies,
                    fullest: 0.0,
                    ..listener(second, 0, Vec::new())
                };
                detector.assess(&now, &at(second, &thresholds));
                last = Some(now);
            }
            detector.evidence(&last.unwrap()).1[0].cause.id
        };
        let (none, some) = (None, Some(1_000));
        assert_eq!(cause([none, none, some, some, some, some]), "small_backlog");
        assert_eq!(cause([some, none, none, some, some, some]), "small_backlog");
        assert_eq!(cause([some, none, none, none, none, Some(1_100)]), "flood");
        // For the connections of a burst.
        assert_eq!(
            cause([some, none, none, none, none, Some(1_050)]),
            "small_backlog"
        );
    }

    #[test]
    fn a_worker_that_accepts_is_not_stuck() {
        assert_eq!(of_full_worker(0), ("one_worker_stuck", Some(2)));
        // The kernel gave it more than the others.
        assert_eq!(of_full_worker(1), ("slow_accept", None));
    }

    /// A master that made all sockets before it forked its workers: of eight, one has this queue and each other
    /// `others`.
    fn of_master(fullest: u64, others: u64) -> &'static str {
        cause_of(|second| Listener {
            sockets: 8,
            backlog: fullest + 7 * others,
            max_backlog: 8 * 16,
            fullest: fullest as f64 / 16.0,
            ..listener(second, 0, Vec::new())
        })
    }

    #[test]
    fn one_full_socket_of_several_is_that_of_a_stuck_worker() {
        assert_eq!(of_master(17, 0), "one_worker_stuck");
        assert_eq!(of_master(17, 1), "one_worker_stuck");
        // All are slow, and one was given more than the others.
        assert_eq!(of_master(17, 8), "slow_accept");
    }

    /// The cause if nothing is dropped, 57 of 511 connections wait and so many have been accepted a second.
    fn cause_of_waits(accepts: u64) -> (Option<Severity>, &'static str) {
        let waiting = |second| Listener {
            max_backlog: 511,
            fullest: 57.0 / 511.0,
            stalled: 40,
            stalled_ms: 55_000,
            overflows: 0,
            accepts: accepts * second,
            ..listener(second, 57, Vec::new())
        };
        let (detector, last) = after_ten_seconds(waiting);
        (last.raise, detector.evidence(&waiting(9)).1[0].cause.id)
    }

    #[test]
    fn connections_that_wait_for_long_are_enough() {
        let raised = Some(Severity::Warning);
        assert_eq!(cause_of_waits(0), (raised, "no_accepts"));
        assert_eq!(cause_of_waits(1), (raised, "slow_accept"));
    }

    /// A hundred clients at a queue of five, which is emptied all the time.
    #[test]
    fn a_small_queue_that_is_emptied_often_is_too_small() {
        let cause = |rate: u64, max_backlog: u64| {
            cause_of(|second| Listener {
                max_backlog,
                fullest: 1.0,
                accepts: rate * second,
                ..listener(second, max_backlog, Vec::new())
            })
        };
        assert_eq!(cause(500, 5), "small_backlog");
        assert_eq!(cause(2, 5), "slow_accept");
        assert_eq!(cause(20_000, 4_096), "slow_accept");
    }

    #[test]
    fn a_longer_queue_helps_against_bursts_only() {
        assert_eq!(cause(|_| 100), "slow_accept");
        assert_eq!(cause(|second| 100 * (second % 2)), "small_backlog");
    }
}
