//! The maximum number of series of a scrape. docs/metrics.md has the formula; a test fills everything
//! and compares.

use observer_common::{
    BIND_CALLS, BIND_ERRORS, BUCKETS, CONNECT_RESULTS, CONNECTION_ERRORS, FD_ERRNOS, PORT_SEARCHES,
    RESETS_RECEIVED, RESETS_SENT, STATES, TIME_WAIT_SUBSTATES,
};

use crate::table::{ADDRESSES, DESTINATIONS, FIXED_NAMES, KINDS};

/// Listening addresses, and one for those beyond the limit.
const PLACES: usize = ADDRESSES + 1;

/// Series that names and processes have in common: sockets by state, connects, connection errors, RSTs,
/// port searches, failed setsockopt calls, exhausted descriptors; accepts, retransmits, TIME_WAIT.
const SHARED: usize = STATES
    + CONNECT_RESULTS
    + CONNECTION_ERRORS
    + RESETS_SENT
    + RESETS_RECEIVED
    + PORT_SEARCHES.len()
    + (KINDS + 1)
    + FD_ERRNOS.len()
    + 3;

/// Maximum number of series of one name: in addition transitions, failed binds, three histograms with `_sum` and
/// `_count`, TIME_WAIT entered, ended and overflowed, five of each listening address, three of the
/// ports to destinations without series of their own, its unit.
pub const BY_NAME: usize = SHARED
    + STATES * STATES
    + BIND_ERRORS * BIND_CALLS.len()
    + 3 * (BUCKETS + 2)
    + (TIME_WAIT_SUBSTATES.len() + 2)
    + 5 * PLACES
    + 3
    + 1;

/// Maximum number of series of one process: in addition descriptors and sockets, three of each listening
/// address, one of the ports to destinations without series of their own, its unit.
pub const BY_PROCESS: usize = SHARED + 4 + 3 * PLACES + 1 + 1;

/// Destinations, three series by name and one by process; RSTs without a socket.
pub const FIXED: usize = 4 * DESTINATIONS + RESETS_SENT;

/// Maximum number of series about names and processes.
#[must_use]
pub const fn series(max_names: usize, max_processes: usize) -> usize {
    FIXED + BY_NAME * (max_names + FIXED_NAMES) + BY_PROCESS * max_processes
}
