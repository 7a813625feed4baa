//! Medians, spreads and paired ratios.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Median and range of some figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    /// Of finite figures; `None` if there are none.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().filter(|f| f.is_finite()).collect();
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        let median = if figures.len() % 2 == 1 {
            figures[middle]
        } else {
            (figures.get(middle.checked_sub(1)?)? + figures[middle]) / 2.0
        };
        Some(Self {
            median,
            low: *figures.first()?,
            high: *figures.last()?,
        })
    }

    /// Of the ratios of figures of the same repetition, because other load usually slows down both.
    pub fn of_ratios(figures: &[f64], references: &[f64]) -> Option<Self> {
        Self::of(figures.iter().zip(references).map(|(f, r)| f / r))
    }

    pub fn scaled(self, factor: f64) -> Self {
        Self {
            median: self.median * factor,
            low: self.low * factor,
            high: self.high * factor,
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, low, high } = *self;
        let digits = match median.abs() {
            0.0..10.0 => 2,
            10.0..100.0 => 1,
            _ => 0,
        };
        write!(f, "{median:.digits$} ({low:.digits$}-{high:.digits$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let spread = |figures: &[f64]| Spread::of(figures.iter().copied());
        let expected = Spread {
            median: 2.0,
            low: 1.0,
            high: 9.0,
        };
        assert_eq!(spread(&[9.0, 1.0, 2.0]), Some(expected));
        assert_eq!(spread(&[9.0, 1.0, 1.5, 2.5]), Some(expected));
        assert_eq!(spread(&[9.0, f64::NAN, 1.0, 2.0]), Some(expected));
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[9.0, 1.0]).map(|s| s.median), Some(5.0));
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        // A machine that is twice as slow in the second repetition changes nothing.
        let ratio = Spread::of_ratios(&[90.0, 45.0], &[100.0, 50.0]).unwrap();
        assert_eq!((ratio.low, ratio.high), (0.9, 0.9));
    }

    #[test]
    fn digits_fit_the_size() {
        let spread = Spread {
            median: 1234.4,
            low: 1.26,
            high: 2.0,
        };
        assert_eq!(spread.to_string(), "1234 (1-2)");
        assert_eq!(spread.scaled(0.001).to_string(), "1.23 (0.00-0.00)");
    }
}
