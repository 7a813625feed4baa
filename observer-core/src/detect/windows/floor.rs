//! Minima by bucket of time, and their rise.

use std::{collections::VecDeque, time::Duration};

/// The number of minima that a [`Floor`] keeps.
pub const MINIMA: usize = 7;

/// The minimum of a level in each of the last buckets of time. Temporary increases within a bucket do not raise it; leaks
/// do.
#[derive(Debug)]
pub struct Floor {
    width: u64,
    /// Buckets from the measurement before last to the last one.
    step: u64,
    /// The current bucket and its minimum so far.
    current: Option<(u64, u32)>,
    /// Bucket and minimum of those before, oldest first.
    minima: VecDeque<(u64, u32)>,
}

/// Minima that never fell and rose in all but one bucket.
#[derive(Clone, Copy, Debug)]
pub struct Rise {
    minima: [(f64, f64); MINIMA],
    /// That of the current bucket so far.
    low: f64,
}

impl Floor {
    /// Buckets of so many seconds.
    #[must_use]
    pub fn new(width: u64) -> Self {
        Self {
            width: width.max(1),
            step: 1,
            current: None,
            minima: VecDeque::new(),
        }
    }

    /// Adds a measurement of that time; a time that was there before adds nothing. If they come less often than
    /// buckets, each has one. If one is missing, it is left out; after more, the minima before are dropped.
    pub fn add(&mut self, now: Duration, level: u64) {
        let level = level.try_into().unwrap_or(u32::MAX);
        let bucket = now.as_secs() / self.width;
        match &mut self.current {
            Some((current, low)) if *current == bucket => *low = level.min(*low),
            current => {
                if let Some((last, low)) = current.replace((bucket, level)) {
                    if self.minima.len() == MINIMA {
                        self.minima.pop_front();
                    }
                    self.minima.push_back((last, low));
                    let step = bucket.saturating_sub(last);
                    if step > 2 * std::mem::replace(&mut self.step, step.max(1)) {
                        self.minima.clear();
                    }
                }
            }
        }
    }

    /// The rise of the last [`MINIMA`] buckets, if the current one has not fallen below them.
    #[must_use]
    pub fn rise(&self) -> Option<Rise> {
        // What is 0 now has not risen: nothing else is read then, as of most processes.
        let (_, low) = self.current.filter(|(_, low)| *low > 0)?;
        if self.minima.len() < MINIMA {
            return None;
        }
        let steps = || self.minima.iter().zip(self.minima.iter().skip(1));
        let falls = steps().any(|(a, b)| b.1 < a.1) || low < self.minima[MINIMA - 1].1;
        let rises = steps().filter(|(a, b)| b.1 > a.1).count();
        if falls || rises < MINIMA - 2 {
            return None;
        }
        let point = |index: usize| {
            let (bucket, low) = self.minima[index];
            ((bucket * self.width) as f64, f64::from(low))
        };
        Some(Rise {
            minima: std::array::from_fn(point),
            low: low.into(),
        })
    }
}

impl Rise {
    /// The last minimum.
    #[must_use]
    pub fn last(&self) -> f64 {
        self.minima[MINIMA - 1].1
    }

    /// The last minimum minus the first.
    #[must_use]
    pub fn height(&self) -> f64 {
        self.last() - self.minima[0].1
    }

    /// The same as the slope has it, without a single step.
    #[must_use]
    pub fn steady_height(&self) -> f64 {
        self.slope() * (self.minima[MINIMA - 1].0 - self.minima[0].0)
    }

    /// Per second, by [`theil_sen`]. Above 0.
    #[must_use]
    pub fn slope(&self) -> f64 {
        theil_sen(&self.minima)
    }

    /// Growth since the last minimum as a fraction of the mean from one minimum to the next.
    #[must_use]
    pub fn continues(&self) -> f64 {
        let steps = (MINIMA - 1) as f64;
        (self.low - self.last()) / (self.steady_height() / steps)
    }

    /// The limit of the level if it is `level` now and the second half of the rise was smaller than
    /// the first: the limit of the geometric series of the halves. Infinite if it was not smaller.
    #[must_use]
    pub fn end(&self, level: f64) -> f64 {
        let middle = self.minima[MINIMA / 2].1;
        let (early, late) = (middle - self.minima[0].1, self.last() - middle);
        if late >= early {
            return f64::INFINITY;
        }
        let steps = (MINIMA / 2) as f64;
        let ratio = (late / early).powf(1.0 / steps);
        level + late / steps * ratio / (1.0 - ratio)
    }
}

/// The median of the slopes between all pairs of points: a few outliers do not change it. At least two points
/// with different abscissas.
fn theil_sen(points: &[(f64, f64)]) -> f64 {
    let pairs = (0..points.len()).flat_map(|i| (i + 1..points.len()).map(move |j| (i, j)));
    let mut slopes: Vec<f64> = pairs
        .map(|(i, j)| (points[j].1 - points[i].1) / (points[j].0 - points[i].0))
        .collect();
    slopes.sort_by(f64::total_cmp);
    slopes[slopes.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_comes_and_goes_does_not_raise_the_floor() {
        let (mut leaking, mut busy) = (Floor::new(10), Floor::new(10));
        for second in 0..80 {
            leaking.add(at(second), second + 50 * (second % 2));
            busy.add(at(second), 10 + 50 * (second % 2));
        }
        let rise = leaking.rise().expect("it leaks");
        assert!((rise.slope() - 1.0).abs() < 1e-9);
        assert_eq!((rise.last(), rise.height()), (60.0, 60.0));
        assert!(rise.end(80.0).is_infinite());
        assert!(busy.rise().is_none());
    }

    #[test]
    fn a_floor_of_rare_measurements_rises_with_each() {
        let mut floor = Floor::new(30);
        let mut risen = None;
        for second in 0..2_000 {
            // One each 90 seconds, which is seen each second.
            let walk = second / 90;
            floor.add(Duration::from_secs(90 * walk), 100 + walk);
            risen = risen.or(floor.rise().map(|_| walk));
        }
        // After as many as it keeps.
        assert_eq!(risen, Some(MINIMA as u64 + 1));
    }

    #[test]
    fn a_floor_survives_one_bucket_without_a_measurement() {
        let (mut one, mut two) = (Floor::new(1), Floor::new(1));
        for second in 0..20 {
            if second != 15 {
                one.add(at(second), second);
            }
            if second != 15 && second != 16 {
                two.add(at(second), second);
            }
        }
        let rise = one.rise().expect("it rises");
        assert!((rise.slope() - 1.0).abs() < 1e-9);
        assert!(two.rise().is_none());
    }

    #[test]
    fn a_rise_that_slows_down_has_an_end() {
        let mut floor = Floor::new(1);
        for second in 0..8_u32 {
            // 512, 768, 896, ... converges to 1024.
            floor.add(at(second.into()), 1024 - (1024 >> (second + 1)));
        }
        let end = floor.rise().expect("it rises").end(1016.0);
        assert!((1024.0..1040.0).contains(&end), "{end}");
    }

    #[test]
    fn outliers_do_not_change_the_slope() {
        let points = [
            (0.0, 0.0),
            (1.0, 2.0),
            (2.0, 4.0),
            (3.0, 90.0),
            (4.0, 8.0),
            (5.0, 10.0),
        ];
        assert!((theil_sen(&points) - 2.0).abs() < 0.5);
    }
}
