//! Programs with several versions of quic-go, built when they are first wanted.

use std::path::PathBuf;

use crate::packaged;

/// Versions of quic-go, as `tests/quic/build.sh` calls them.
pub const VERSIONS: [&str; 5] = ["0.29", "0.46", "0.50", "0.59", "0.64"];

/// The program of `tests/quic` built against a version of quic-go. Built from packages by the first test, which takes
/// minutes, and kept below the target folder.
///
/// # Errors
///
/// As [`packaged::program`].
pub fn program(version: &str) -> Result<PathBuf, String> {
    packaged::program("quic", "build.sh", version)
}
