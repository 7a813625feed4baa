//! Programs from packages of other suites of Debian, and from PyPI, that are not installed.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use crate::skip::tools_are_installed;

/// Arguments of [`program`].
pub type Wanted = (&'static str, &'static str, &'static str);

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
    // TARGET/debug/deps/TEST; in a guest /job/TEST.
    let target = test.ancestors().nth(3).unwrap_or(Path::new("/"));
    let Some(run) = run(target, (folder, script, version)) else {
        let packed = test.with_file_name(packed_name(folder, version));
        let missing = "its sources are not on this machine";
        return packed.exists().then_some(packed).ok_or(missing.to_owned());
    };
    path_of(run)
}

/// The file name of such a program in a guest, where it is beside the tests.
pub(crate) fn packed_name(folder: &str, version: &str) -> String {
    format!("{folder}-{version}")
}

/// What the script printed.
pub(crate) fn path_of((script, output): (PathBuf, Output)) -> Result<PathBuf, String> {
    let printed = String::from_utf8_lossy(&output.stdout);
    match output.status.code() {
        Some(0) => Ok(PathBuf::from(printed.trim_end())),
        Some(LEFT_OUT) => Err(printed.trim_end().to_owned()),
        _ => panic!("{}: {}: {printed}", script.display(), output.status),
    }
}

/// Arguments of [`program`] for a listener in the first version of Go whose listeners are MPTCP sockets.
pub const GO_LISTENER: Wanted = ("fastopen", "build.sh", "1.24");

/// Arguments of [`program`] for a Caddy that is newer than the installed one.
pub const CADDY: Wanted = ("tls", "caddy.sh", "trixie-backports");

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
