//! Logs changes of findings.

use std::time::Duration;

use observer_core::{
    clock::Clock,
    config::LogFormat,
    detect::{Change, Severity, change_summary},
    export::log_fields,
};
use tracing::{error, info, warn};

use crate::service::journal::{self, FINDINGS};

/// Logs changes that happened at `at` (CLOCK_MONOTONIC): a sentence each, and with it in JSON and in the
/// journal the numbers.
pub fn log(changes: &[Change], at: Duration, format: LogFormat) {
    if changes.is_empty() {
        return;
    }
    let clock = Clock::now();
    let with_fields = format == LogFormat::Json || journal::is_stderr();
    for change in changes {
        let summary = change_summary(change, at);
        macro_rules! log {
            ($level:ident) => {
                if with_fields {
                    let fields = serde_json::Value::from(log_fields(change, clock));
                    $level!(target: FINDINGS, %fields, "{summary}");
                } else {
                    $level!(target: FINDINGS, "{summary}");
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
