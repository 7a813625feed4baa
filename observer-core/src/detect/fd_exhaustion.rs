//! Calls fail because descriptors ran out, or hardly any are left.

use std::time::Duration;

use super::{
    anomaly::Anomaly,
    cause::{self, Cause, Explanation},
    detector::{Assessment, At, Detector, Settled, share},
    fd_leak::{KINDS_OF_CAUSES, causes, known_kinds, newest, peers},
    finding::{Evidence, Severity},
    sample::Process,
    settings::Thresholds,
    windows::{Counters, Recent},
};

/// The causes by the kinds of descriptors, in the order of [`causes`].
const FULL: [&Cause; KINDS_OF_CAUSES] = [
    &cause::FD_CLOSE_WAIT,
    &cause::FULL_OF_CONNECTIONS,
    &cause::FULL_OF_ACCEPTED,
    &cause::FULL_OF_SOCKETS,
    &cause::FULL_OF_OTHER_SOCKETS,
    &cause::FULL_OF_DUPLICATES,
    &cause::FULL_OF_PIPES,
    &cause::FULL_OF_FILES,
    &cause::FULL_OF_EVENTS,
    &cause::FD_LIMIT,
];

/// How long before a failed call descriptors may last have been seen to run out: they are counted once a second or less
/// often, and a program may have closed some at once.
const LATELY: Duration = Duration::from_secs(20);

/// State of the detector.
#[derive(Debug)]
pub struct FdExhaustion {
    totals: Counters<2>,
    recent: Recent<2>,
    full_since: Option<Duration>,
    /// When hardly any were left at the last measurement that said so.
    scarce_at: Option<Duration>,
    /// When calls failed that a measurement has yet to confirm.
    unconfirmed: Option<Duration>,
}

impl FdExhaustion {
    /// Whether calls failed because the process's descriptors ran out. A seccomp filter may return EMFILE from socket() and accept() of a
    /// process that has a thousand left, so what is seen of their results only counts once the descriptors have been
    /// counted.
    fn confirmed(&mut self, failed: bool, sample: &Process, at: &At<'_>) -> bool {
        let Some(descriptors) = sample.descriptors.filter(|_| !sample.sees_allocations) else {
            self.unconfirmed = None;
            return failed;
        };
        let since = match (self.unconfirmed, failed) {
            (None, false) => return false,
            (since, _) => since.unwrap_or(at.now),
        };
        let is_scarce = self.scarce_at.is_some_and(|it| it + LATELY >= since);
        // Another measurement is to come.
        let is_open = !is_scarce && descriptors.measured_at < since;
        self.unconfirmed = is_open.then_some(since);
        is_scarce
    }
}

impl Detector for FdExhaustion {
    const ANOMALY: Anomaly = Anomaly::FdExhaustion;
    type Sample = Process;

    fn new(_: &Thresholds) -> Self {
        Self {
            totals: Counters::default(),
            recent: Recent::default(),
            full_since: None,
            scarce_at: None,
            unconfirmed: None,
        }
    }

    fn settled(&self) -> Settled {
        Settled::any_if(self.full_since.is_none() && self.unconfirmed.is_none())
    }

    fn assess(&mut self, sample: &Process, at: &At<'_>) -> Assessment {
        let failed = self.totals.since(sample.counts.exhausted);
        self.recent.add(at.now, failed);
        let filled = sample
            .descriptors
            .map_or(0.0, |it| share(it.open as f64, it.limit as f64));
        if filled >= at.thresholds.fd_full_clear_share {
            self.scarce_at = sample.descriptors.map(|it| it.measured_at);
        }
        let [emfile, enfile] = failed.map(|it| it > 0);
        // The file table of the host is full, however few the process has.
        let failed = self.confirmed(emfile, sample, at) || enfile;
        let full = filled >= at.thresholds.fd_full_share;
        self.full_since = full.then(|| self.full_since.unwrap_or(at.now));
        let full_for = self.full_since.map_or(0.0, |since| {
            at.now.saturating_sub(since).as_secs_f64() / at.thresholds.fd_full_seconds
        });
        let raise = match (failed, full_for >= 1.0) {
            (true, _) => Some(Severity::Critical),
            (false, true) => Some(Severity::Warning),
            (false, false) => None,
        };
        Assessment {
            raise,
            calm: !failed && filled < at.thresholds.fd_full_clear_share,
            score: full_for.max(f64::from(u8::from(failed))),
            time_left: failed.then_some(Duration::ZERO),
        }
    }

    fn evidence(&self, sample: &Process) -> (Evidence, Vec<Explanation>) {
        let [emfile, enfile] = self.recent.sums();
        let (open, limit) = sample.descriptors.map_or((0, 0), |it| (it.open, it.limit));
        let close_wait = u64::from(sample.close_wait_over_10s).min(open);
        let causes = match (known_kinds(sample), emfile.max(1) >= enfile) {
            (_, false) => {
                cause::explain(&[(&cause::FILE_TABLE, enfile), (&cause::FD_LIMIT, emfile)])
            }
            (Some(kinds), true) => cause::explain(&causes(
                kinds,
                kinds.of_clients(),
                sample.close_wait_over_10s,
                FULL,
            )),
            (None, true) => cause::explain(&[
                (&cause::FD_CLOSE_WAIT, close_wait),
                (&cause::FD_LIMIT, open - close_wait),
            ]),
        };
        let evidence = Evidence::Descriptors {
            open,
            limit,
            growth_per_second: 0.0,
            emfile,
            enfile,
            newest: newest(sample),
            peers: peers(sample, &causes),
        };
        (evidence, causes)
    }
}
