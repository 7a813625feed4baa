//! The table of processes and names: the slot of each process, the name (comm and unit) it counts
//! for, and the processes with series by pid.
//!
//! Counters stay in the kernel's slots and are read at scrape time; the table adds only information
//! that the kernel does not have. Invariants, each with a test:
//!
//! * a counter of a name increases by exactly the events of its processes: it never decreases, and
//!   nothing is moved into it (`properties.rs`);
//! * a series of a process has what its slot has, and ends with the process;
//! * the number of series is bounded by [`TableConfig::max_names`] and
//!   [`TableConfig::max_processes`];
//! * no two series have the same labels, for any bytes in a comm.
//!
//! The table takes its time, kernel and process facts as arguments: it is deterministic.

mod entry;
mod facts;
mod failed_binds;
mod failed_calls;
mod freed_slots;
mod handshakes;
mod housekeeping;
mod in_progress;
mod labels;
mod listener_stats;
mod listeners;
mod names;
mod naming;
mod port_views;
mod ports;
mod priority;
mod shown;
mod snapshot;
mod store;
mod sum;
mod sysctls;
mod tally;
mod totals;
mod view;

#[cfg(any(test, feature = "testing"))]
pub mod fake;
#[cfg(test)]
mod handshakes_tests;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod sockets_tests;
#[cfg(test)]
mod tests;

pub use facts::{Description, Liveness, ProcessFacts, Resources};
pub use failed_calls::{FailedBind, FailedBinds, FailedCall};
pub use in_progress::{Handshakes, OfProcesses};
pub(crate) use labels::escape_into;
pub use labels::{Labels, OTHER, SESSIONS, UNATTRIBUTED, name_of, printable};
pub(crate) use listener_stats::ADDRESSES;
pub use listener_stats::{ListenAddress, ListenerStats};
pub(crate) use names::{FIXED as FIXED_NAMES, KINDS};
pub use port_views::PortsView;
pub(crate) use ports::DESTINATIONS;
pub use snapshot::{Counts, NameVitals, ProcessVitals, Snapshot, Vitals};
pub use store::{Filter, ProcessCounts, Table, TableConfig};
pub use totals::{Failure, Failures};
pub use view::{Kind, SeriesView};
