//! Most TLS handshakes of a process or name fail, as a client. A server has clients that do not speak TLS, and health checks
//! that send nothing.

use std::marker::PhantomData;

use observer_common::{
    GAVE_UP_ANSWER, GAVE_UP_RESET, TLS_CLIENT, TLS_FAILED, TLS_OK, TLS_RESULTS, TLS_ROLES,
    TLS_UNKNOWN,
};

use super::{
    anomaly::Anomaly,
    attempts::{Attempts, FAST, SLOW},
    cause::{self, Explanation},
    detector::{Assessment, At, Detector, Settled},
    finding::{Evidence, Severity},
    sample::{ConnectResult, Connecting, Counts, ReceivedReset},
    settings::Thresholds,
    windows::{Counters, Span, Window},
};

/// Results by role, as in [`Counts::handshakes`].
pub type Handshakes = [[u64; RESULTS]; ROLES];

const RESULTS: usize = TLS_RESULTS.len();
const ROLES: usize = TLS_ROLES.len();

/// Length of the window of [`TlsFailures::lately`], in seconds.
pub const LATELY: u64 = 600;

/// Of a name with more running processes than this, also rare failures are critical: it is no single client in the background.
const PROCESSES: u32 = 5;

/// What ended in some seconds.
#[derive(Debug)]
struct Ended {
    handshakes: Attempts,
    /// RSTs received in ESTABLISHED.
    resets: Window,
    /// Failed handshakes of connections on which the program has read nothing.
    unanswered: Window,
}

impl Ended {
    fn new(seconds: u64) -> Self {
        Self {
            handshakes: Attempts::new(seconds),
            resets: Window::new(seconds),
            unanswered: Window::new(seconds),
        }
    }

    /// Of two addresses that a client tries at once, it ends the one that has not answered yet: such handshakes have failed
    /// only if none succeeds.
    fn add(&mut self, span: Span, ok: u64, failed: u64, unanswered: u64, resets: u64) {
        self.handshakes.add(span, ok, failed, unanswered);
        self.unanswered.add(span, unanswered);
        self.resets.add(span, resets);
    }
}

/// State of the detector.
#[derive(Debug)]
pub struct TlsFailures<S> {
    fast: Ended,
    slow: Ended,
    /// Whether the slow window speaks.
    is_slow: bool,
    totals: Counters<{ ROLES * RESULTS }>,
    others: Counters<3>,
    /// Connections given up in the last sample, beyond the handshakes that failed in it.
    given_up: u64,
    /// The same of those on which the program had read nothing.
    nothing_read: u64,
    /// Of names: by role and result.
    lately: Option<Box<[[Window; RESULTS]; ROLES]>>,
    was_raised: bool,
    of: PhantomData<S>,
}

impl<S> TlsFailures<S> {
    /// Handshakes of a name that ended in the last [`LATELY`] seconds, if any has failed.
    pub fn lately(&self) -> Option<Handshakes> {
        let lately = self.lately.as_deref()?;
        let sums = lately.each_ref().map(|it| it.each_ref().map(Window::sum));
        sums.iter().any(|it| it[TLS_FAILED] > 0).then_some(sums)
    }

    /// Failed handshakes per second, of the last seconds.
    pub fn failed_per_second(&self) -> f64 {
        let fast = &self.fast.handshakes;
        fast.failed() as f64 / fast.seconds() as f64
    }

    /// The window that speaks.
    fn speaking(&self) -> &Ended {
        if self.is_slow { &self.slow } else { &self.fast }
    }

    /// Of these handshakes, those as a client. Where the library does not tell, a program is one that has only opened
    /// connections.
    fn as_client(ended: &Handshakes, counts: &Counts) -> [u64; RESULTS] {
        let opens_only = counts.accepted == 0 && counts.connects[ConnectResult::Ok as usize] > 0;
        let unknown = match opens_only {
            true => ended[TLS_UNKNOWN as usize],
            false => [0; RESULTS],
        };
        let known = ended[TLS_CLIENT as usize];
        std::array::from_fn(|result| known[result] + unknown[result])
    }

    /// Divides those that failed into those that were answered and those that were not. Takes those off that the program gave
    /// up after it had waited: they are of `read_stall` and `tls_stall`.
    fn divided(&mut self, failed: u64, gave_up: u64, nothing_read: u64) -> (u64, u64) {
        let given_up = taken(&mut self.given_up, gave_up, failed);
        let failed = failed - given_up;
        let unanswered = taken(&mut self.nothing_read, nothing_read, failed);
        (failed - unanswered, unanswered)
    }
}

/// How many of these handshakes were of connections that were closed, by their number. A connection is closed shortly before
/// or after its handshake ends: what is left of `closed` may be of the next sample.
fn taken(left: &mut u64, closed: u64, handshakes: u64) -> u64 {
    let all = closed + *left;
    *left = closed.min(all.saturating_sub(handshakes));
    all.min(handshakes)
}

impl<S: Connecting> Detector for TlsFailures<S> {
    const ANOMALY: Anomaly = Anomaly::TlsFailures;
    type Sample = S;

    fn new(_: &Thresholds) -> Self {
        Self {
            fast: Ended::new(FAST),
            slow: Ended::new(SLOW),
            is_slow: false,
            totals: Counters::default(),
            others: Counters::default(),
            given_up: 0,
            nothing_read: 0,
            lately: S::IS_NAME.then(|| {
                let windows = |_| std::array::from_fn(|_| Window::new(LATELY));
                Box::new(std::array::from_fn(windows))
            }),
            was_raised: false,
            of: PhantomData,
        }
    }

    fn settled(&self) -> Settled {
        let has_failures = self.fast.handshakes.has_failures();
        let is_left = self.given_up > 0 || self.nothing_read > 0;
        Settled::any_if(!has_failures && !is_left && self.lately().is_none())
    }

    fn assess(&mut self, sample: &S, at: &At<'_>) -> Assessment {
        let (thresholds, counts, span) = (at.thresholds, sample.counts(), at.span());
        if std::mem::replace(&mut self.was_raised, at.raised) && !at.raised {
            // One failure would raise it again with those of the finding that is over.
            self.slow = Ended::new(SLOW);
        }
        let all = counts.handshakes.as_flattened();
        let ended = self.totals.since(std::array::from_fn(|index| all[index]));
        let ended: Handshakes = std::array::from_fn(|role| {
            std::array::from_fn(|result| ended[role * RESULTS + result])
        });
        if let Some(lately) = self.lately.as_deref_mut() {
            let windows = lately.as_flattened_mut().iter_mut();
            for (window, count) in windows.zip(ended.as_flattened()) {
                window.add(span, *count);
            }
        }
        let resets = counts.resets_received[ReceivedReset::Established as usize];
        // Others may have had nothing to do with handshakes.
        let gave_up = counts.gave_up[GAVE_UP_ANSWER] + counts.gave_up[GAVE_UP_RESET];
        let others = [gave_up, counts.nothing_read, resets];
        let [gave_up, nothing_read, resets] = self.others.since(others);
        let ended = Self::as_client(&ended, counts);
        let (failed, unanswered) = self.divided(ended[TLS_FAILED], gave_up, nothing_read);
        for window in [&mut self.fast, &mut self.slow] {
            window.add(span, ended[TLS_OK], failed, unanswered, resets);
        }
        let score = |of: &Ended, seconds| {
            let (failures, share) = (thresholds.tls_failures, thresholds.tls_failures_share);
            of.handshakes.score(seconds, failures, share)
        };
        let fast = score(&self.fast, thresholds.tls_failures_seconds);
        // Failures remain in the long window for two minutes after they left the short one.
        let is_calm = self.fast.handshakes.share() <= thresholds.tls_failures_clear_share;
        let slow = match is_calm {
            true => 0.0,
            false => score(&self.slow, thresholds.tls_failures_slow_seconds),
        };
        self.is_slow = slow >= 1.0 && fast < 1.0;
        // One background client that tries again now and then harms nobody else.
        let is_busy = !self.is_slow || sample.running() > PROCESSES;
        let severity = match self.speaking().handshakes.alone() && is_busy {
            true => Severity::Critical,
            false => Severity::Warning,
        };
        // One that ends half of its handshakes is not suspected all the time.
        let score = match is_calm && !at.raised {
            true => 0.0,
            false => fast.max(slow),
        };
        Assessment {
            raise: (score >= 1.0).then_some(severity),
            calm: is_calm,
            score,
            time_left: None,
        }
    }

    fn evidence(&self, sample: &S) -> (Evidence, Vec<Explanation>) {
        let Ended {
            handshakes,
            resets,
            unanswered,
        } = self.speaking();
        let failed = handshakes.failed();
        let evidence = Evidence::Handshakes {
            failed,
            handshakes: failed + handshakes.succeeded(),
            seconds: handshakes.seconds(),
            peers: sample.culprits().short.clone(),
        };
        // They do not count beside successes.
        let unanswered = match handshakes.alone() {
            true => failed.min(unanswered.sum()),
            false => 0,
        };
        let answered = failed - unanswered;
        let reset = answered.min(resets.sum());
        let causes = [
            (&cause::HANDSHAKES_GIVEN_UP, unanswered),
            (&cause::HANDSHAKES_RESET, reset),
            (&cause::HANDSHAKES_REFUSED, answered - reset),
        ];
        (evidence, cause::explain(&causes))
    }
}
