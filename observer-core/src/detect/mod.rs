//! Detectors, which evaluate samples of the whole host: what is wrong, which process causes it, and why.
//!
//! A detector assesses one part of each [`Sample`] (`detector`, and a file for each anomaly); the engine keeps
//! one for each subject, raises and clears their findings by common rules (`flag`), and leaves out what another
//! finding explains. Everything is deterministic: a sample has its own time.

mod anomaly;
mod attempts;
mod board;
pub mod cause;
mod close_wait_leak;
mod connect_failures;
mod detector;
mod engine;
mod fd_exhaustion;
mod fd_leak;
mod finding;
mod flag;
mod gather;
mod host;
mod idle_pool_leak;
mod listen_overflow;
mod port_exhaustion;
mod program_not_reading;
mod quic_0rtt_lost;
mod read_stall;
mod recorded_binds;
mod recorded_peers;
mod reset_peers;
mod rst_storm;
mod sample;
mod settings;
mod silent_peers;
mod summary;
mod syn_scan;
mod time_wait;
mod tls_failures;
mod tls_stall;
mod windows;

#[cfg(test)]
mod documented;
#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod simulated;

pub use anomaly::Anomaly;
pub use board::{Board, CHANGES, Entry, FINDINGS, Limit, TOTALS, Unlisted};
pub use cause::{Cause, Explanation};
pub use connect_failures::{connect_causes, failed_connects};
pub use engine::Engine;
pub use finding::{
    Awaited, Breakdown, Change, Direction, Elsewhere, Evidence, Finding, Holder, KindCount,
    PeerShare, Scanned, Severity, Subject, Waiting,
};
pub use gather::{Gatherer, Inputs};
pub use host::Host;
pub use recorded_binds::RecordedBinds;
pub use recorded_peers::{RecordedPeers, Suspected};
pub use rst_storm::{cut_off, cut_off_cause};
pub use sample::{
    ConnectResult, CounterClasses, Counts, Culprits, Descriptors, Listener, Name, Namespace, Ports,
    Process, ReceivedReset, Sample, SearchesFailedAt, SentReset, Source, Worker,
};
pub use settings::{DESCRIBED, Described, Thresholds};
pub use summary::{change_summary, duration, finding_summary, headline, named, number, who};
pub use syn_scan::ports as scanned_ports;
pub use tls_failures::{Handshakes, LATELY};

#[cfg(any(test, feature = "testing"))]
pub use board::testing;
