//! Computes the interval between walks.

use std::time::Duration;

/// Pauses are longer than needed by this factor, so that walks take 5/8 of their share of a CPU, unless that
/// pause is longer than the longest.
const SPARE: f64 = 1.6;

/// While the ports of a destination run out, or a finding may come that walks know more of, walks may take this many times their share.
const URGENT: f64 = 10.0;

/// Fraction of a destination's ports from which on the next walk is urgent.
const FULL: f64 = 0.25;

/// Growth of that fraction until the next walk that makes it urgent.
const GROWTH: f64 = 0.10;

/// When to walk next, after a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// The pause.
    pub usual: Duration,
    /// While a finding may come that walks know more of: at most [`URGENT`] times the share of a CPU.
    pub urgent: Duration,
}

impl Pause {
    /// After a walk that took `cost` of CPU time, found the `fullest` destination with this fraction of its ports
    /// blocked, and one with `growth` of that fraction per second. The usual one is no longer than `longest`, unless
    /// there are so many sockets that walks would take more than `share` of a CPU.
    #[must_use]
    pub fn after(cost: Duration, fullest: f64, growth: f64, longest: Duration, share: f64) -> Self {
        let least = cost.div_f64(share);
        let pause = least.mul_f64(SPARE).min(longest.max(least));
        let urgent = pause.min(least.div_f64(URGENT));
        let is_urgent = fullest >= FULL || growth * pause.as_secs_f64() >= GROWTH;
        Self {
            usual: if is_urgent { urgent } else { pause },
            urgent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(60);
    const SHARE: f64 = 0.002;

    fn of_ms(cost: u64, fullest: f64, growth: f64) -> u128 {
        let pause = Pause::after(Duration::from_millis(cost), fullest, growth, LONGEST, SHARE);
        pause.usual.as_millis()
    }

    #[test]
    fn walks_are_rare_unless_ports_run_out() {
        assert_eq!(of_ms(2, 0.0, 0.0), 1_600);
        assert_eq!(of_ms(2, 0.24, 0.06), 1_600);
        assert_eq!(of_ms(2, 0.25, 0.0), 100);
        // A tenth of the ports before the next walk.
        assert_eq!(of_ms(2, 0.0, 0.07), 100);
        assert_eq!(of_ms(20, 0.0, 0.006), 16_000);
        assert_eq!(of_ms(20, 0.0, 0.007), 1_000);
        assert_eq!(of_ms(100, 0.0, 0.001), 60_000);
        // The maximum interval, for any number of sockets.
        assert_eq!(of_ms(150, 0.0, 0.001), 75_000);
        assert_eq!(of_ms(150, 0.3, 0.0), 7_500);
    }

    #[test]
    fn the_share_of_a_cpu_is_a_setting() {
        let cost = Duration::from_millis(20);
        let pause = |share| Pause::after(cost, 0.0, 0.0, LONGEST, share).usual;
        assert_eq!(pause(0.01).as_millis(), 3_200);
        assert_eq!(pause(0.1).as_millis(), 320);
        // Longer than the longest, as each walk takes 20 ms of 200 seconds.
        assert_eq!(pause(0.0001).as_secs(), 200);
    }

    #[test]
    fn a_suspicion_makes_walks_urgent() {
        let pause = Pause::after(Duration::from_millis(20), 0.0, 0.0, LONGEST, SHARE);
        assert_eq!((pause.usual.as_secs(), pause.urgent.as_secs()), (16, 1));
    }
}
