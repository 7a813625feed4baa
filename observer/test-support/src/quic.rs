//! Programs with several versions of quic-go, built when they are first wanted.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Versions of quic-go, as `tests/quic/build.sh` calls them.
pub const VERSIONS: [&str; 4] = ["0.29", "0.46", "0.50", "0.59"];

/// The program of `tests/quic` built against a version of quic-go. Built from packages by the first test, which takes
/// minutes, and kept below the target folder.
///
/// # Errors
///
/// Why there is none, for a skip: no such packages, as in a guest.
pub fn program(version: &str) -> Result<PathBuf, String> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/quic");
    let target = std::env::current_exe().map_err(|error| error.to_string())?;
    // TARGET/debug/deps/TEST.
    let target = target.ancestors().nth(3).ok_or("no target folder")?;
    let folder = target.join("quic");
    let program = folder.join(version);
    if !program.exists() {
        let output = Command::new(tests.join("build.sh")).arg(&folder).output();
        let output = output.map_err(|error| format!("cannot build programs: {error}"))?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            let last = errors.lines().last().unwrap_or_default();
            return Err(format!("cannot build programs: {last}"));
        }
    }
    Ok(program)
}
