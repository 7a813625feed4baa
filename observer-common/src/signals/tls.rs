//! TLS handshakes of programs that use OpenSSL, GnuTLS or Go's `crypto/tls`.

use core::mem::offset_of;

use crate::{
    BUCKETS, Histogram,
    histogram::{MS, S},
    metric::{CounterMetric, HistogramMetric, Part, Values},
    signal::SIGNAL_TLS,
};

/// OpenSSL and libraries with its interface (BoringSSL).
pub const TLS_OPENSSL: u32 = 0;
/// GnuTLS.
pub const TLS_GNUTLS: u32 = 1;
/// Go's `crypto/tls`.
pub const TLS_GO: u32 = 2;
/// Label values, in the order of those numbers.
pub const TLS_LIBRARIES: [&str; 3] = ["openssl", "gnutls", "go"];

/// The process is the client.
pub const TLS_CLIENT: u32 = 0;
/// The process is the server.
pub const TLS_SERVER: u32 = 1;
/// The probed function is the same for both roles.
pub const TLS_UNKNOWN: u32 = 2;
/// Label values, in the order of those numbers.
pub const TLS_ROLES: [&str; 3] = ["client", "server", "unknown"];

/// The library reported the handshake as complete.
pub const TLS_OK: usize = 0;
/// The library returned an error, or the connection was freed or the process ended before the handshake was complete.
pub const TLS_FAILED: usize = 1;
/// Label values, in the order of those numbers.
pub const TLS_RESULTS: [&str; 2] = ["ok", "failed"];

/// Maximum number of handshakes in progress, of all processes.
pub const MAX_TLS_HANDSHAKES: u32 = 16_384;

/// Maximum number of handshakes in progress of one process, so that none can fill the map.
pub const TLS_HANDSHAKES_SHARE: i64 = MAX_TLS_HANDSHAKES as i64 / 4;

/// Maximum number of running calls, of all threads.
pub const MAX_TLS_CALLS: u32 = 8_192;

/// Upper bounds of the durations, in nanoseconds.
pub const TLS_BOUNDS: [u64; BUCKETS - 1] = [
    MS,
    5 * MS,
    20 * MS,
    50 * MS,
    100 * MS,
    500 * MS,
    S,
    5 * S,
    20 * S,
    60 * S,
];

/// The function of a probe: the cookie of its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsCookie {
    /// A `TLS_` library.
    pub library: u32,
    /// A `TLS_` role.
    pub role: u32,
    /// OpenSSL: offset in bytes of `rwstate` in `SSL`, if it is known.
    pub rwstate: Option<u16>,
}

impl TlsCookie {
    /// As the cookie.
    #[must_use]
    #[inline(always)]
    pub fn to_bits(self) -> u64 {
        let rwstate = match self.rwstate {
            Some(offset) => 1 << 32 | u64::from(offset) << 16,
            None => 0,
        };
        rwstate | u64::from(self.role & 0xff) << 8 | u64::from(self.library & 0xff)
    }

    /// From [`Self::to_bits`].
    #[must_use]
    #[inline(always)]
    pub fn from_bits(bits: u64) -> Self {
        Self {
            library: bits as u32 & 0xff,
            role: (bits >> 8) as u32 & 0xff,
            rwstate: if bits >> 32 & 1 == 1 {
                Some((bits >> 16) as u16)
            } else {
                None
            },
        }
    }
}

/// Key of a handshake: the library's object of the connection, or Go's goroutine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct TlsKey {
    /// Address of the `SSL`, `gnutls_session_int` or `runtime.g`.
    pub object: u64,
    /// Process.
    pub tgid: u32,
    /// A `TLS_` library.
    pub library: u32,
}

crate::assert_layout!(TlsKey, 16, [object: u64, tgid: u32, library: u32]);

/// A handshake that is in progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TlsHandshake {
    /// When it began, `bpf_ktime_get_ns`.
    pub began_ns: u64,
    /// Slot of the process.
    pub slot: u32,
    /// Generation of the slot then.
    pub generation: u32,
    /// A `TLS_` role.
    pub role: u32,
    /// Zero.
    pub reserved: u32,
}

crate::assert_layout!(TlsHandshake, 24, [
    began_ns: u64,
    slot: u32,
    generation: u32,
    role: u32,
    reserved: u32,
]);

/// Key of a call of a handshake function that has not returned. It contains the stack pointer,
/// because the functions call each other (TLS within TLS), and because a fiber may continue in
/// another thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TlsCall {
    /// Stack pointer that the caller has when the function has returned.
    pub stack: u64,
    /// Process.
    pub tgid: u32,
    /// Zero.
    pub reserved: u32,
}

crate::assert_layout!(TlsCall, 16, [stack: u64, tgid: u32, reserved: u32]);

/// Output of the iterator over handshakes in progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TlsSeen {
    /// The handshake.
    pub key: TlsKey,
    /// Its start and owner.
    pub handshake: TlsHandshake,
}

crate::assert_layout!(TlsSeen, 40, [key: TlsKey, handshake: TlsHandshake]);

/// Counters of TLS handshakes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TlsCounters {
    /// By the `TLS_` numbers of library, role and result.
    pub ended: [[[u64; TLS_RESULTS.len()]; TLS_ROLES.len()]; TLS_LIBRARIES.len()],
    /// Durations of those that succeeded, by role.
    pub seconds: [Histogram; TLS_ROLES.len()],
}

crate::assert_layout!(TlsCounters, 144 + 3 * size_of::<Histogram>(), [
    ended: [[[u64; TLS_RESULTS.len()]; TLS_ROLES.len()]; TLS_LIBRARIES.len()],
    seconds: [Histogram; TLS_ROLES.len()],
]);

const HOOKS: &str = "uprobes on OpenSSL's state machine, `gnutls_handshake`, `crypto/tls.(*Conn).clientHandshake` and `.serverHandshake`";

/// Metrics of [`TlsCounters`].
pub const TLS_METRICS: &[CounterMetric] = &[CounterMetric {
    name: "socket_tls_handshakes_total",
    unit: "handshakes",
    labels: &["library", "role", "result"],
    hooks: HOOKS,
    help: "TLS handshakes that ended, one for each connection, whatever number of calls they took. failed: the library returned an error, or the connection was freed or the process ended before. If a server rejects a client's certificate, the client's handshake has already succeeded: the server counts the failure. For GnuTLS the role is unknown.",
    query: "sum by (comm, unit, role) (rate(socket_tls_handshakes_total{result=\"failed\"}[5m])) > 0",
    failures_from: None,
    process: None,
    parts: &[Part {
        signal: SIGNAL_TLS,
        offset: offset_of!(TlsCounters, ended),
        values: &[
            Values::Names(&TLS_LIBRARIES),
            Values::Names(&TLS_ROLES),
            Values::Names(&TLS_RESULTS),
        ],
    }],
}];

/// Metrics of [`TlsCounters`].
pub const TLS_HISTOGRAMS: &[HistogramMetric] = &[HistogramMetric {
    name: "socket_tls_handshake_seconds",
    hooks: HOOKS,
    help: "Durations of the TLS handshakes that succeeded, from the first call of the library until it is complete.",
    query: "histogram_quantile(0.99, sum by (le, comm, unit, role) (rate(socket_tls_handshake_seconds_bucket[5m])))",
    signal: SIGNAL_TLS,
    offset: offset_of!(TlsCounters, seconds),
    bounds: &TLS_BOUNDS,
    label: Some(("role", &TLS_ROLES)),
}];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_survives_the_kernel() {
        for rwstate in [None, Some(0), Some(0x28), Some(u16::MAX)] {
            for (library, role) in [(TLS_OPENSSL, TLS_SERVER), (TLS_GO, TLS_UNKNOWN)] {
                let cookie = TlsCookie {
                    library,
                    role,
                    rwstate,
                };
                assert_eq!(TlsCookie::from_bits(cookie.to_bits()), cookie);
            }
        }
    }
}
