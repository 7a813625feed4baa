//! Computes the interval between walks.

use std::time::Duration;

/// A walk is followed by a pause of this many times its CPU time, so that walks take at most 1/800 of a
/// CPU.
const PAUSE: u32 = 800;

/// The same if that pause is longer than the longest: at most 1/500 of a CPU.
const LEAST_PAUSE: u32 = 500;

/// The same while the ports of a destination run out: at most 1/50 of a CPU.
const URGENT_PAUSE: u32 = 50;

/// Fraction of a destination's ports from which on the next walk is urgent.
const FULL: f64 = 0.25;

/// Growth of that fraction until the next walk that makes it urgent.
const GROWTH: f64 = 0.10;

/// Pause after a walk that took `cost` of CPU time, found the `fullest` destination with this fraction of its
/// ports blocked, and one with `growth` of that fraction per second. No longer than `longest`, unless there are
/// so many sockets that walks would cost too much.
#[must_use]
pub fn pause(cost: Duration, fullest: f64, growth: f64, longest: Duration) -> Duration {
    let pause = (cost * PAUSE).min(longest.max(cost * LEAST_PAUSE));
    let urgent = fullest >= FULL || growth * pause.as_secs_f64() >= GROWTH;
    if urgent {
        pause.min(cost * URGENT_PAUSE)
    } else {
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(60);

    fn of_ms(cost: u64, fullest: f64, growth: f64) -> u128 {
        pause(Duration::from_millis(cost), fullest, growth, LONGEST).as_millis()
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
}
