//! Logs what happens to findings.

use std::time::Duration;

use observer_core::{
    clock::Clock,
    config::LogFormat,
    detect::{Change, Severity, change_summary},
    export::log_fields,
};
use tracing::{error, info, warn};

use crate::logging::FINDINGS;

/// Logs changes that happened at `at` (CLOCK_MONOTONIC): a sentence each, and with it in JSON the numbers.
pub fn log(changes: &[Change], at: Duration, format: LogFormat) {
    if changes.is_empty() {
        return;
    }
    let clock = Clock::now();
    for change in changes {
        let summary = change_summary(change, at);
        macro_rules! log {
            ($level:ident) => {
                match format {
                    LogFormat::Text => $level!(target: FINDINGS, "{summary}"),
                    LogFormat::Json => {
                        let fields = serde_json::Value::from(log_fields(change, clock));
                        $level!(target: FINDINGS, %fields, "{summary}");
                    }
                }
            };
        }
        match (change, change.finding().severity) {
            (Change::Cleared(_), _) => log!(info),
            (_, Severity::Warning) => log!(warn),
            (_, Severity::Critical) => log!(error),
        }
    }
}
