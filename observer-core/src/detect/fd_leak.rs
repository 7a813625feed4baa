//! Open descriptors grow towards the limit, on one of four scales of time.

use std::{sync::Arc, time::Duration};

use super::{
    anomaly::Anomaly,
    cause::{self, Cause, Explanation},
    detector::{Assessment, At, Detector, Settled, all, seconds, share},
    finding::{Evidence, KindCount, PeerShare, Severity},
    sample::Process,
    settings::Thresholds,
    windows::{Floor, MINIMA, Trend},
};
use crate::process::fd_kinds::{FdKind, FdKinds};

/// Seconds of a bucket of each scale.
const SCALES: [u64; 4] = [1, 10, 60, 600];

/// State of the detector.
#[derive(Debug)]
pub struct FdLeak {
    floors: [Floor; SCALES.len()],
    /// Growth over the last seconds, and in how many measurements running there was some.
    last: Trend,
    growing: u64,
    measured: Option<(Duration, u64)>,
    assessment: Assessment,
    slope: f64,
    /// The highest number since it was raised, and when it was reached.
    highest: u64,
    grew_at: Duration,
    /// The kinds when they were first looked at: the program's own, and what it had leaked before.
    first: Option<Arc<FdKinds>>,
}

impl FdLeak {
    fn rises(&mut self, open: f64, limit: f64, thresholds: &Thresholds) {
        let least = thresholds.fd_rise.max(thresholds.fd_rise_share * limit);
        for (index, share) in shares(thresholds).into_iter().enumerate() {
            let Some(rise) = self.floors[index].rise() else {
                continue;
            };
            let left = (limit - open) / rise.slope();
            let horizon = thresholds.fd_horizon * MINIMA as f64 * SCALES[index] as f64;
            let score = all(&[
                open / (share * limit),
                rise.height() / least,
                horizon / left.max(1.0),
                rise.end(open) / (thresholds.fd_end_share * limit),
            ]);
            self.found(score, left, rise.slope());
        }
        if let Some((slope, over)) = self.last.slope()
            && self.growing as f64 >= thresholds.fd_jump_measurements
            && over.as_secs() as f64 <= thresholds.fd_jump_measurements + 1.0
        {
            let left = (limit - open) / slope;
            let score = all(&[
                open / (thresholds.fd_jump_share * limit),
                thresholds.fd_jump_seconds / left.max(1.0),
            ]);
            self.found(score, left, slope);
        }
    }

    /// Growth per second over the longest scale, if it is a steady one, however far away the limit is.
    #[must_use]
    pub fn long_growth(&self, thresholds: &Thresholds) -> Option<f64> {
        let rise = self.floors.last()?.rise()?;
        (rise.height() >= thresholds.fd_rise).then(|| rise.slope())
    }

    fn found(&mut self, score: f64, left: f64, slope: f64) {
        let assessment = &mut self.assessment;
        assessment.score = assessment.score.max(score);
        if score >= 1.0 {
            assessment.raise = Some(Severity::Warning);
            let left = seconds(left);
            if assessment.time_left.is_none() || left < assessment.time_left {
                assessment.time_left = left;
                self.slope = slope;
            }
        }
    }
}

/// Fractions of the limit from which a rise is raised, by scale.
fn shares(thresholds: &Thresholds) -> [f64; SCALES.len()] {
    [
        thresholds.fd_share_1s,
        thresholds.fd_share_10s,
        thresholds.fd_share_60s,
        thresholds.fd_share_600s,
    ]
}

impl Detector for FdLeak {
    const ANOMALY: Anomaly = Anomaly::FdLeak;
    type Sample = Process;

    fn new(thresholds: &Thresholds) -> Self {
        Self {
            floors: SCALES.map(Floor::new),
            last: Trend::new(thresholds.fd_jump_measurements.min(60.0) as u64),
            growing: 0,
            measured: None,
            assessment: Assessment::default(),
            slope: 0.0,
            highest: 0,
            grew_at: Duration::ZERO,
            first: None,
        }
    }

    fn settled(&self) -> Settled {
        Settled::any_if(self.first.is_none())
    }

    /// Keeps its opinion until the next measurement.
    fn assess(&mut self, sample: &Process, at: &At<'_>) -> Assessment {
        self.first = sample
            .fd_kinds
            .as_ref()
            .map(|kinds| Arc::clone(self.first.as_ref().unwrap_or(kinds)));
        let Some(descriptors) = sample.descriptors else {
            return Assessment {
                calm: true,
                ..Assessment::default()
            };
        };
        let (measured_at, open) = (descriptors.measured_at, descriptors.open);
        if self.measured.is_some_and(|(last, _)| measured_at <= last) {
            return self.assessment;
        }
        self.assessment = Assessment::default();
        self.slope = 0.0;
        let grew = self.measured.is_some_and(|(_, last)| open > last);
        self.growing = if grew { self.growing + 1 } else { 0 };
        self.measured = Some((measured_at, open));
        self.last.add(measured_at, open as f64);
        for floor in &mut self.floors {
            floor.add(measured_at, open);
        }
        self.rises(open as f64, descriptors.limit as f64, at.thresholds);
        if !at.raised || open > self.highest {
            self.highest = open;
            self.grew_at = measured_at;
        }
        let rest = measured_at.saturating_sub(self.grew_at).as_secs_f64();
        // The limit may have been raised since.
        let least = all(&shares(at.thresholds)) * descriptors.limit as f64;
        let level = least.max(self.highest as f64);
        self.assessment.calm = (open as f64) < at.thresholds.fd_clear_share * level
            || at.raised && rest > at.thresholds.fd_rest_seconds;
        self.assessment
    }

    fn evidence(&self, sample: &Process) -> (Evidence, Vec<Explanation>) {
        let (open, limit) = sample.descriptors.map_or((0, 0), |it| (it.open, it.limit));
        let close_wait = u64::from(sample.close_wait_over_10s).min(open);
        let causes = match known_kinds(sample) {
            Some(kinds) => {
                let first = self.first.as_deref();
                let grown = first.and_then(|first| kinds.since(first));
                let clients = match first.filter(|_| grown.is_some()) {
                    Some(first) => kinds.of_clients().saturating_sub(first.of_clients()),
                    None => kinds.of_clients(),
                };
                let grown = grown.as_ref().unwrap_or(kinds);
                let is_close_wait = |it: &FdKind| *it == FdKind::Tcp("CLOSE_WAIT");
                let before = kinds.count(is_close_wait) - grown.count(is_close_wait);
                let close_wait = sample.close_wait_over_10s.saturating_sub(before as u32);
                cause::explain(&causes(grown, clients, close_wait, LEAKS))
            }
            None => cause::explain(&[
                (&cause::FD_CLOSE_WAIT, close_wait),
                (&cause::FD_UNKNOWN, open - close_wait),
            ]),
        };
        let evidence = Evidence::Descriptors {
            open,
            limit,
            growth_per_second: self.slope,
            emfile: 0,
            enfile: 0,
            newest: newest(sample),
            peers: peers(sample, &causes),
        };
        (evidence, causes)
    }
}

/// Maximum number of kinds of descriptors in a finding.
const KINDS: usize = 5;

/// The kinds of the newest descriptors, if any is known.
pub(super) fn known_kinds(sample: &Process) -> Option<&FdKinds> {
    sample.fd_kinds.as_deref().filter(|it| !it.is_empty())
}

/// The newest descriptors of a process by kind.
pub(super) fn newest(sample: &Process) -> Vec<KindCount> {
    let kinds = sample.fd_kinds.iter().flat_map(|kinds| kinds.most_first());
    let counts = kinds.map(|(kind, count)| KindCount {
        kind: kind.text(),
        count,
    });
    counts.take(KINDS).collect()
}

/// Of the connections that the first cause about any is about: sockets in CLOSE_WAIT, or others.
pub(super) fn peers(sample: &Process, causes: &[Explanation]) -> Vec<PeerShare> {
    let opened = [&cause::FD_CONNECTIONS, &cause::FULL_OF_CONNECTIONS];
    let accepted = [&cause::FD_ACCEPTED, &cause::FULL_OF_ACCEPTED];
    for cause in causes.iter().map(|it| it.cause) {
        if *cause == cause::FD_CLOSE_WAIT {
            return sample.culprits.close_wait.clone();
        }
        let is_client = accepted.contains(&cause);
        if is_client || opened.contains(&cause) {
            return connected(sample, is_client);
        }
    }
    Vec::new()
}

/// The peers of the newest descriptors that are connections, of those that are clients or of the others.
fn connected(sample: &Process, is_client: bool) -> Vec<PeerShare> {
    let peers = sample.fd_kinds.iter().flat_map(|kinds| kinds.peers());
    let peers = peers.filter(|(peer, _)| peer.is_client == is_client);
    let peers: Vec<_> = peers.collect();
    let all: u64 = peers.iter().map(|(_, count)| count).sum();
    let shares = peers.into_iter().map(|(peer, count)| PeerShare {
        // The tables do not say which. Only failed connects need it.
        netns: 0,
        address: peer.address,
        port: peer.port,
        is_client: peer.is_client,
        reason: None,
        share: share(count as f64, all as f64),
        elsewhere: None,
    });
    PeerShare::largest(shares.collect())
}

/// The number of [`causes`].
pub(super) const KINDS_OF_CAUSES: usize = 10;

/// The causes of a leak, in the order of [`causes`].
const LEAKS: [&Cause; KINDS_OF_CAUSES] = [
    &cause::FD_CLOSE_WAIT,
    &cause::FD_CONNECTIONS,
    &cause::FD_ACCEPTED,
    &cause::FD_IDLE_SOCKETS,
    &cause::FD_OTHER_SOCKETS,
    &cause::FD_DUPLICATES,
    &cause::FD_PIPES,
    &cause::FD_FILES,
    &cause::FD_EVENTS,
    &cause::FD_UNKNOWN,
];

/// How many descriptors each of these causes explains: those for TCP sockets in CLOSE_WAIT, other TCP sockets that were
/// opened and that were accepted, sockets without a connection, sockets of other protocols, further descriptors of
/// sockets, pipes, files, events, and anything else. `clients` is how many TCP sockets were accepted. Sockets of another
/// network namespace than that of the process are in none of its tables, so that some of `close_wait` sockets look as if
/// they had no connection.
pub(super) fn causes(
    kinds: &FdKinds,
    clients: u64,
    close_wait: u32,
    causes: [&'static Cause; KINDS_OF_CAUSES],
) -> [(&'static Cause, u64); KINDS_OF_CAUSES] {
    const EVENTS: [&str; 6] = [
        "eventpoll",
        "eventfd",
        "timerfd",
        "signalfd",
        "inotify",
        "fanotify",
    ];
    let mut counts = [0; KINDS_OF_CAUSES];
    for (kind, count) in kinds.most_first() {
        let index = match kind {
            FdKind::Tcp("CLOSE_WAIT") => 0,
            FdKind::Tcp(_) => 1,
            FdKind::IdleSocket => 3,
            FdKind::Socket(_) => 4,
            FdKind::Duplicate => 5,
            FdKind::Pipe => 6,
            FdKind::File { .. } => 7,
            FdKind::Anonymous(name) if EVENTS.contains(&name.as_str()) => 8,
            _ => 9,
        };
        counts[index] += count;
    }
    counts[2] = clients.min(counts[1]);
    counts[1] -= counts[2];
    let elsewhere = u64::from(close_wait)
        .saturating_sub(counts[0])
        .min(counts[3]);
    counts[0] += elsewhere;
    counts[3] -= elsewhere;
    std::array::from_fn(|index| (causes[index], counts[index]))
}
