//! Programs from packages of other suites of Debian, and from PyPI, that are not installed.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use crate::skip::tools_are_installed;

/// Exit status of a script if what it needs cannot be had.
const LEFT_OUT: i32 = 77;

/// What a script of `tests/FOLDER` gets or builds, given a folder of its own below the target folder and `version`. It
/// stays there.
///
/// # Errors
///
/// Why there is none, for a skip: no such packages, or no sources, as in a guest.
pub fn program(folder: &str, script: &str, version: &str) -> Result<PathBuf, String> {
    let test = env::current_exe().expect("a test has a path");
    // TARGET/debug/deps/TEST.
    let target = test.ancestors().nth(3).expect("a target folder");
    let Some((script, output)) = run(target, (folder, script, version)) else {
        return Err("its sources are not on this machine".to_owned());
    };
    let printed = String::from_utf8_lossy(&output.stdout);
    match output.status.code() {
        Some(0) => Ok(PathBuf::from(printed.trim_end())),
        Some(LEFT_OUT) => Err(printed.trim_end().to_owned()),
        _ => panic!("{}: {}: {printed}", script.display(), output.status),
    }
}

/// Arguments of [`program`] for a Caddy that is newer than the installed one.
pub const CADDY: (&str, &str, &str) = ("tls", "caddy.sh", "trixie-backports");

/// Runs the script, if it is there, with its folder below `target`.
pub(crate) fn run(
    target: &Path,
    (folder, script, version): (&str, &str, &str),
) -> Option<(PathBuf, Output)> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests");
    let script = tests.join(folder).join(script);
    if !script.exists() {
        return None;
    }
    // What it prints to standard error is shown while it runs.
    let output = Command::new(&script)
        .arg(target.join(folder))
        .arg(version)
        .stderr(Stdio::inherit())
        .output()
        .expect("the script can be run");
    Some((script, output))
}

/// The Python of the environment into which `cargo xtask setup --tests` installs what is from PyPI. Panics if there is
/// none although there should be.
pub fn python() -> Option<PathBuf> {
    let test = env::current_exe().expect("a test has a path");
    // The tests are built in the target folder, or in a folder of it.
    let mut places = test.ancestors().map(|it| it.join("pip/bin/python3"));
    let found = places.find(|it| it.exists());
    assert!(
        found.is_some() || !tools_are_installed(),
        "no target folder with a folder `pip`, although `cargo xtask setup --tests` has run"
    );
    found
}
