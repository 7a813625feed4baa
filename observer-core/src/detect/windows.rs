//! The detectors' windows: sums by second, minima by bucket, trends, baselines.
//!
//! Time is CLOCK_MONOTONIC, as an argument. Nothing here allocates before the first value that is not 0.

mod floor;

use std::{collections::VecDeque, iter, ops::RangeInclusive, time::Duration};

pub use self::floor::{Floor, MINIMA};

/// After a longer gap between samples, the times of events are unknown, and short windows are
/// reset. If samples are further apart, after two missing ones.
const GAP: Duration = Duration::from_secs(5);

/// How far samples are apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace(Duration);

impl Default for Pace {
    fn default() -> Self {
        Self(Duration::from_secs(1))
    }
}

impl Pace {
    /// One sample in each `tick`.
    #[must_use]
    pub fn new(tick: Duration) -> Self {
        Self(tick)
    }

    /// Time between two samples from which on there is a gap.
    #[must_use]
    pub fn gap(self) -> Duration {
        GAP.max(3 * self.0)
    }

    /// `time` in a window's seconds.
    #[must_use]
    pub fn scaled(self, time: Duration) -> Duration {
        time.div_f64(self.second() as f64)
    }

    /// Length of a window's second: longer if samples are further apart, because the distribution
    /// of events between samples is unknown.
    fn second(self) -> u64 {
        (self.0.as_secs() + u64::from(self.0.subsec_millis() > 0)).max(1)
    }
}

/// The time that a count is of.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Its end.
    pub now: Duration,
    /// Its begin, if nothing was counted between the count before and then.
    pub idle_until: Option<Duration>,
    /// How far samples are apart.
    pub pace: Pace,
}

/// Differences between two readings of the same counters.
#[derive(Debug)]
pub struct Counters<const N: usize>(Option<[u64; N]>);

impl<const N: usize> Default for Counters<N> {
    fn default() -> Self {
        Self(None)
    }
}

impl<const N: usize> Counters<N> {
    /// Of counters that are 0 before the first reading, so that what it has counts, too.
    #[must_use]
    pub fn from_zero() -> Self {
        Self(Some([0; N]))
    }

    /// Increase since the last reading; 0 at the first one, and for a counter that has decreased.
    pub fn since(&mut self, reading: [u64; N]) -> [u64; N] {
        let last = self.0.replace(reading).unwrap_or(reading);
        std::array::from_fn(|index| reading[index].saturating_sub(last[index]))
    }
}

/// The counts of each of the last seconds. If samples are less frequent, a window's second is the
/// time between two of them ([`Pace`]), and all numbers are rates per second in it: the window is
/// then longer, and a burst of one second is not counted as several.
#[derive(Debug)]
pub struct Window {
    /// By second modulo the length. Empty while all are 0.
    counts: Vec<u32>,
    sum: u64,
    length: u16,
    last: Option<u64>,
    pace: Pace,
}

impl Window {
    /// A window of so many seconds, at least 1.
    #[must_use]
    pub fn new(seconds: u64) -> Self {
        Self {
            counts: Vec::new(),
            sum: 0,
            length: seconds.clamp(1, 3600) as u16,
            last: None,
            pace: Pace::default(),
        }
    }

    /// Adds the count since the last call, divided evenly among the seconds since then, or those of the span. If these
    /// are more than the [gap](Pace::gap) of its pace, or the pace has changed, the window is reset
    /// without it.
    pub fn add(&mut self, span: Span, count: u64) {
        let pace = span.pace;
        let length = pace.second();
        let second = span.now.as_secs() / length;
        let mut last = self.last.replace(second);
        if let (Some(last), Some(until)) = (&mut last, span.idle_until) {
            let until = until.as_secs() / length;
            self.clear(*last + 1..=until);
            *last = until.max(*last);
        }
        let elapsed = last.map_or(1, |last| second.saturating_sub(last));
        let changed = self.pace != pace;
        self.pace = pace;
        if last.is_some() && changed || elapsed * length > pace.gap().as_secs() {
            self.counts.clear();
            self.sum = 0;
            return;
        }
        if self.counts.is_empty() {
            if count == 0 {
                return;
            }
            self.counts = vec![0; self.length.into()];
        }
        self.clear(second + 1 - elapsed..=second);
        let parts = elapsed.max(1);
        for part in 0..parts {
            let at = self.place(second - part);
            let count = count / parts + u64::from(part < count % parts);
            let room = u32::MAX - self.counts[at];
            let count = count.try_into().unwrap_or(u32::MAX).min(room);
            self.counts[at] += count;
            self.sum += u64::from(count);
        }
    }

    /// Makes room for these seconds.
    fn clear(&mut self, seconds: RangeInclusive<u64>) {
        if self.counts.is_empty() {
            return;
        }
        for second in seconds.take(self.length.into()) {
            let at = self.place(second);
            self.sum -= u64::from(std::mem::take(&mut self.counts[at]));
        }
    }

    fn place(&self, second: u64) -> usize {
        (second % u64::from(self.length)) as usize
    }

    /// The sum of the window; not 0 if anything was counted.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum.div_ceil(self.pace.second())
    }

    /// The sum divided by the window's length, also if it is not filled.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.sum as f64 / (self.pace.second() as f64 * f64::from(self.length))
    }

    /// The number of seconds with a count, and with one of at least `least`.
    #[must_use]
    pub fn seconds_with(&self, least: f64) -> u64 {
        let least = least * self.pace.second() as f64;
        let with = |count: &&u32| **count > 0 && f64::from(**count) >= least;
        self.counts.iter().filter(with).count() as u64
    }
}

/// Counts by kind of the last 10 to 20 seconds, as evidence.
#[derive(Debug)]
pub struct Recent<const N: usize> {
    /// Those of the current 10 seconds and of the 10 before.
    counts: [[u32; N]; 2],
    period: u64,
}

impl<const N: usize> Default for Recent<N> {
    fn default() -> Self {
        Self {
            counts: [[0; N]; 2],
            period: 0,
        }
    }
}

impl<const N: usize> Recent<N> {
    /// Adds the count since the last call.
    pub fn add(&mut self, now: Duration, counts: [u64; N]) {
        let period = now.as_secs() / 10;
        if period != self.period {
            let follows = period == self.period + 1;
            let last = if follows { self.counts[0] } else { [0; N] };
            self.counts = [[0; N], last];
            self.period = period;
        }
        for (sum, count) in self.counts[0].iter_mut().zip(counts) {
            *sum = sum.saturating_add(count.try_into().unwrap_or(u32::MAX));
        }
    }

    /// The sums.
    #[must_use]
    pub fn sums(&self) -> [u64; N] {
        std::array::from_fn(|kind| self.counts.iter().map(|it| u64::from(it[kind])).sum())
    }
}

/// Readings of a number over some time, which need not come at equal intervals.
#[derive(Debug)]
pub struct Trend {
    span: Duration,
    readings: VecDeque<(Duration, f64)>,
}

impl Trend {
    /// Keeps the readings of that time, and one before.
    #[must_use]
    pub fn new(span: u64) -> Self {
        Self {
            span: Duration::from_secs(span),
            readings: VecDeque::new(),
        }
    }

    /// Adds a reading, later than the one before.
    pub fn add(&mut self, now: Duration, value: f64) {
        self.readings.push_back((now, value));
        while self
            .readings
            .get(1)
            .is_some_and(|it| now.saturating_sub(it.0) >= self.span)
        {
            self.readings.pop_front();
        }
    }

    /// Change per second over the shortest time up to now in which the number rose by `enough`, or over all of it.
    #[must_use]
    pub fn recent_slope(&self, enough: f64) -> Option<f64> {
        let last = self.readings.back()?;
        let mut before = self.readings.iter().rev();
        let risen = before.find(|it| last.1 - it.1 >= enough);
        let first = risen.or_else(|| self.readings.front())?;
        let time = last.0.saturating_sub(first.0);
        (time > Duration::ZERO).then(|| (last.1 - first.1) / time.as_secs_f64())
    }

    /// Seconds after the last reading until `free` are used at `rate` per second, if each unit by which the number has
    /// risen is free again `held` after that, and in the end they are used at `then` per second.
    #[must_use]
    pub fn used_in(&self, mut free: f64, rate: f64, held: Duration, then: f64) -> f64 {
        let (Some(first), Some(last)) = (self.readings.front(), self.readings.back()) else {
            return f64::INFINITY;
        };
        let freed_in = |at: Duration| (at + held).saturating_sub(last.0).as_secs_f64();
        let pairs = self.readings.iter().zip(self.readings.iter().skip(1));
        let risen = pairs.map(|(from, to)| {
            let time = to.0.saturating_sub(from.0).as_secs_f64();
            (freed_in(to.0), (to.1 - from.1) / time.max(f64::EPSILON))
        });
        let mut now = 0.0;
        for (until, freed) in iter::once((freed_in(first.0), 0.0)).chain(risen) {
            let used = (rate - freed) * (until - now);
            if used >= free {
                return now + free.max(0.0) / (rate - freed).max(f64::EPSILON);
            }
            free -= used;
            now = until;
        }
        if then > 0.0 {
            now + free / then
        } else {
            f64::INFINITY
        }
    }

    /// Change per second between the first and the last reading, and the time between them.
    #[must_use]
    pub fn slope(&self) -> Option<(f64, Duration)> {
        let (first, last) = (self.readings.front()?, self.readings.back()?);
        let time = last.0.saturating_sub(first.0);
        (time > Duration::ZERO).then(|| ((last.1 - first.1) / time.as_secs_f64(), time))
    }
}

/// Moves the mean `base` towards `value` after `elapsed`, so that it is half way after `half_life`.
pub fn approach(base: &mut f64, value: f64, elapsed: Duration, half_life: f64) {
    *base += (1.0 - 0.5_f64.powf(elapsed.as_secs_f64() / half_life)) * (value - *base);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn span(seconds: u64, pace: Pace) -> Span {
        Span {
            now: at(seconds),
            idle_until: None,
            pace,
        }
    }

    #[test]
    fn the_first_reading_and_a_reset_count_nothing() {
        let mut counters = Counters::default();
        assert_eq!(counters.since([7, 7]), [0, 0]);
        assert_eq!(counters.since([9, 7]), [2, 0]);
        assert_eq!(counters.since([1, 8]), [0, 1]);
    }

    #[test]
    fn a_window_forgets_what_is_older() {
        let mut window = Window::new(3);
        for (second, count) in [(10, 5), (11, 0), (12, 1), (13, 2)] {
            window.add(span(second, Pace::default()), count);
        }
        assert_eq!((window.sum(), window.seconds_with(2.0)), (3, 1));
        window.add(span(13, Pace::default()), 1);
        assert_eq!((window.sum(), window.seconds_with(3.0)), (4, 1));
    }

    #[test]
    fn a_late_tick_is_divided_among_its_seconds() {
        let mut window = Window::new(10);
        window.add(span(10, Pace::default()), 1);
        window.add(span(13, Pace::default()), 8);
        assert_eq!(window.sum(), 9);
        assert_eq!(window.seconds_with(1.0), 4);
        assert_eq!(window.seconds_with(3.0), 2);
    }

    #[test]
    fn a_gap_starts_a_window_anew() {
        let mut window = Window::new(10);
        window.add(span(10, Pace::default()), 3);
        window.add(span(16, Pace::default()), 100);
        assert_eq!(window.sum(), 0);
        window.add(span(17, Pace::default()), 2);
        assert_eq!(window.sum(), 2);
    }

    #[test]
    fn a_count_after_an_idle_time_is_not_of_that_time() {
        for idle in [1, 3, 7, 100] {
            let mut window = Window::new(5);
            window.add(span(10, Pace::default()), 3);
            let after = Span {
                idle_until: Some(at(10 + idle)),
                ..span(12 + idle, Pace::default())
            };
            window.add(after, 8);
            let before = if idle + 2 < 5 { 3 } else { 0 };
            assert_eq!(window.sum(), 8 + before, "{idle}");
            assert_eq!(window.seconds_with(4.0), 2);
        }
        let mut window = Window::new(5);
        window.add(span(10, Pace::default()), 3);
        let after = Span {
            idle_until: Some(at(20)),
            ..span(26, Pace::default())
        };
        window.add(after, 8);
        assert_eq!(window.sum(), 0, "a gap after it");
    }

    #[test]
    fn a_slow_pace_makes_seconds_longer() {
        let pace = Pace::new(at(30));
        let mut window = Window::new(10);
        // A tick that is a little late, as all are.
        for (second, count) in [(30, 0), (60, 300), (91, 300), (122, 900), (182, 600)] {
            window.add(span(second, pace), count);
        }
        assert_eq!(window.seconds_with(10.0), 5);
        assert_eq!(window.seconds_with(30.0), 1);
        assert_eq!((window.sum(), window.per_second()), (70, 7.0));
        window.add(span(300, pace), 600);
        assert_eq!(window.sum(), 0, "it stopped for a while");
    }

    #[test]
    fn a_new_pace_starts_a_window_anew() {
        let mut window = Window::new(10);
        window.add(span(10, Pace::default()), 3);
        window.add(span(12, Pace::new(at(2))), 100);
        assert_eq!(window.sum(), 0);
        window.add(span(14, Pace::new(at(2))), 2);
        assert_eq!(window.per_second(), 0.1);
    }

    #[test]
    fn recent_counts_are_those_of_two_periods() {
        let mut recent = Recent::default();
        recent.add(at(5), [1, 0]);
        recent.add(at(15), [0, 2]);
        assert_eq!(recent.sums(), [1, 2]);
        recent.add(at(25), [4, 0]);
        assert_eq!(recent.sums(), [4, 2]);
        recent.add(at(55), [1, 1]);
        assert_eq!(recent.sums(), [1, 1]);
    }

    #[test]
    fn a_trend_is_that_of_its_span() {
        let mut trend = Trend::new(10);
        assert_eq!(trend.slope(), None);
        for second in 0..30 {
            trend.add(at(second), if second < 15 { 0.0 } else { second as f64 });
        }
        assert_eq!(trend.slope(), Some((1.0, at(10))));
    }

    #[test]
    fn a_recent_slope_is_of_the_shortest_time_with_enough() {
        let mut trend = Trend::new(10);
        assert_eq!(trend.recent_slope(100.0), None);
        for (second, value) in [(0, 0.0), (2, 200.0), (4, 230.0), (6, 260.0), (7, 275.0)] {
            trend.add(at(second), value);
        }
        assert_eq!(trend.recent_slope(40.0), Some(15.0));
        assert_eq!(trend.recent_slope(100.0), Some(275.0 / 7.0));
        assert_eq!(trend.recent_slope(1_000.0), Some(275.0 / 7.0));
    }

    #[test]
    fn a_baseline_is_half_way_after_its_half_life() {
        let mut base = 0.0;
        for _ in 0..60 {
            approach(&mut base, 8.0, at(1), 60.0);
        }
        assert!((base - 4.0_f64).abs() < 1e-9);
    }
}
