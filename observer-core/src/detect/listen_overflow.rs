//! Connection requests are dropped because the accept queue is full, or soon will be, or connections wait in it for long.

use std::{collections::HashMap, time::Duration};

use observer_common::ProcessKey;

use super::{
    anomaly::Anomaly,
    cause::{self, Cause, Explanation},
    detector::{Assessment, At, Detector, all},
    finding::{Evidence, Severity, Waiting, named},
    sample::{Listener, Worker, Workers},
    settings::Thresholds,
    windows::{Counters, Window},
};

/// A backlog up to this size has the cause `small_backlog`: the default of net.core.somaxconn before 5.4.
const SMALL_BACKLOG: u64 = 128;
/// Seconds for which the queue is nearly full at each tick although connections are accepted: it
/// does not drain between bursts, so a longer queue would not help.
const SLOW: Duration = Duration::from_secs(2);

/// Queues from which so many times their length are accepted in 10 s, and more than are dropped, are short for the rate at
/// which connections are accepted: a longer one holds the next burst, though it is full at each tick. If more are
/// dropped, clients come faster than the server works, and a longer one would be as full.
const DRAINED: u64 = 20;

/// Another cause is that of a raised finding once it has been one for this time: queues differ from tick to tick.
const STEADY: Duration = Duration::from_secs(5);

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
    /// Connections accepted, accept() calls that found no descriptor, and SYN cookies.
    recent: [Window; 3],
    cause: &'static Cause,
    /// Another one, and since when it has been that.
    other: Option<(&'static Cause, Duration)>,
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

    /// The worker with a socket of its own that is stuck.
    fn stuck<'a>(&self, listener: &'a Listener) -> Option<&'a Worker> {
        listener.workers.iter().find(|it| {
            let worker = self.workers.get(&it.process);
            worker.is_some_and(|(_, since)| self.time_since(*since) >= STUCK)
        })
    }

    /// The cause as of now.
    fn find_cause(&self, listener: &Listener) -> &'static Cause {
        let [accepts, exhausted, syncookies] = self.recent.each_ref().map(Window::sum);
        let overflows = self.overflows.sum();
        let is_small = listener.max_backlog <= SMALL_BACKLOG * listener.sockets;
        let drains = accepts > overflows.max(DRAINED * listener.backlog);
        let is_slow = self.time_since(self.full_since) >= SLOW && !(is_small && drains)
            || listener.stalled > 0;
        if exhausted > 0 {
            &cause::ACCEPT_WITHOUT_DESCRIPTORS
        } else if (accepts == 0 || is_slow) && is_busy(listener) {
            &cause::WORKERS_WAIT
        } else if accepts == 0 {
            &cause::NO_ACCEPTS
        } else if self.stuck(listener).is_some() || self.time_since(self.one_full_since) >= STUCK {
            &cause::ONE_WORKER_STUCK
        } else if is_slow {
            // Before the flood: the kernel sends SYN cookies while any queue is full.
            &cause::SLOW_ACCEPT
        } else if syncookies > accepts + overflows {
            // A burst that the queue does not hold gets cookies, too, for at most as many connections as come.
            &cause::FLOOD
        } else if is_small {
            &cause::SMALL_BACKLOG
        } else {
            &cause::BURST
        }
    }

    /// Takes in the cause as of now.
    fn settle(&mut self, now: &'static Cause, is_raised: bool) {
        if now == self.cause {
            self.other = None;
            return;
        }
        let since = match self.other {
            Some((other, since)) if other == now => since,
            _ => self.now,
        };
        self.other = Some((now, since));
        if !is_raised || self.time_since(Some(since)) >= STEADY {
            self.cause = now;
            self.other = None;
        }
    }
}

/// Whether its processes wait for servers: half of several, or a single one for about as long as connections wait for it: what
/// waits for much longer is a subscription.
fn is_busy(listener: &Listener) -> bool {
    let Workers {
        processes,
        waiting,
        ref waits,
    } = listener.busy;
    let longest_ms = waits.iter().map(|it| it.wait.longest_ms).max();
    match processes {
        0 | 1 => longest_ms.is_some_and(|it| {
            let queued_ms = listener.stalled_ms;
            queued_ms > 0 && (queued_ms..=2 * queued_ms).contains(&it)
        }),
        several => 2 * waiting >= several,
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
            recent: [(); 3].map(|()| Window::new(10)),
            cause: &cause::BURST,
            other: None,
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
        self.overflows.add(at.span(), overflows);
        for (window, count) in self.recent.iter_mut().zip([accepts, exhausted, syncookies]) {
            window.add(at.span(), count);
        }
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
        self.settle(self.find_cause(listener), at.raised);
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
        let evidence = Evidence::AcceptQueue {
            overflows: self.overflows.sum(),
            backlog: listener.backlog,
            max_backlog: listener.max_backlog,
            fullest: listener.fullest,
            stalled: listener.stalled,
            stalled_seconds: f64::from(listener.stalled_ms) / 1e3,
            sockets: listener.sockets,
            accepts: self.recent[0].sum(),
            stuck_pid: self.stuck(listener).map(|it| it.process.tgid),
            waits: Waiting::most(listener.busy.waits.iter()),
            holders: named(&listener.holders),
        };
        (evidence, cause::explain(&[(self.cause, 1)]))
    }
}

#[cfg(test)]
mod tests;
