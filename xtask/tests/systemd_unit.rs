//! The unit of deploy/systemd.

use std::{path::Path, process::Command};

/// Tenths of the exposure that systemd-analyze computes, at most.
const EXPOSURE: u32 = 20;

fn security(threshold: u32) -> std::process::Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(format!("--threshold={threshold}"))
        .arg(root.join("deploy/systemd/observer.service"))
        .output();
    output.expect("`cargo xtask setup --tests` installs systemd-analyze")
}

#[test]
fn the_unit_is_sandboxed() {
    let output = security(EXPOSURE);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{output:?}");
    assert!(text.contains("Overall exposure level"), "{text}");
    // The threshold is one.
    assert!(!security(0).status.success());
}
