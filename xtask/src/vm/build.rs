//! The static binaries that run in a guest: it has no libraries of this machine.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};

use crate::shell;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Only these tests need a kernel; the others run anywhere.
const TESTS: &str = "kernel_*";

/// Static executables.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Binaries {
    pub observer: PathBuf,
    /// Name and file of each test program, by name.
    pub tests: Vec<(String, PathBuf)>,
}

/// Builds the daemon and its kernel tests below `target_dir`. Cargo builds nothing when
/// nothing has changed.
pub fn build(target_dir: &Path) -> Result<Binaries> {
    let mut cargo = shell::cargo();
    cargo
        .args(["test", "--no-run", "--package", "observer"])
        .args(["--bin", "observer", "--test", TESTS, "--target", TARGET])
        .arg("--target-dir")
        .arg(target_dir)
        .arg("--message-format=json-render-diagnostics")
        // A directory of its own, because other flags would rebuild everything each time.
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        // Without debug information the binaries are a quarter of their size, and somewhat
        // optimised they start in an emulated machine in half the time.
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .stderr(Stdio::inherit());
    eprintln!("$ {}", shell::show(&cargo));
    let output = cargo.output().context("cargo does not start")?;
    if !output.status.success() {
        bail!("the tests do not build\n  what you can do: see cargo's messages above");
    }
    binaries(&String::from_utf8_lossy(&output.stdout)).context("cargo names no observer binary")
}

/// Reads cargo's messages.
fn binaries(messages: &str) -> Option<Binaries> {
    let mut found = Binaries::default();
    for line in messages.lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else {
            continue;
        };
        let Some(executable) = message["executable"].as_str().map(PathBuf::from) else {
            continue;
        };
        let kind = message["target"]["kind"][0].as_str();
        let name = message["target"]["name"].as_str().unwrap_or_default();
        match (kind, message["profile"]["test"].as_bool()) {
            (Some("bin"), Some(false)) => found.observer = executable,
            (Some("test"), Some(true)) => found.tests.push((name.to_owned(), executable)),
            // The unit tests of the binary.
            _ => {}
        }
    }
    found.tests.sort();
    (!found.observer.as_os_str().is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binaries_are_read_from_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"observer"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"kernel_reset"},"profile":{"test":true},"executable":"/t/deps/kernel_reset-1"}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"observer"},"profile":{"test":true},"executable":"/t/deps/observer-1"}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"observer"},"profile":{"test":false},"executable":"/t/observer"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(
            binaries(messages).unwrap(),
            Binaries {
                observer: "/t/observer".into(),
                tests: vec![("kernel_reset".to_owned(), "/t/deps/kernel_reset-1".into())],
            }
        );
        assert_eq!(binaries(""), None);
    }
}
