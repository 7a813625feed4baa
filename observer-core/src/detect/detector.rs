//! The seam between the engine and the detectors.

use std::time::Duration;

use super::{
    anomaly::Anomaly,
    cause::Explanation,
    finding::{Evidence, Severity},
    settings::Thresholds,
    windows::{Pace, Span},
};

/// Score from which a finding is suspected, so that it is worth knowing more. What records or walks decide has this score
/// until they do.
pub const SUSPECTED: f64 = 0.5;

/// Time and settings of an evaluation.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// CLOCK_MONOTONIC of the sample.
    pub now: Duration,
    /// Time since the last sample; 0 at the first.
    pub elapsed: Duration,
    /// Nothing happened to the subject between its last assessment and then, if there were samples that it was not
    /// assessed at.
    pub idle_until: Option<Duration>,
    /// How far samples are apart.
    pub pace: Pace,
    /// Whether the finding is raised, or hidden by another one.
    pub raised: bool,
    /// When to raise and clear.
    pub thresholds: &'a Thresholds,
}

impl At<'_> {
    /// The time of what has been counted since the last assessment.
    #[must_use]
    pub fn span(&self) -> Span {
        Span {
            now: self.now,
            idle_until: self.idle_until,
            pace: self.pace,
        }
    }
}

/// A detector's assessment of a sample, before the common rules of findings are applied.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Assessment {
    /// Whether to raise, and how severe it is.
    pub raise: Option<Severity>,
    /// Whether it is below the clear threshold.
    pub calm: bool,
    /// The statistic divided by the threshold, 1 or more when `raise` is set.
    pub score: f64,
    /// Time until calls fail, if there is a forecast.
    pub time_left: Option<Duration>,
}

/// Which samples in which nothing happens a detector need not see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Settled {
    /// None.
    #[default]
    No,
    /// Those with the same walk over connections.
    UntilWalk,
    /// Any.
    Yes,
}

impl Settled {
    /// Any, if `is_settled`, or none.
    #[must_use]
    pub fn any_if(is_settled: bool) -> Self {
        if is_settled { Self::Yes } else { Self::No }
    }
}

/// One detector with its state for one subject. Deterministic: no clock, no randomness.
pub trait Detector {
    /// The anomaly that it detects.
    const ANOMALY: Anomaly;
    /// The part of a [`super::Sample`] that it evaluates.
    type Sample;

    /// It has seen nothing yet.
    fn new(thresholds: &Thresholds) -> Self;

    /// Time below the clear threshold before it clears, in seconds.
    fn hold(thresholds: &Thresholds) -> f64 {
        thresholds.min_raised_seconds
    }

    /// Whether a finding about another subject may explain it: such detectors are evaluated last.
    fn comes_last(&self, _: &Self::Sample) -> bool {
        false
    }

    /// Whether a walk over connections should come soon, although the score is low; `None` if walks do not matter.
    fn wants_walk(&self, _: &Self::Sample, _: &Thresholds) -> Option<bool> {
        None
    }

    /// Which further samples in which nothing happens it need not see, because it would assess them like the last one.
    /// [`At::idle_until`] says how many it did not see.
    fn settled(&self) -> Settled {
        Settled::No
    }

    /// Takes in a sample.
    fn assess(&mut self, sample: &Self::Sample, at: &At<'_>) -> Assessment;

    /// Evidence and causes of the last assessment.
    fn evidence(&self, sample: &Self::Sample) -> (Evidence, Vec<Explanation>);
}

/// `part` of `whole`; 0 of nothing.
#[must_use]
pub fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// The least of several conditions, each a statistic divided by its threshold: all hold from 1 on.
#[must_use]
pub fn all(conditions: &[f64]) -> f64 {
    conditions.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Seconds until `free` are used at `rate` per second; infinite if they never are.
#[must_use]
pub fn until_used(free: f64, rate: f64) -> f64 {
    if rate > 0.0 {
        free / rate
    } else {
        f64::INFINITY
    }
}

/// A time in seconds that is finite and not negative.
#[must_use]
pub fn seconds(time: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(time).ok()
}
