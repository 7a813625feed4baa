//! When a finding is raised, reported again, and cleared: the same for all detectors.

use std::{collections::VecDeque, time::Duration};

use super::{
    cause::Cause,
    detector::{Assessment, At},
    finding::Severity,
};

/// The action for a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it is not raised.
    Rest,
    /// It is new.
    Raise,
    /// It is as it was.
    Keep,
    /// Report it again.
    Update,
    /// It is over.
    Clear,
}

/// Whether one finding is raised. Most never are, so that takes no memory.
#[derive(Debug, Default)]
pub struct Flag(Option<Box<History>>);

#[derive(Debug, Default)]
struct History {
    raised: Option<Raised>,
    /// When it was raised within `flapping_within_seconds`, oldest first.
    raises: VecDeque<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Raised {
    since: Duration,
    at_least: f64,
    severity: Severity,
    /// The first cause when it was last reported.
    cause: Option<&'static Cause>,
    /// When it last was critical.
    critical_at: Option<Duration>,
    reported_at: Duration,
    calm_since: Option<Duration>,
}

impl Flag {
    /// Since when it is raised, and how severe it is.
    #[must_use]
    pub fn raised(&self) -> Option<(Duration, Severity)> {
        let raised = self.0.as_ref()?.raised?;
        Some((raised.since, raised.severity))
    }

    /// Takes in an assessment. It clears after `hold` seconds of calm.
    pub fn step(&mut self, assessment: &Assessment, hold: f64, at: &At<'_>) -> Step {
        let thresholds = at.thresholds;
        if assessment.raise.is_none() && self.raised().is_none() {
            return Step::Rest;
        }
        let History {
            raised: now,
            raises,
        } = &mut **self.0.get_or_insert_default();
        let Some(raised) = now else {
            let Some(severity) = assessment.raise else {
                return Step::Rest;
            };
            let within = thresholds.flapping_within_seconds;
            raises.retain(|raise| at.now.saturating_sub(*raise).as_secs_f64() < within);
            raises.push_back(at.now);
            let flaps = raises.len() as f64 >= thresholds.flapping_raises;
            if flaps {
                raises.pop_front();
            }
            *now = Some(Raised {
                since: at.now,
                at_least: match flaps {
                    true => thresholds.flapping_raised_seconds,
                    false => thresholds.min_raised_seconds,
                },
                severity,
                cause: None,
                critical_at: (severity == Severity::Critical).then_some(at.now),
                reported_at: at.now,
                calm_since: None,
            });
            return Step::Raise;
        };
        let passed =
            |since: Duration, seconds: f64| at.now.saturating_sub(since).as_secs_f64() >= seconds;
        raised.calm_since = assessment.calm.then(|| raised.calm_since.unwrap_or(at.now));
        let calm = raised.calm_since.is_some_and(|since| passed(since, hold));
        if calm && passed(raised.since, raised.at_least) {
            *now = None;
            return Step::Clear;
        }
        if assessment.raise == Some(Severity::Critical) {
            raised.critical_at = Some(at.now);
        }
        let critical = raised.critical_at;
        let critical = critical.is_some_and(|last| !passed(last, thresholds.min_raised_seconds));
        let severity = if critical {
            Severity::Critical
        } else {
            Severity::Warning
        };
        if assessment.calm {
            // Its end is reported next, or that it goes on.
            raised.severity = severity;
            return Step::Keep;
        }
        if severity != raised.severity || passed(raised.reported_at, thresholds.repeat_seconds) {
            raised.severity = severity;
            raised.reported_at = at.now;
            return Step::Update;
        }
        Step::Keep
    }

    /// Takes in the first cause of a raised finding after `step`: it is reported again if the cause is not the one that was
    /// reported, some time after that.
    pub fn explain(&mut self, step: Step, cause: Option<&'static Cause>, at: &At<'_>) -> Step {
        let Some(raised) = self.0.as_mut().and_then(|it| it.raised.as_mut()) else {
            return step;
        };
        let since = at.now.saturating_sub(raised.reported_at).as_secs_f64();
        let changed = raised.cause != cause && since >= at.thresholds.min_raised_seconds;
        let step = match step {
            Step::Keep if changed => Step::Update,
            step => step,
        };
        if matches!(step, Step::Raise | Step::Update) {
            raised.cause = cause;
            raised.reported_at = at.now;
        }
        step
    }

    /// Ends it, because another finding explains it. Whether it was raised.
    pub fn hide(&mut self) -> bool {
        self.0.as_mut().is_some_and(|it| it.raised.take().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::{Thresholds, cause, windows::Pace};

    /// The steps that are not [`Step::Rest`] or [`Step::Keep`], by second.
    fn play(seconds: u64, assess: impl Fn(u64) -> Assessment) -> Vec<(u64, Step)> {
        let thresholds = Thresholds::default();
        let mut flag = Flag::default();
        let mut steps = Vec::new();
        for second in 0..seconds {
            let at = At {
                now: Duration::from_secs(second),
                elapsed: Duration::from_secs(1),
                idle_until: None,
                pace: Pace::default(),
                raised: flag.raised().is_some(),
                thresholds: &thresholds,
            };
            let step = flag.step(&assess(second), 30.0, &at);
            if ![Step::Rest, Step::Keep].contains(&step) {
                steps.push((second, step));
            }
        }
        steps
    }

    fn when(raise: Option<Severity>) -> Assessment {
        Assessment {
            raise,
            calm: raise.is_none(),
            ..Assessment::default()
        }
    }

    #[test]
    fn it_clears_after_thirty_calm_seconds() {
        let steps = play(200, |second| {
            when((second == 10 || second == 30).then_some(Severity::Warning))
        });
        assert_eq!(steps, [(10, Step::Raise), (61, Step::Clear)]);
    }

    #[test]
    fn between_the_thresholds_it_stays() {
        let steps = play(500, |second| Assessment {
            calm: false,
            ..when((second == 10).then_some(Severity::Warning))
        });
        assert_eq!(steps, [(10, Step::Raise)]);
    }

    #[test]
    fn the_third_raise_of_an_hour_lasts_ten_minutes() {
        let steps = play(2000, |second| {
            when(
                [10, 110, 210]
                    .contains(&second)
                    .then_some(Severity::Warning),
            )
        });
        let expected = [(10, 41), (110, 141), (210, 810)];
        let expected = expected.map(|(up, down)| [(up, Step::Raise), (down, Step::Clear)]);
        assert_eq!(steps, expected.as_flattened());
    }

    #[test]
    fn severity_rises_at_once_and_falls_after_thirty_seconds() {
        let steps = play(150, |second| {
            let critical = (20..40).contains(&second) && second % 2 == 0;
            when(Some(if critical {
                Severity::Critical
            } else {
                Severity::Warning
            }))
        });
        assert_eq!(
            steps,
            [(0, Step::Raise), (20, Step::Update), (68, Step::Update)]
        );
    }

    #[test]
    fn a_new_cause_is_reported_thirty_seconds_after_the_last_report() {
        let thresholds = Thresholds::default();
        let mut flag = Flag::default();
        let mut steps = Vec::new();
        for second in 0..100 {
            let at = At {
                now: Duration::from_secs(second),
                elapsed: Duration::from_secs(1),
                idle_until: None,
                pace: Pace::default(),
                raised: second > 0,
                thresholds: &thresholds,
            };
            let step = flag.step(&when(Some(Severity::Warning)), 30.0, &at);
            let cause = match second {
                0..10 | 80.. => &cause::NO_ACCEPTS,
                _ => &cause::SLOW_ACCEPT,
            };
            if flag.explain(step, Some(cause), &at) != Step::Keep {
                steps.push(second);
            }
        }
        assert_eq!(steps, [0, 30, 80]);
    }

    #[test]
    fn it_is_reported_every_ten_minutes() {
        let steps = play(1500, |_| when(Some(Severity::Warning)));
        let expected = [(0, Step::Raise), (600, Step::Update), (1200, Step::Update)];
        assert_eq!(steps, expected);
    }
}
