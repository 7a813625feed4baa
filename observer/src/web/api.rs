//! `/api/v1`: the state at the last tick and the findings as JSON. Reads neither maps nor files and takes no
//! lock but the detectors', which is held for about a millisecond, so it answers while a scrape runs or a
//! job is stuck.

use observer_core::{clock::Clock, detect::CHANGES, export::Exporter, table::Snapshot};

/// Default number of processes and names, or changes, in a response.
const DEFAULT_LIMIT: usize = 100;
/// Maximum of `limit`. A process or name takes one or two kilobytes, and is bounded by the maximum
/// of listening addresses and destinations. A change takes three kilobytes.
const MAX_LIMIT: usize = CHANGES;

/// The processes and names with the most sockets, as JSON; `limit=N` is the number of each.
///
/// # Errors
///
/// An invalid query.
pub(super) fn processes(
    exporter: &Exporter,
    snapshot: &Snapshot,
    query: Option<&str>,
) -> Result<String, String> {
    let processes = exporter.processes(snapshot, limit(query)?, Clock::now());
    serde_json::to_string(&processes).map_err(|error| error.to_string())
}

/// Current findings and the last changes, as JSON; `limit=N` is the number of changes.
///
/// # Errors
///
/// An invalid query.
pub(super) fn anomalies(exporter: &Exporter, query: Option<&str>) -> Result<String, String> {
    let anomalies = exporter.anomalies(limit(query)?, Clock::now());
    serde_json::to_string(&anomalies).map_err(|error| error.to_string())
}

/// The report of `observer doctor`, as JSON. Unlike the others, this reads the table and the kernel's counters.
///
/// # Errors
///
/// When it cannot be written as JSON.
pub(super) fn doctor(exporter: &Exporter) -> Result<String, String> {
    let report = exporter.doctor(Clock::now());
    serde_json::to_string(&report).map_err(|error| error.to_string())
}

fn limit(query: Option<&str>) -> Result<usize, String> {
    let Some(query) = query.filter(|query| !query.is_empty()) else {
        return Ok(DEFAULT_LIMIT);
    };
    let limit = query.strip_prefix("limit=").and_then(|it| it.parse().ok());
    limit
        .filter(|limit| *limit <= MAX_LIMIT)
        .ok_or_else(|| format!("the only parameter is limit=N, a number up to {MAX_LIMIT}\n"))
}
