//! The maximum number of series of a scrape. docs/metrics.md has the formula; a test fills everything
//! and compares.

use observer_common::{BUCKETS, METRICS, RESETS_SENT, STALLS, STATES, TLS_ROLES, TURNS};

use crate::{
    detect::{FINDINGS, TOTALS},
    table::{ADDRESSES, DESTINATIONS, FIXED_NAMES, KINDS},
    walk::QUIET_SECONDS,
};

/// Listening addresses, and one for those beyond the limit.
const LISTEN_ADDRESSES: usize = ADDRESSES + 1;

/// Number of counters in a slot that are shown by name; if `by_process`, of those that are shown by
/// process, too.
const fn counters(by_process: bool) -> usize {
    let mut sum = 0;
    let mut signal = 0;
    while signal < METRICS.len() {
        let counters = METRICS[signal].counters;
        let mut counter = 0;
        while counter < counters.len() {
            let parts = counters[counter].parts;
            let mut part = 0;
            while part < parts.len() && (!by_process || counters[counter].process.is_some()) {
                sum += parts[part].len();
                part += 1;
            }
            counter += 1;
        }
        signal += 1;
    }
    sum
}

/// Number of histograms in a slot.
const HISTOGRAMS: usize = {
    let mut sum = 0;
    let mut signal = 0;
    while signal < METRICS.len() {
        let histograms = METRICS[signal].histograms;
        let mut histogram = 0;
        while histogram < histograms.len() {
            sum += histograms[histogram].len();
            histogram += 1;
        }
        signal += 1;
    }
    sum
};

/// Series common to names and processes, in addition to the counters in slots: sockets by state,
/// failed setsockopt calls, sockets in TIME_WAIT.
const SHARED: usize = STATES + (KINDS + 1) + 1;

/// Series of the waits of a name's connections, without the histogram of their ages.
const WAITS: usize = 2 * STALLS + TURNS * QUIET_SECONDS.len();

/// Maximum number of series of one name: in addition counters, histograms with `_sum` and `_count`,
/// sockets that left TIME_WAIT, five of each listening address, three of the ports to destinations
/// without series of their own, what connections wait for, TLS handshakes in progress, unguarded connections, its unit.
pub const BY_NAME: usize = SHARED
    + counters(false)
    + (HISTOGRAMS + 1) * (BUCKETS + 2)
    + 1
    + 5 * LISTEN_ADDRESSES
    + 3
    + WAITS
    + 2 * TLS_ROLES.len()
    + 2;

/// Maximum number of series of one process: in addition counters, descriptors and sockets, three of
/// each listening address, one of the ports to destinations without series of their own, stalled connections by
/// reason, its unit.
pub const BY_PROCESS: usize = SHARED + counters(true) + 4 + 3 * LISTEN_ADDRESSES + 1 + STALLS + 1;

/// Network namespaces whose sysctls are shown: those with the lowest inode numbers, of which the initial
/// one is the first.
pub const SYSCTL_NAMESPACES: usize = 100;

/// Maximum number of sysctls of a namespace, and of the host.
const SYSCTLS: usize = 20;

/// Destinations, three series by name and one by process; RSTs without a socket; findings, three series each,
/// and totals of them; sysctls.
pub const FIXED: usize =
    4 * DESTINATIONS + RESETS_SENT + 3 * FINDINGS + TOTALS + SYSCTLS * (SYSCTL_NAMESPACES + 1);

/// Maximum number of series about names and processes.
#[must_use]
pub const fn series(max_names: usize, max_processes: usize) -> usize {
    FIXED + BY_NAME * (max_names + FIXED_NAMES) + BY_PROCESS * max_processes
}
