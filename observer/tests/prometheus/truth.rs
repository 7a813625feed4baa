//! The true events of a program, by its own clock, and the allowed results of rate().

use std::path::Path;

/// The range of `rate(x[1m])`, in seconds.
const RANGE: f64 = 60.0;
/// A sample is stamped when its scrape begins, or up to 2 ms from that, because Prometheus
/// aligns stamps (scrape/scrape.go, `ScrapeTimestampTolerance`); rounded to a millisecond.
const STAMP: f64 = 0.005;

/// Events of one kind: when each began and when it was over, for which the program asked the
/// clock before and after. So at any time between `least` and `most` had happened.
pub struct Truth {
    began: Vec<f64>,
    over: Vec<f64>,
}

impl Truth {
    pub fn new(events: impl Iterator<Item = (f64, f64)>) -> Self {
        let (mut began, mut over): (Vec<f64>, Vec<f64>) = events.unzip();
        began.sort_by(f64::total_cmp);
        over.sort_by(f64::total_cmp);
        Self { began, over }
    }

    fn least(&self, time: f64) -> f64 {
        self.over.partition_point(|at| *at <= time) as f64
    }

    fn most(&self, time: f64) -> f64 {
        self.began.partition_point(|at| *at <= time) as f64
    }

    pub fn count(&self) -> usize {
        self.began.len()
    }

    pub fn first(&self) -> f64 {
        self.began[0]
    }

    pub fn last(&self) -> f64 {
        self.over[self.over.len() - 1]
    }

    /// The highest rate over a minute, per second.
    fn peak(&self) -> f64 {
        let minute = |(index, end): (usize, &f64)| {
            let before = self.over.partition_point(|at| *at <= end - RANGE);
            index + 1 - before
        };
        let most = self.over.iter().enumerate().map(minute).max();
        most.unwrap_or(0) as f64 / RANGE
    }
}

/// Records of `N` numbers, as the programs write them.
pub fn records<const N: usize>(file: &Path) -> Vec<[f64; N]> {
    let bytes = std::fs::read(file).unwrap();
    let (numbers, []) = bytes.as_chunks::<8>() else {
        panic!("half a number in {}", file.display())
    };
    let numbers: Vec<f64> = numbers.iter().map(|it| f64::from_ne_bytes(*it)).collect();
    let (records, []) = numbers.as_chunks::<N>() else {
        panic!("half a record in {}", file.display())
    };
    records.to_vec()
}

struct Sample {
    time: f64,
    value: f64,
    /// How long the scrape took: the value is of a moment within.
    took: f64,
}

/// The samples of a series.
pub struct Samples(Vec<Sample>);

/// The result of rate() at each second.
pub struct Rates<'a> {
    pub query: &'a str,
    pub points: &'a [(f64, f64)],
    pub start: f64,
    pub end: f64,
}

impl Samples {
    /// `took` has the same times, and maybe more.
    pub fn new(values: &[(f64, f64)], took: &[(f64, f64)]) -> Self {
        let sample = |&(time, value): &(f64, f64)| {
            let at = took.binary_search_by(|(other, _)| other.total_cmp(&time));
            let took = took[at.expect("each scrape took some time")].1;
            Sample { time, value, took }
        };
        Self(values.iter().map(sample).collect())
    }

    pub fn last(&self) -> (f64, f64) {
        let last = self.0.last().expect("a sample");
        (last.time, last.value)
    }

    /// Asserts that each sample is what had happened when it was taken, so that none is behind
    /// and nothing is counted twice.
    pub fn assert_true(&self, what: &str, truth: &Truth) {
        for Sample { time, value, took } in &self.0 {
            let bounds = truth.least(time - STAMP)..=truth.most(time + took + STAMP);
            let after = time - truth.last();
            assert!(
                bounds.contains(value),
                "{what}: {value} at {time}, {after:.1} s after the last event; truth {bounds:?}"
            );
        }
        let falls = |pair: &[Sample]| pair[1].value < pair[0].value;
        assert!(!self.0.windows(2).any(falls), "{what} went down");
    }

    /// What `rate(x[1m])` may be at `time`, from the samples' times and the truth alone.
    ///
    /// rate() takes the increase between the first and the last sample in the range, and
    /// extrapolates at the same rate to both ends of the range, though by no more than 1.1 of the
    /// average interval between samples at either (promql/functions.go, `extrapolatedRate`). With a
    /// sample each second, that makes an increase of 59 seconds one of 60, so the tolerance is 1.7
    /// percent; if scrapes fail, it is what their gaps make it, and never the rate of more than was
    /// really done between two samples.
    fn bounds(&self, truth: &Truth, time: f64) -> (f64, f64) {
        let start = time - RANGE;
        let inside = |sample: &&Sample| (start..=time).contains(&sample.time);
        let samples: Vec<&Sample> = self.0.iter().filter(inside).collect();
        let [first, .., last] = samples[..] else {
            return (0.0, 0.0);
        };
        let span = last.time - first.time;
        let most_beyond = 1.1 * span / (samples.len() - 1) as f64;
        let beyond = (first.time - start).min(most_beyond) + (time - last.time).min(most_beyond);
        let at_first = (
            truth.least(first.time - STAMP),
            truth.most(first.time + first.took + STAMP),
        );
        let at_last = (
            truth.least(last.time - STAMP),
            truth.most(last.time + last.took + STAMP),
        );
        let least = (at_last.0 - at_first.1).max(0.0);
        let most = at_last.1 - at_first.0;
        (least / RANGE, most * (span + beyond) / span / RANGE)
    }

    /// Asserts that rate() equals the true rate at every second, and is never higher.
    pub fn assert_rates(&self, truth: &Truth, rates: &Rates<'_>) {
        const ROUNDING: f64 = 1e-6;
        let Rates {
            query,
            points,
            start,
            end,
        } = rates;
        let (mut evaluations, mut told, mut highest) = (0, 0.0_f64, 0.0_f64);
        let mut time = *start;
        while time <= *end {
            let (least, most) = self.bounds(truth, time);
            let near = |point: &&(f64, f64)| (point.0 - time).abs() < 0.01;
            // No value where there are no two samples to compare.
            let rate = points.iter().find(near).map_or(0.0, |point| point.1);
            let after = time - truth.last();
            assert!(
                (least - ROUNDING..=most + ROUNDING).contains(&rate),
                "{query} is {rate} at {time}, {after:.1} s after the last event; \
                 truth {least} to {most}"
            );
            (told, highest) = (told.max(least), highest.max(rate));
            evaluations += 1;
            time += 1.0;
        }
        let peak = truth.peak();
        println!(
            "{query}: at most {highest:.2}/s in {evaluations} evaluations; really {peak:.2}/s"
        );
        // Else it could be anything without being noticed.
        assert!(
            told >= 0.8 * peak && highest >= 0.8 * peak,
            "scrapes were too rare to tell the rate: {told} of {peak}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten events each second for a minute, and a sample each second for six.
    fn steady(step: f64) -> (Truth, Samples) {
        let truth = Truth::new((0..600).map(|event| {
            let began = 100.0 + f64::from(event) / 10.0;
            (began, began + 0.001)
        }));
        let values: Vec<(f64, f64)> = (90..450)
            .map(|second| {
                let time = f64::from(second) + 0.25;
                // The process ends, and its counts are added `step` times more.
                let again = if time > 170.0 { step * 600.0 } else { 0.0 };
                (time, truth.least(time) + again)
            })
            .collect();
        let took: Vec<_> = values.iter().map(|(time, _)| (*time, 0.002)).collect();
        (truth, Samples::new(&values, &took))
    }

    /// Without an edge of the range close to a sample, rate() is the increase over the time between
    /// the first and the last sample.
    fn rates_of(samples: &Samples) -> Vec<(f64, f64)> {
        let rate = |time: f64| {
            let inside = |sample: &&Sample| (time - RANGE..=time).contains(&sample.time);
            let samples: Vec<&Sample> = samples.0.iter().filter(inside).collect();
            let [first, .., last] = samples[..] else {
                return (time, 0.0);
            };
            (time, (last.value - first.value) / (last.time - first.time))
        };
        (150..450)
            .map(|second| rate(f64::from(second) + 0.75))
            .collect()
    }

    fn check(samples: &Samples, truth: &Truth, factor: f64) {
        let mut points = rates_of(samples);
        for (_, rate) in &mut points {
            *rate *= factor;
        }
        let rates = Rates {
            query: "rate",
            points: &points,
            start: 150.75,
            end: 449.75,
        };
        samples.assert_rates(truth, &rates);
    }

    #[test]
    fn what_is_true_is_accepted() {
        let (truth, samples) = steady(0.0);
        samples.assert_true("samples", &truth);
        check(&samples, &truth, 1.0);
    }

    #[test]
    #[should_panic(expected = "s after the last event; truth")]
    fn a_step_is_noticed_in_samples() {
        let (truth, samples) = steady(1.0);
        samples.assert_true("samples", &truth);
    }

    #[test]
    #[should_panic(expected = "s after the last event; truth")]
    fn a_step_is_noticed_in_rates() {
        let (truth, samples) = steady(1.0);
        check(&samples, &truth, 1.0);
    }

    #[test]
    #[should_panic(expected = "s after the last event; truth")]
    fn a_rate_that_is_too_low_is_noticed() {
        let (truth, samples) = steady(0.0);
        check(&samples, &truth, 0.9);
    }

    #[test]
    #[should_panic(expected = "s after the last event; truth")]
    fn a_rate_that_is_too_high_is_noticed() {
        let (truth, samples) = steady(0.0);
        check(&samples, &truth, 1.05);
    }
}
