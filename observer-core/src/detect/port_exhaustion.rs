//! Local ports run out: for a destination, or because bind() chose them, for all.

use std::time::Duration;

use super::{
    anomaly::Anomaly,
    cause::{self, Explanation},
    detector::{Assessment, At, Detector, all, seconds, share, until_used},
    finding::{Evidence, Severity, Subject, named},
    sample::Ports,
    settings::Thresholds,
    windows::{Counters, Trend, Window},
};
use crate::walk::TIME_WAIT_LENGTH;

/// Seconds of new connections.
const OPENED: u64 = 10;
/// Seconds of new connections from which the present rate is computed once half of the ports are blocked.
const SINCE_HALF: u64 = 4;
/// Part of the time left for which the rate of new connections is watched.
const WATCHED: f64 = 0.25;
/// Unless at most this number of walks will follow before the ports run out.
const LAST_WALKS: u32 = 3;
/// Number of connections from which the present rate is computed, if there are that many within
/// [`OPENED`]. With random arrivals this number is accurate to 10 %.
const RECENT: f64 = 400.0;
/// Seconds of growth.
const GROWTH: u64 = 60;
/// A range below this size has the cause `small_range`: the default has 28,232 ports.
const SMALL_RANGE: u32 = 10_000;

/// The rate of new connections to a destination.
#[derive(Debug)]
pub(super) struct OpenRate {
    opened: Trend,
    walked_at: Option<Duration>,
}

impl OpenRate {
    pub fn new() -> Self {
        Self {
            opened: Trend::new(OPENED),
            walked_at: None,
        }
    }

    /// Takes in a walk, and returns whether it is a new one.
    pub fn add(&mut self, ports: &Ports) -> bool {
        let is_new = self.walked_at.replace(ports.walked_at) != Some(ports.walked_at);
        if is_new {
            self.opened.add(ports.walked_at, ports.opened as f64);
        }
        is_new
    }

    /// Connections per second, 0 if not known.
    pub fn per_second(&self) -> f64 {
        self.opened.slope().map_or(0.0, |(slope, _)| slope.max(0.0))
    }

    /// Ports that stay blocked after their connection has ended, once this rate has lasted as long as
    /// that takes.
    pub fn closed(&self, ports: &Ports) -> f64 {
        self.per_second() * ports.blocked_for.as_secs_f64()
    }
}

/// State of the detector of one destination.
#[derive(Debug)]
pub struct PortExhaustion {
    opened: OpenRate,
    /// Connections that have ended, for as long as their ports stay blocked.
    ended: Trend,
    /// Connections opened while half of the ports are blocked.
    since_half: Trend,
    live: Trend,
    searches: Counters<1>,
    failed: Window,
    /// Walks running that found the ports full.
    full: f64,
    /// Time between the last two walks.
    interval: Duration,
}

impl PortExhaustion {
    /// Ports that will be blocked at this rate, divided by the available ones: those of live connections, and
    /// those that stay blocked after one.
    fn end(&self, ports: &Ports) -> f64 {
        let closed = self.opened.closed(ports);
        share(f64::from(ports.live()) + closed, ports.available.into())
    }

    /// Connections per second now, 0 if not known: of those opened since half of the ports are blocked, if they are
    /// enough.
    fn rate(&self) -> f64 {
        let since_half = self.since_half.slope();
        let enough = since_half.filter(|(slope, time)| slope * time.as_secs_f64() >= RECENT);
        let rate = enough.map(|(slope, _)| slope);
        let rate = rate.or_else(|| self.opened.opened.recent_slope(RECENT));
        rate.unwrap_or_default().max(0.0)
    }

    /// Growth of live connections per second, over a minute.
    fn growth(&self) -> f64 {
        let slope = self.live.slope();
        let minute = slope.filter(|(_, over)| over.as_secs() >= GROWTH);
        minute.map_or(0.0, |(slope, _)| slope.max(0.0))
    }
}

impl Detector for PortExhaustion {
    const ANOMALY: Anomaly = Anomaly::PortExhaustion;
    type Sample = Ports;

    fn new(_: &Thresholds) -> Self {
        Self {
            opened: OpenRate::new(),
            ended: Trend::new(TIME_WAIT_LENGTH.as_secs()),
            since_half: Trend::new(SINCE_HALF),
            live: Trend::new(GROWTH),
            searches: Counters::default(),
            failed: Window::new(10),
            full: 0.0,
            interval: Duration::ZERO,
        }
    }

    fn assess(&mut self, ports: &Ports, at: &At<'_>) -> Assessment {
        let thresholds = at.thresholds;
        let filled = share(ports.blocked.into(), ports.available.into());
        let before = self.opened.walked_at;
        if self.opened.add(ports) {
            let interval = before.map(|before| ports.walked_at.saturating_sub(before));
            self.interval = interval.unwrap_or_default();
            let ended = ports.opened as f64 - f64::from(ports.live());
            self.ended.add(ports.walked_at, ended);
            if filled < thresholds.ports_half {
                self.since_half = Trend::new(SINCE_HALF);
            } else {
                self.since_half.add(ports.walked_at, ports.opened as f64);
            }
            self.live.add(ports.walked_at, ports.live().into());
            let full = filled >= thresholds.ports_full;
            self.full = if full { self.full + 1.0 } else { 0.0 };
        }
        let [failed] = self.searches.since([ports.searches_failed]);
        self.failed.add(at.span(), failed);
        let free = f64::from(ports.available.saturating_sub(ports.blocked));
        let end = self.end(ports);
        let growth = self.growth();
        let grown_in = until_used(free, growth);
        let left = match end >= 1.0 {
            true => self
                .ended
                .used_in(free, self.rate(), ports.blocked_for, growth),
            false => grown_in,
        };
        // Since the walk, too.
        let left = (left - at.now.saturating_sub(ports.walked_at).as_secs_f64()).max(0.0);
        let soon = end.max(thresholds.ports_soon_seconds / grown_in.max(1.0));
        let settled = self.since_half.slope().is_some_and(|(_, time)| {
            time.as_secs_f64() >= (WATCHED * left).min(thresholds.ports_half_seconds)
        }) || left < (LAST_WALKS * self.interval).as_secs_f64();
        let half = if settled {
            filled / thresholds.ports_half
        } else {
            0.0
        };
        let score = all(&[half, soon])
            .max(self.full / thresholds.ports_full_walks)
            .max(failed.min(1) as f64);
        let critical = failed > 0 || left < thresholds.ports_critical_seconds;
        let severity = if critical {
            Severity::Critical
        } else {
            Severity::Warning
        };
        Assessment {
            raise: (score >= 1.0).then_some(severity),
            calm: filled < thresholds.ports_clear && failed == 0,
            score,
            time_left: seconds(left),
        }
    }

    fn evidence(&self, ports: &Ports) -> (Evidence, Vec<Explanation>) {
        let evidence = Evidence::Ports {
            blocked: ports.blocked,
            available: ports.available,
            live: ports.live(),
            time_wait: ports.time_wait.saturating_sub(ports.fin_wait2),
            opened_per_second: self.opened.per_second(),
            end: self.end(ports),
            failed_searches: self.failed.sum(),
            holders: named(&ports.holders),
        };
        if matches!(ports.subject, Subject::Namespace(_)) {
            return (evidence, cause::explain(&[(&cause::BIND_FIRST, 1)]));
        }
        let busy = ports.established.saturating_sub(ports.idle);
        let mut causes = cause::explain(&[
            (
                &cause::SHORT_CONNECTIONS,
                ports.time_wait.saturating_sub(ports.fin_wait2).into(),
            ),
            (&cause::IDLE_CONNECTIONS, ports.idle.into()),
            (&cause::BUSY_CONNECTIONS, busy.into()),
            (&cause::SILENT_DESTINATION, ports.syn_sent.into()),
            (&cause::NOT_CLOSED, (ports.closing + ports.fin_wait2).into()),
        ]);
        if ports.available < SMALL_RANGE {
            causes.push(Explanation::new(&cause::SMALL_RANGE, 1.0));
        }
        (evidence, causes)
    }
}
