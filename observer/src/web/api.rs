//! `/api/v1`: what the last tick found, as JSON. Takes no lock and reads neither maps nor files, so it
//! answers while a scrape runs or a job is stuck.

use observer_core::{export::Exporter, table::Snapshot};

/// How many processes and names are in an answer unless asked otherwise.
const DEFAULT_LIMIT: usize = 100;
/// The most that may be asked for. A process or name has a kilobyte or two, and never more than its
/// listening addresses and destinations, of which there is a maximum, make it.
const MAX_LIMIT: usize = 1000;

/// The processes and names with the most sockets, as JSON; `limit=N` says how many of each.
///
/// # Errors
///
/// What is wrong with the query.
pub(super) fn processes(
    exporter: &Exporter,
    snapshot: &Snapshot,
    query: Option<&str>,
) -> Result<String, String> {
    let limit = limit(query)
        .ok_or_else(|| format!("the only parameter is limit=N, a number up to {MAX_LIMIT}\n"))?;
    let processes = exporter.processes(snapshot, limit);
    serde_json::to_string(&processes).map_err(|error| error.to_string())
}

fn limit(query: Option<&str>) -> Option<usize> {
    let Some(query) = query.filter(|query| !query.is_empty()) else {
        return Some(DEFAULT_LIMIT);
    };
    let limit = query.strip_prefix("limit=")?.parse().ok()?;
    (limit <= MAX_LIMIT).then_some(limit)
}
