//! Programs with several versions of quic-go, built when they are first wanted.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Versions of quic-go, as `tests/quic/build.sh` calls them.
pub const VERSIONS: [&str; 4] = ["0.29", "0.46", "0.50", "0.59"];
/// Exit status of the script if what it needs cannot be had.
const LEFT_OUT: i32 = 77;

/// The program of `tests/quic` built against a version of quic-go. Built from packages by the first test, which takes
/// minutes, and kept below the target folder.
///
/// # Errors
///
/// Why there is none, for a skip: no such packages, or no sources, as in a guest.
pub fn program(version: &str) -> Result<PathBuf, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/quic/build.sh");
    if !script.exists() {
        return Err("its sources are not on this machine".to_owned());
    }
    let test = std::env::current_exe().expect("a test has a path");
    // TARGET/debug/deps/TEST.
    let target = test.ancestors().nth(3).expect("a target folder");
    // What it prints there is shown while it builds.
    let output = Command::new(&script)
        .arg(target.join("quic"))
        .arg(version)
        .stderr(Stdio::inherit())
        .output()
        .expect("the script can be run");
    let printed = String::from_utf8_lossy(&output.stdout);
    match output.status.code() {
        Some(0) => Ok(PathBuf::from(printed.trim_end())),
        Some(LEFT_OUT) => Err(printed.trim_end().to_owned()),
        _ => panic!("{}: {}: {printed}", script.display(), output.status),
    }
}
