//! The thresholds of the detectors. docs/detectors.md lists them.

use serde::{Deserialize, Deserializer, de};

/// A threshold as it is documented.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// Name.
    pub name: &'static str,
    /// Default.
    pub default: f64,
    /// Meaning, unit, and reason for the default.
    pub why: &'static [&'static str],
}

/// A number above 0, and with `FRACTION` up to 1: with others a detector would always raise, or never.
struct Given<const FRACTION: bool>(f64);

impl<'de, const FRACTION: bool> Deserialize<'de> for Given<FRACTION> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        let (max, expected) = match FRACTION {
            true => (
                1.0,
                "this threshold is a fraction: a number above 0 and up to 1",
            ),
            false => (f64::MAX, "a threshold is a number above 0"),
        };
        if number > 0.0 && number <= max {
            return Ok(Self(number));
        }
        Err(de::Error::custom(expected))
    }
}

macro_rules! thresholds {
    ($($(#[doc = $doc:literal])+ $name:ident = $default:literal $($fraction:ident)?;)+) => {
        /// When detectors raise and clear.
        #[derive(Clone, Debug, PartialEq, Deserialize)]
        #[serde(from = "GivenThresholds")]
        pub struct Thresholds {
            $(
                $(#[doc = $doc])+
                pub $name: f64,
            )+
        }

        /// Those that the file has.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        struct GivenThresholds {
            $($name: Option<Given<{ thresholds!(@is $($fraction)?) }>>,)+
        }

        impl From<GivenThresholds> for Thresholds {
            fn from(given: GivenThresholds) -> Self {
                Self { $($name: given.$name.map_or($default, |it| it.0),)+ }
            }
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
    (@is) => { false };
    (@is fraction) => { true };
}

thresholds! {
    /// Minimum duration of a finding, and how long the statistic must stay below the clear
    /// threshold before it clears, in seconds: with less, a finding would clear and be raised again
    /// within one incident.
    min_raised_seconds = 30.0;
    /// Minimum duration in seconds of a finding that is the last of `flapping_raises`: the
    /// condition flaps, and further log lines would add nothing.
    flapping_raised_seconds = 600.0;
    /// Number of raises within `flapping_within_seconds` that is flapping: two may be two incidents.
    flapping_raises = 3.0;
    /// Seconds in which that many raises are flapping.
    flapping_within_seconds = 3600.0;
    /// Seconds for which a finding stays hidden after the one that explains it has cleared: its windows still contain the
    /// incident.
    hidden_seconds = 60.0;
    /// Seconds after which an unchanged finding is reported again.
    repeat_seconds = 600.0;
    /// Minimum of RSTs per second in a storm. Each health checker resets 0.5 to 1 connections per second.
    rst_rate = 10.0;
    /// `rst_rate` for a process or name that is too new to have a baseline: fifty health checkers.
    rst_rate_new = 50.0;
    /// Minimum multiple of the baseline in a storm, so that a constant rate of RSTs is no storm.
    rst_ratio = 5.0;
    /// Minimum fraction of ended connections with an RST sent or received. Busy servers have up to 8 %.
    rst_share = 0.2 fraction;
    /// `rst_share` without a baseline.
    rst_share_new = 0.5 fraction;
    /// Multiple of the baseline from which `rst_share_big` replaces `rst_share`: a storm within much other traffic.
    rst_ratio_big = 20.0;
    /// Minimum fraction of ended connections from `rst_ratio_big` times the baseline on.
    rst_share_big = 0.05 fraction;
    /// Fraction of the rate from which a second counts: a storm is not the same in each second.
    rst_hot_share = 0.5 fraction;
    /// Number of the last 10 seconds with at least that fraction of the rate. Restarts, closed tabs and ends of
    /// benchmarks last 1 to 2 seconds.
    rst_hot_seconds = 6.0;
    /// Number of the last 60 seconds with at least that fraction of the rate, for a name. A rolling restart has
    /// pauses, a process per request has none.
    rst_name_hot_seconds = 54.0;
    /// Seconds after which a process has a baseline.
    rst_mature_seconds = 120.0;
    /// Seconds after which a name has a baseline: longer, because the baseline of a name includes restarts.
    rst_name_mature_seconds = 600.0;
    /// Half-life of the baseline in seconds.
    rst_half_life_seconds = 300.0;
    /// Half-life of the baseline while a process is new, so that the baseline is settled after `rst_mature_seconds`.
    rst_half_life_new_seconds = 20.0;
    /// Half-life of the baseline while a name is new.
    rst_name_half_life_new_seconds = 60.0;
    /// Seconds for which the baseline is frozen while a storm is raised. A rate that continues after that becomes the
    /// baseline.
    rst_chronic_seconds = 3600.0;
    /// Maximum multiple of the baseline plus 1 that a second adds to the baseline: a burst must not hide a later storm.
    rst_burst_ratio = 3.0;
    /// Multiple of the rate from which a storm is critical.
    rst_critical_ratio = 10.0;
    /// RSTs per second below which a storm clears, or `rst_clear_ratio` if that is higher.
    rst_clear_rate = 2.0;
    /// Multiple of the baseline below which a storm clears.
    rst_clear_ratio = 2.0;
    /// Failed connects in 10 seconds.
    connect_failures = 10.0;
    /// Number of the last 10 seconds with a failed connect: a restart of the backend takes 1 to 4.
    connect_failure_seconds = 6.0;
    /// Fraction of failed connects in 10 seconds. One dead address of two makes half of them fail.
    connect_failure_share = 0.5 fraction;
    /// Number of the last 120 seconds with a failed connect, for programs that retry every few seconds.
    connect_slow_failure_seconds = 10.0;
    /// Fraction of failed connects in 120 seconds: higher, because there are few connects.
    connect_slow_failure_share = 0.8 fraction;
    /// Sockets that have been in SYN_SENT for over 3 seconds, so that a destination that drops SYNs
    /// is found at once and not after 127 seconds.
    connect_waiting = 10.0;
    /// Fraction of failed connects below which the finding clears.
    connect_clear_share = 0.1 fraction;
    /// Established connections that ended in 120 seconds because the peer no longer answered.
    silent_peers = 10.0;
    /// Number of the last 120 seconds with such an end: if this host was suspended, or a single
    /// peer is gone, all connections end at once.
    silent_peers_seconds = 5.0;
    /// Such ends as a fraction of all connections that ended in 120 seconds. Servers of mobile clients have a few per cent.
    silent_peers_share = 0.2 fraction;
    /// Fraction of `silent_peers` below which the finding clears.
    silent_peers_clear_share = 0.5 fraction;
    /// Blocked ports as a fraction of the available ports, at consecutive walks: at most seconds are left.
    ports_full = 0.85 fraction;
    /// Number of those walks: a single one may be in the middle of a burst.
    ports_full_walks = 2.0;
    /// Blocked ports as a fraction of the available ports, if the forecast says that they run out.
    /// Above half of the range connect() searches ports of both parities, which takes milliseconds.
    ports_half = 0.5 fraction;
    /// Seconds for which that fraction must be blocked, because a client may slow down when its searches take long, and the
    /// rate from which the time left is computed is then another one. A quarter of the time left if that is shorter.
    ports_half_seconds = 3.0;
    /// Blocked ports as a fraction of the available ports below which the finding clears.
    ports_clear = 0.4 fraction;
    /// Growth of live connections is reported if it uses up all ports within this number of seconds.
    ports_soon_seconds = 600.0;
    /// The finding is critical if ports run out in less than this number of seconds.
    ports_critical_seconds = 60.0;
    /// Ports blocked by TIME_WAIT as a fraction of the available ones.
    time_wait_now = 0.4 fraction;
    /// Forecast of the ports blocked by TIME_WAIT, as that fraction, at the present rate: below
    /// this value, their number levels off before the ports run out.
    time_wait_end = 0.8;
    /// Number of the last 10 seconds in which a connection was closed without TIME_WAIT because
    /// `net.ipv4.tcp_max_tw_buckets` was reached. This is no forecast.
    time_wait_overflow_seconds = 2.0;
    /// Open descriptors as a fraction of the limit, for a rise over 7 s: the shorter the rise, the higher the fraction must
    /// be.
    fd_share_1s = 0.7 fraction;
    /// Open descriptors as a fraction of the limit, for a rise over 70 s.
    fd_share_10s = 0.4 fraction;
    /// Open descriptors as a fraction of the limit, for a rise over 7 min.
    fd_share_60s = 0.35 fraction;
    /// Open descriptors as a fraction of the limit, for a rise over 70 min.
    fd_share_600s = 0.35 fraction;
    /// Minimum rise in descriptors.
    fd_rise = 6.0;
    /// Minimum rise as a fraction of the limit.
    fd_rise_share = 0.02 fraction;
    /// The forecast must reach the limit within this multiple of the observed duration of the rise;
    /// it is not extrapolated further. A leak of one descriptor per second below a limit of
    /// 1,048,576 is not reported for 11 days.
    fd_horizon = 6.0;
    /// A rise that slows down must level off above this fraction of the limit: that of a starting program does not.
    fd_end_share = 0.95 fraction;
    /// Fraction of the limit from which growth in a few consecutive measurements is enough.
    fd_jump_share = 0.8 fraction;
    /// Number of those measurements: jobs that open and close descriptors grow in one or two.
    fd_jump_measurements = 3.0;
    /// Maximum number of seconds until the limit is reached by such growth.
    fd_jump_seconds = 10.0;
    /// A leak clears below this fraction of the highest number since it was raised, or of the
    /// number from which a leak is raised, because the limit may have been raised since.
    fd_clear_share = 0.9 fraction;
    /// Seconds without a new highest number after which a leak clears: a cache or pool is full. A slow leak may take two
    /// buckets of 600 s.
    fd_rest_seconds = 1800.0;
    /// Open descriptors as a fraction of the limit that counts as exhaustion even if no call has failed.
    fd_full_share = 0.95 fraction;
    /// Seconds for which that fraction must be exceeded: near the limit, no rise can be seen.
    fd_full_seconds = 300.0;
    /// Fraction of the limit below which exhaustion clears.
    fd_full_clear_share = 0.9 fraction;
    /// Sockets in CLOSE_WAIT for over 60 seconds. Client pools keep some for hours; only growth is a leak.
    close_wait_least = 20.0;
    /// Minimum growth as a fraction of their number, by the median of the slopes: if the peers of a
    /// pool close all connections at once, that is one step and no growth.
    close_wait_rise_share = 0.5;
    /// Sockets in CLOSE_WAIT for over 10 seconds, if they are `close_wait_fd_share` of the descriptor limit.
    close_wait_few = 8.0;
    /// Fraction of the descriptor limit that these sockets use, for programs with a small limit.
    close_wait_fd_share = 0.25 fraction;
    /// Sockets in CLOSE_WAIT for over 60 seconds below which the finding clears.
    close_wait_clear = 10.0;
    /// Connections that have waited for `--stall-after` for a peer that has closed its window, does not acknowledge or has
    /// sent nothing yet; or for 60 seconds for the answer to a request. Two or three slow peers are normal.
    read_stall = 5.0;
    /// Waiting connections as a fraction of the process's connections in use: busy servers have
    /// slow clients. Connections that have been nobody's turn for 10 seconds are not in use.
    read_stall_share = 0.25 fraction;
    /// Connections without an answer as a fraction of the connections in use that the process
    /// opened: a few slow queries are normal.
    read_stall_answer_share = 0.5 fraction;
    /// Score below which the finding clears.
    read_stall_clear_share = 0.5 fraction;
    /// Of the waiting connections of a name, those with one peer as a fraction: processes of a name may have nothing to do
    /// with each other, and each may wait for something.
    read_stall_peer_share = 0.5 fraction;
    /// Of the waiting connections of a name, those of clients to whom its processes owe a first answer for `--stall-after`, as
    /// a fraction: workers that wait for something to do, or for nothing as they ship logs, let nobody wait.
    read_stall_owed_share = 0.5;
    /// Connections in 10 or 60 seconds that the program closed after it had waited for an answer for 1.5 s or longer. A
    /// few requests that time out are normal.
    gave_up = 10.0;
    /// Seconds of 10 with at least one: a program that ends closes all of them at once.
    gave_up_seconds = 5.0;
    /// The same of 60: programs that try again every few seconds.
    gave_up_slow_seconds = 8.0;
    /// Those connections as a fraction of all that ended in the same time or are in use.
    gave_up_share = 0.5 fraction;
    /// Connections that the program has closed and the peer has not for 2 seconds (FIN_WAIT2) as a fraction of those: a
    /// server that hangs does not notice that its client has gone. One that had nothing to say closes its side at once, as
    /// collectors of logs do.
    gave_up_open_share = 0.5;
    /// Connections whose data the program has not read for `--stall-after`.
    not_reading = 3.0;
    /// Those connections as a fraction of the process's connections in ESTABLISHED and in use: a
    /// proxy stops reading from a client while its server is slow.
    not_reading_share = 0.5 fraction;
    /// Score below which the finding clears.
    not_reading_clear_share = 0.5 fraction;
    /// Connections without data for 10 seconds in which it is nobody's turn. Pools of a few dozen
    /// connections that grow once are normal.
    idle_pool_least = 50.0;
    /// Minimum growth as a fraction of their number over seven buckets of 30 seconds (connections
    /// opened by the process) or 300 seconds (all), by the median of the slopes.
    idle_pool_rise_share = 0.5;
    /// Growth since the last bucket as a fraction of the mean from one bucket to the next: a pool that has filled up grows
    /// no more.
    idle_pool_step_share = 0.5;
    /// Connections without data for two buckets as a fraction of their number. In a pool that grows with its users, most
    /// are used more often.
    idle_pool_unused_share = 0.6 fraction;
    /// The finding clears below this fraction of the highest number since it was raised.
    idle_pool_clear_share = 0.8 fraction;
    /// Seconds without a new highest number after which the finding clears: the pool has reached its limit.
    idle_pool_rest_seconds = 600.0;
    /// TLS handshakes of a client that failed in 10 or 120 seconds. A few are connections that it opened in advance or
    /// gave up.
    tls_failures = 10.0;
    /// Number of the last 10 seconds with one: a server that restarts is away for 1 to 4.
    tls_failures_seconds = 6.0;
    /// Number of the last 120 seconds with one, for programs that try again every few seconds.
    tls_failures_slow_seconds = 10.0;
    /// Fraction of the handshakes that failed. A client that tries two addresses at once, and goes on with the faster one,
    /// ends half of its handshakes itself.
    tls_failures_share = 0.8 fraction;
    /// Fraction below which the finding clears: more than that half.
    tls_failures_clear_share = 0.6 fraction;
    /// Duration in seconds from which a TLS handshake is too slow: with one lost segment in each direction it takes 3.
    tls_slow_seconds = 5.0;
    /// TLS handshakes in progress that are too slow. One or two are normal: vanished clients, or scanners.
    tls_stall = 3.0;
    /// Slow handshakes as a fraction of the process's connections: a pool that waits for a tenth of
    /// its connections is affected, a server with a few slow clients is not.
    tls_stall_share = 0.1 fraction;
    /// Score below which the finding clears.
    tls_stall_clear_share = 0.5 fraction;
    /// Connections of QUIC that lost their early data in 10 minutes: after a rejection streams were cancelled and reset,
    /// or the connection was closed. One or two are users who gave up, or a program that ends.
    quic_0rtt_lost = 3.0;
    /// Fraction of the rejected ones that were closed, without which those do not count: a program that goes on with
    /// most knows how to.
    quic_0rtt_abandoned_share = 0.5 fraction;
    /// Connections of QUIC with early data that ended in 10 minutes before the server had answered. A server that
    /// restarts is back before a client gives up (5 s).
    quic_0rtt_failed = 10.0;
    /// Seconds in which they ended: a pool loses all its connections at once when a server is away for some seconds.
    quic_0rtt_failed_seconds = 3.0;
    /// The same as a fraction of those with early data. A client that has to begin again with another QUIC version, or
    /// tries IPv4 and IPv6 at once, has half.
    quic_0rtt_failed_share = 0.8 fraction;
    /// Score below which the finding clears.
    quic_0rtt_clear_share = 0.5 fraction;
    /// Connection requests dropped in 10 seconds because the accept queue was full.
    listen_overflows = 5.0;
    /// Number of the last 10 seconds with such a drop: retries after a burst come after 1 and 3 s,
    /// those of a slow program in every second.
    listen_overflow_seconds = 4.0;
    /// Fraction of its maximum to which the accept queue of a listening socket is filled.
    listen_full = 0.8 fraction;
    /// Seconds for which the queue must be that full, at each tick.
    listen_full_seconds = 5.0;
    /// Connections that have waited for accept() for `--stall-after`: a server that is busy for a moment accepts within
    /// seconds.
    listen_stalled = 3.0;
    /// Seconds without overflow before the finding clears.
    listen_hold_seconds = 60.0;
    /// Distinct closed ports that one source tried within 60 s. A stray client tries one to three.
    scan_ports = 15.0;
    /// Seconds without such a segment, or with fewer ports than `scan_clear_share`, before the finding clears.
    scan_hold_seconds = 60.0;
    /// Seconds without a segment after which a scan counts as silent: a slow scan tries a port a second.
    scan_silent_seconds = 2.0;
    /// Fraction of `scan_ports` below which the source is a stray client. Each minute, ports are counted from zero, so a scan is
    /// below this value for a moment then, too.
    scan_clear_share = 0.5 fraction;
}

impl Thresholds {
    /// Open descriptors as a fraction of the limit below which their number raises no finding.
    #[must_use]
    pub fn fd_least_share(&self) -> f64 {
        let shares = [
            self.fd_share_1s,
            self.fd_share_10s,
            self.fd_share_60s,
            self.fd_share_600s,
            self.fd_jump_share,
            self.fd_full_share,
        ];
        shares.into_iter().fold(1.0, f64::min)
    }
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
            "rst-rate = inf",
            "rst-share = 1.1",
            "rst-share = nan",
            "listen-full = 80",
        ] {
            assert!(toml::from_str::<Thresholds>(wrong).is_err(), "{wrong}");
        }
        let error = toml::from_str::<Thresholds>("rst-share = 20").unwrap_err();
        let error = error.to_string();
        for part in ["rst-share", "above 0 and up to 1"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(toml::from_str::<Thresholds>("rst-share = 1").is_ok());
        assert!(toml::from_str::<Thresholds>("time-wait-end = 1.5").is_ok());
    }
}
