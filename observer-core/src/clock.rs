//! Converts CLOCK_MONOTONIC to wall-clock time.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

const DAY: i128 = 86_400_000_000_000;

/// Offsets of the wall clock from CLOCK_MONOTONIC, and of local time from UTC. The first changes when
/// the clock is set and when the machine suspends, the second twice a year, so that they have to be
/// read again periodically.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// CLOCK_REALTIME minus CLOCK_MONOTONIC, in nanoseconds.
    pub realtime_offset_ns: i64,
    /// Local time minus UTC, in seconds.
    pub utc_offset_s: i32,
}

impl Clock {
    /// The current offsets.
    #[must_use]
    pub fn now() -> Self {
        let read = |id| clock_gettime(id).map(Duration::from).unwrap_or_default();
        let (realtime, monotonic) = (
            read(ClockId::CLOCK_REALTIME),
            read(ClockId::CLOCK_MONOTONIC),
        );
        let difference = realtime.as_nanos() as i128 - monotonic.as_nanos() as i128;
        Self {
            realtime_offset_ns: i64::try_from(difference).unwrap_or_default(),
            utc_offset_s: utc_offset(realtime.as_secs() as libc::time_t),
        }
    }

    fn unix_ns(self, monotonic_ns: u64) -> i128 {
        i128::from(monotonic_ns) + i128::from(self.realtime_offset_ns)
    }

    /// `HH:MM:SS.mmm` in local time.
    #[must_use]
    pub fn local(self, monotonic_ns: u64) -> String {
        let local = self.unix_ns(monotonic_ns) + i128::from(self.utc_offset_s) * 1_000_000_000;
        let ms = local.rem_euclid(DAY) / 1_000_000;
        let (s, ms) = (ms / 1000, ms % 1000);
        format!("{:02}:{:02}:{:02}.{ms:03}", s / 3600, s / 60 % 60, s % 60)
    }

    /// [`Self::rfc3339`] of a time since boot as the detectors have it.
    #[must_use]
    pub fn rfc3339_at(self, monotonic: Duration) -> String {
        self.rfc3339(u64::try_from(monotonic.as_nanos()).unwrap_or(u64::MAX))
    }

    /// RFC 3339 in UTC, to the microsecond.
    #[must_use]
    pub fn rfc3339(self, monotonic_ns: u64) -> String {
        // humantime writes years up to 9999 and fails on others.
        const LAST: i128 = 253_402_300_799_000_000_000;
        let ns = self.unix_ns(monotonic_ns).clamp(0, LAST) as u64;
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(ns);
        humantime::format_rfc3339_micros(time).to_string()
    }
}

fn utc_offset(unix_s: libc::time_t) -> i32 {
    let mut local = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live values of the right type, and localtime_r keeps
    // neither. It reads TZ, which nothing in this program sets.
    let found = unsafe { libc::localtime_r(&raw const unix_s, local.as_mut_ptr()) };
    if found.is_null() {
        return 0;
    }
    // SAFETY: every field is an integer or a pointer, for which the zeroes above are valid
    // already, and localtime_r has filled them in.
    let local = unsafe { local.assume_init() };
    i32::try_from(local.tm_gmtoff).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_time_wraps_around_midnight() {
        let clock = |utc_offset_s| Clock {
            realtime_offset_ns: 0,
            utc_offset_s,
        };
        let ns = 86_399_999_000_000;
        assert_eq!(clock(0).local(ns), "23:59:59.999");
        assert_eq!(clock(3600).local(ns), "00:59:59.999");
        assert_eq!(clock(-19_800).local(0), "18:30:00.000");
    }

    #[test]
    fn rfc3339_has_microseconds_and_survives_nonsense() {
        let clock = Clock {
            realtime_offset_ns: 1_795_303_302_000_000_000,
            utc_offset_s: 7200,
        };
        assert_eq!(clock.rfc3339(123_456_789), "2026-11-21T23:21:42.123456Z");
        let broken = Clock {
            realtime_offset_ns: i64::MIN,
            utc_offset_s: i32::MIN,
        };
        assert_eq!(broken.rfc3339(0), "1970-01-01T00:00:00.000000Z");
        let _ = broken.local(u64::MAX);
        let far = Clock {
            realtime_offset_ns: i64::MAX,
            utc_offset_s: i32::MAX,
        };
        let _ = far.rfc3339(u64::MAX);
        let _ = far.local(u64::MAX);
    }

    #[test]
    fn now_agrees_with_the_system() {
        let clock = Clock::now();
        let monotonic = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
        let unix = clock.unix_ns(monotonic.as_nanos() as u64);
        let system = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        assert!((unix - system.as_nanos() as i128).abs() < 5_000_000_000);
        assert!(clock.utc_offset_s.abs() <= 15 * 3600);
    }
}
