//! The per-process table: which slots are in use, under which labels each one is shown,
//! and where its counts go once the process is gone.
//!
//! Counters stay in the kernel's slots and are read at scrape time; the table adds only
//! what the kernel cannot know. Invariants, each held by a test:
//!
//! * the sum of a counter over all series never goes down and counts no event twice;
//! * a series, while it is there, never goes down: a process is shown under its own pid or
//!   in `pid="other"` for all its life, and what was counted in `pid="other"` stays there;
//! * the sum over a name and unit does not go down while a process of theirs lives, unless as
//!   many names as there may be groups have living processes;
//! * the number of series is bounded by [`TableConfig::max_processes`], for the living and
//!   for the groups of the exited;
//! * no two series have the same labels, whatever bytes a comm is made of.
//!
//! The table takes its time, kernel and process facts as arguments: it is deterministic.

mod exited;
mod facts;
mod housekeeping;
mod labels;
mod listeners;
mod ports;
mod time_wait;
mod totals;
mod view;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod sockets_tests;
#[cfg(test)]
mod tests;

pub use facts::{Description, ProcessFacts, Resources};
pub use housekeeping::{Filter, ProcessCounts, Table, TableConfig};
pub(crate) use labels::escape_into;
pub use labels::{Labels, printable};
pub use listeners::{Listening, Overflows, Place};
pub use ports::PortsView;
pub use time_wait::TIME_WAIT_LENGTH;
pub use totals::{Failure, Failures};
pub use view::{Kind, SeriesView};
