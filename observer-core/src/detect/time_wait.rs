//! TIME_WAIT of a client that uses up the ports for a destination, and connections closed without
//! TIME_WAIT because of tcp_max_tw_buckets. TIME_WAIT of a server is harmless.

use super::{
    anomaly::Anomaly,
    cause::{self, Explanation},
    detector::{Assessment, At, Detector, all, seconds, share, until_used},
    finding::{Evidence, Severity, Subject, named},
    port_exhaustion::OpenRate,
    sample::{Namespace, Ports},
    settings::Thresholds,
    windows::{Counters, Window},
};

/// State of the detector of one destination.
#[derive(Debug)]
pub struct TimeWaitSurge {
    opened: OpenRate,
}

impl TimeWaitSurge {
    fn end(&self, ports: &Ports) -> f64 {
        share(self.opened.closed(ports), ports.available.into())
    }
}

impl Detector for TimeWaitSurge {
    const ANOMALY: Anomaly = Anomaly::TimeWaitSurge;
    type Sample = Ports;

    fn new(_: &Thresholds) -> Self {
        Self {
            opened: OpenRate::new(),
        }
    }

    fn assess(&mut self, ports: &Ports, at: &At<'_>) -> Assessment {
        let thresholds = at.thresholds;
        if matches!(ports.subject, Subject::Namespace(_)) {
            // Fixes for TIME_WAIT do not help if the program calls bind() first.
            return Assessment {
                calm: true,
                ..Assessment::default()
            };
        }
        self.opened.add(ports);
        let waiting = share(ports.time_wait.into(), ports.available.into());
        let end = self.end(ports);
        let score = all(&[
            waiting / thresholds.time_wait_now,
            end / thresholds.time_wait_end,
        ]);
        let free = f64::from(ports.available.saturating_sub(ports.blocked));
        let rate = if end >= 1.0 {
            self.opened.per_second()
        } else {
            0.0
        };
        Assessment {
            raise: (score >= 1.0).then_some(Severity::Warning),
            calm: score < 1.0,
            score,
            time_left: seconds(until_used(free, rate)),
        }
    }

    fn evidence(&self, ports: &Ports) -> (Evidence, Vec<Explanation>) {
        let evidence = Evidence::Ports {
            blocked: ports.blocked,
            available: ports.available,
            live: ports.live(),
            time_wait: ports.time_wait,
            opened_per_second: self.opened.per_second(),
            end: self.end(ports),
            failed_searches: 0,
            holders: named(&ports.holders),
        };
        (evidence, cause::explain(&[(&cause::SHORT_CONNECTIONS, 1)]))
    }
}

/// State of the detector of one network namespace.
#[derive(Debug)]
pub struct TimeWaitOverflow {
    totals: Counters<1>,
    overflows: Window,
}

impl Detector for TimeWaitOverflow {
    const ANOMALY: Anomaly = Anomaly::TimeWaitOverflow;
    type Sample = Namespace;

    fn new(_: &Thresholds) -> Self {
        Self {
            totals: Counters::default(),
            overflows: Window::new(10),
        }
    }

    fn assess(&mut self, namespace: &Namespace, at: &At<'_>) -> Assessment {
        let [overflows] = self.totals.since([namespace.time_wait_overflows]);
        self.overflows.add(at.span(), overflows);
        let seconds = self.overflows.seconds_with(0.0) as f64;
        let score = seconds / at.thresholds.time_wait_overflow_seconds;
        Assessment {
            raise: (score >= 1.0).then_some(Severity::Warning),
            calm: self.overflows.sum() == 0,
            score,
            time_left: None,
        }
    }

    fn evidence(&self, _: &Namespace) -> (Evidence, Vec<Explanation>) {
        let evidence = Evidence::TimeWaitOverflows {
            overflows: self.overflows.sum(),
        };
        (evidence, cause::explain(&[(&cause::TOO_FEW_BUCKETS, 1)]))
    }
}
