//! What can be wrong.

use serde::Serialize;

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Anomaly {
    /// Many connections are reset, for longer than a restart takes.
    RstStorm,
    /// Most connects fail.
    ConnectFailures,
    /// Established connections end because nothing answers them.
    SilentPeers,
    /// Local ports for a destination run out.
    PortExhaustion,
    /// A client's sockets in TIME_WAIT will take most ports for a destination.
    TimeWaitSurge,
    /// Connections of a network namespace are closed without TIME_WAIT, because there were too many.
    TimeWaitOverflow,
    /// Open descriptors grow towards the limit.
    FdLeak,
    /// Calls fail because descriptors ran out, or few are left.
    FdExhaustion,
    /// Sockets that the peer has closed are not closed.
    CloseWaitLeak,
    /// Connections wait for peers that do not answer, read or acknowledge.
    ReadStall,
    /// A program does not read what it was sent.
    ProgramNotReading,
    /// Connections that carry nothing become more.
    IdlePoolLeak,
    /// Most TLS handshakes of a client fail.
    TlsFailures,
    /// TLS handshakes do not end.
    TlsStall,
    /// What was sent as early data of QUIC is lost.
    #[serde(rename = "quic_0rtt_lost")]
    Quic0RttLost,
    /// Connection requests are dropped because the accept queue is full.
    ListenOverflow,
    /// One source tries many closed ports.
    SynScan,
}

impl Anomaly {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::RstStorm,
        Self::ConnectFailures,
        Self::SilentPeers,
        Self::PortExhaustion,
        Self::TimeWaitSurge,
        Self::TimeWaitOverflow,
        Self::FdLeak,
        Self::FdExhaustion,
        Self::CloseWaitLeak,
        Self::ReadStall,
        Self::ProgramNotReading,
        Self::IdlePoolLeak,
        Self::TlsFailures,
        Self::TlsStall,
        Self::Quic0RttLost,
        Self::ListenOverflow,
        Self::SynScan,
    ];

    /// Label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RstStorm => "rst_storm",
            Self::ConnectFailures => "connect_failures",
            Self::SilentPeers => "silent_peers",
            Self::PortExhaustion => "port_exhaustion",
            Self::TimeWaitSurge => "time_wait_surge",
            Self::TimeWaitOverflow => "time_wait_overflow",
            Self::FdLeak => "fd_leak",
            Self::FdExhaustion => "fd_exhaustion",
            Self::CloseWaitLeak => "close_wait_leak",
            Self::ReadStall => "read_stall",
            Self::ProgramNotReading => "program_not_reading",
            Self::IdlePoolLeak => "idle_pool_leak",
            Self::TlsFailures => "tls_failures",
            Self::TlsStall => "tls_stall",
            Self::Quic0RttLost => "quic_0rtt_lost",
            Self::ListenOverflow => "listen_overflow",
            Self::SynScan => "syn_scan",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_same_names_as_metrics() {
        for anomaly in Anomaly::ALL {
            let json = serde_json::to_value(anomaly).unwrap();
            assert_eq!(json, anomaly.name());
        }
    }
}
