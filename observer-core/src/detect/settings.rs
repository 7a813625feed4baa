//! The thresholds of the detectors. docs/detectors.md lists them.

use serde::{Deserialize, Deserializer, de};

/// A threshold as it is documented.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// Name.
    pub name: &'static str,
    /// Default.
    pub default: f64,
    /// What it is, its unit, and why it has this default.
    pub why: &'static [&'static str],
}

/// A number above 0: with 0, infinity or NaN a detector would always raise, or never.
fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let number = f64::deserialize(deserializer)?;
    if number.is_finite() && number > 0.0 {
        return Ok(number);
    }
    Err(de::Error::custom("a threshold is a number above 0"))
}

macro_rules! thresholds {
    ($($(#[doc = $doc:literal])+ $name:ident = $default:literal;)+) => {
        /// When detectors raise and clear.
        #[derive(Clone, Debug, PartialEq, Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        pub struct Thresholds {
            $(
                $(#[doc = $doc])+
                #[serde(deserialize_with = "positive")]
                pub $name: f64,
            )+
        }

        impl Default for Thresholds {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        /// All thresholds, in the order of the document.
        pub const DESCRIBED: &[Described] = &[
            $(Described { name: stringify!($name), default: $default, why: &[$($doc),+] },)+
        ];
    };
}

thresholds! {
    /// Seconds that a finding is raised at least, and for which what it is about must stay below the clear
    /// threshold before it clears: shorter ones would clear and raise again within one incident.
    min_raised_seconds = 30.0;
    /// Seconds that a finding is raised at least if it is the third of its kind within an hour: it
    /// comes and goes, and more lines would say nothing new.
    flapping_raised_seconds = 600.0;
    /// Seconds after which an unchanged finding is reported again.
    repeat_seconds = 600.0;
    /// RSTs per second that a storm has at least. Health checkers reset 0.5 to 1 connections per second each.
    rst_rate = 10.0;
    /// The same for a process or name that was watched too short a time to have a baseline: fifty checkers.
    rst_rate_new = 50.0;
    /// Multiple of the baseline that a storm has at least, so that what always resets is no storm.
    rst_ratio = 5.0;
    /// Fraction of the connections that ended in which an RST was sent or received. Busy servers have up to 8 %.
    rst_share = 0.2;
    /// The same without a baseline.
    rst_share_new = 0.5;
    /// Multiple of the baseline from which `rst_share_big` is enough: a storm amid much traffic.
    rst_ratio_big = 20.0;
    /// Fraction that is enough from `rst_ratio_big` times the baseline on.
    rst_share_big = 0.05;
    /// Of the last 10 seconds, those with half the rate or more. Restarts, closed tabs and ends of benchmarks last
    /// 1 to 2 seconds.
    rst_hot_seconds = 6.0;
    /// Of the last 60 seconds, those with half the rate or more, for a name. A rolling restart has pauses, a
    /// process per request has none.
    rst_name_hot_seconds = 54.0;
    /// Seconds after which a process has a baseline.
    rst_mature_seconds = 120.0;
    /// Seconds after which a name has a baseline: longer, because its restarts are part of it.
    rst_name_mature_seconds = 600.0;
    /// Half-life of the baseline in seconds.
    rst_half_life_seconds = 300.0;
    /// The same while a process is new: it has to have learnt by `rst_mature_seconds`.
    rst_half_life_new_seconds = 20.0;
    /// The same while a name is new.
    rst_name_half_life_new_seconds = 60.0;
    /// Seconds for which the baseline stays as it was while a storm is raised. What still goes on then is
    /// normal here.
    rst_chronic_seconds = 3600.0;
    /// Multiple of the rate from which a storm is critical.
    rst_critical_ratio = 10.0;
    /// RSTs per second below which a storm is over, if twice the baseline is not higher.
    rst_clear_rate = 2.0;
    /// Failed connects in 10 seconds.
    connect_failures = 10.0;
    /// Of the last 10 seconds, those with a failure: a restart of the backend takes 1 to 4.
    connect_failure_seconds = 6.0;
    /// Fraction of the connects of 10 seconds that failed. One dead address of two is half of them.
    connect_failure_share = 0.5;
    /// Of the last 120 seconds, those with a failure, for programs that try again every few seconds.
    connect_slow_failure_seconds = 10.0;
    /// Fraction of the connects of 120 seconds that failed: higher, as there are so few.
    connect_slow_failure_share = 0.8;
    /// Sockets that have waited in SYN_SENT for over 3 seconds: a destination that drops them shows now, and not
    /// after 127 seconds.
    connect_waiting = 10.0;
    /// Fraction of failed connects at which it clears.
    connect_clear_share = 0.1;
    /// Established connections that nothing answered any more, of 120 seconds.
    silent_peers = 10.0;
    /// Of the last 120 seconds, those with such an end: a host that was suspended, or one peer that is gone, ends all
    /// at once.
    silent_peers_seconds = 5.0;
    /// Fraction of the connections that ended in 120 seconds. Servers of mobile clients have a few per cent.
    silent_peers_share = 0.2;
    /// Blocked ports as a fraction of the available ones, on two walks: exhausted within seconds at any rate.
    ports_full = 0.85;
    /// The same if it will run out: above half of the range connect() searches the ports of both parities, which takes
    /// milliseconds.
    ports_half = 0.5;
    /// The same at which it clears.
    ports_clear = 0.4;
    /// Growth of live connections is reported if it takes all ports within so many seconds.
    ports_soon_seconds = 600.0;
    /// Critical if ports run out in less than so many seconds.
    ports_critical_seconds = 60.0;
    /// Ports blocked by TIME_WAIT as a fraction of the available ones.
    time_wait_now = 0.4;
    /// The same as it will be at the present rate: below, it comes to rest before the ports run out.
    time_wait_end = 0.8;
    /// Of the last 10 seconds, those in which a connection was closed without TIME_WAIT because
    /// `net.ipv4.tcp_max_tw_buckets` was reached. This is no forecast.
    time_wait_overflow_seconds = 2.0;
    /// Open descriptors as a fraction of the limit, for a rise over 7 s: the shorter the rise, the nearer the limit must be.
    fd_share_1s = 0.7;
    /// The same for a rise over 70 s.
    fd_share_10s = 0.4;
    /// The same for a rise over 7 min.
    fd_share_60s = 0.35;
    /// The same for a rise over 70 min.
    fd_share_600s = 0.35;
    /// Descriptors by which it rises at least.
    fd_rise = 6.0;
    /// Fraction of the limit by which it rises at least.
    fd_rise_share = 0.02;
    /// The limit must be reached within so many times what was seen of the rise: nothing is extrapolated
    /// further, so a descriptor a second under a limit of 1,048,576 is silent for 11 days.
    fd_horizon = 6.0;
    /// A rise that slows down must end above this fraction of the limit: a start-up does not.
    fd_end_share = 0.95;
    /// Fraction of the limit from which three seconds of growth are enough.
    fd_jump_share = 0.8;
    /// Seconds that such growth leaves until the limit.
    fd_jump_seconds = 10.0;
    /// A leak clears below this fraction of the highest number since it was raised, or of the number from which one
    /// may be raised: the limit may be a higher one by then.
    fd_clear_share = 0.9;
    /// Open descriptors as a fraction of the limit that is exhaustion although no call has failed.
    fd_full_share = 0.95;
    /// Seconds for which it must be that full: a trend is no longer seen there.
    fd_full_seconds = 300.0;
    /// Fraction of the limit below which exhaustion clears.
    fd_full_clear_share = 0.9;
    /// Sockets in CLOSE_WAIT for over 60 seconds. Client pools keep some for hours; the growth is the leak.
    close_wait_least = 20.0;
    /// Fraction of them by which they grew, by the median of the slopes: a pool whose peers close it at once is one step.
    close_wait_rise_share = 0.5;
    /// Sockets in CLOSE_WAIT for over 10 seconds, if they are `close_wait_fd_share` of the descriptor limit.
    close_wait_few = 8.0;
    /// Fraction of the descriptor limit that they take, for programs with a small limit.
    close_wait_fd_share = 0.25;
    /// Sockets in CLOSE_WAIT for over 60 seconds below which it clears.
    close_wait_clear = 10.0;
    /// Connections that have waited for `--stall-after` for a peer that has closed its window, does not acknowledge or has
    /// sent nothing yet; or for 60 seconds for the answer to a request. Two or three slow peers are normal.
    read_stall = 5.0;
    /// Fraction of the process's connections in use that do: busy servers have slow clients. Those that have been nobody's
    /// turn for 10 seconds are not in use.
    read_stall_share = 0.25;
    /// The same with answers, of the connections in use that the process opened: a few slow queries are normal.
    read_stall_answer_share = 0.5;
    /// Score below which it clears.
    read_stall_clear_share = 0.5;
    /// Connections whose data the program has not read for `--stall-after`.
    not_reading = 3.0;
    /// Fraction of the process's connections in ESTABLISHED and in use: a proxy stops reading from a client while its
    /// server is slow.
    not_reading_share = 0.5;
    /// Connections that have been quiet for 10 seconds and nobody's turn. Pools of a few dozens are normal, and so is
    /// that they grow once.
    idle_pool_least = 50.0;
    /// Fraction of them by which they grew over seven buckets of 30 seconds (connections opened here) or 300 (all), by
    /// the median of the slopes.
    idle_pool_rise_share = 0.5;
    /// A rise that slows down must end above this multiple of them: a pool that fills up does not.
    idle_pool_end = 1.5;
    /// Fraction of the highest number since it was raised below which it clears.
    idle_pool_clear_share = 0.8;
    /// Seconds without a new highest number after which it clears: a pool has reached its limit.
    idle_pool_rest_seconds = 600.0;
    /// Seconds from which a TLS handshake takes too long: with a lost segment on each way it takes 3.
    tls_slow_seconds = 5.0;
    /// TLS handshakes in progress that take too long. One or two are clients that vanished, or scanners.
    tls_stall = 3.0;
    /// The same as a fraction of the process's connections: a pool that waits for a tenth of them is short of them, and
    /// a server with some slow clients is not.
    tls_stall_share = 0.1;
    /// Connection requests dropped in 10 seconds because the accept queue was full.
    listen_overflows = 5.0;
    /// Of the last 10 seconds, those with such a drop: a burst comes again after 1 and 3 s, a slow program always.
    listen_overflow_seconds = 4.0;
    /// Fraction of its maximum to which the accept queue of a listening socket is filled.
    listen_full = 0.8;
    /// Seconds for which it is so full, at each tick.
    listen_full_seconds = 5.0;
    /// Seconds without overflow before it clears.
    listen_hold_seconds = 60.0;
    /// Distinct closed ports that one source tried within 60 s. A stray client tries one to three.
    scan_ports = 15.0;
    /// Seconds without such a segment, or with less than half as many ports, before it clears.
    scan_hold_seconds = 60.0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_set_some() {
        let set: Thresholds = toml::from_str("rst-rate = 20\nfd-horizon = 3.5").unwrap();
        let expected = Thresholds {
            rst_rate: 20.0,
            fd_horizon: 3.5,
            ..Thresholds::default()
        };
        assert_eq!(set, expected);
        for wrong in [
            "rst-rat = 20",
            "rst-rate = 0",
            "rst-rate = -1",
            "rst-rate = nan",
        ] {
            assert!(toml::from_str::<Thresholds>(wrong).is_err(), "{wrong}");
        }
    }
}
