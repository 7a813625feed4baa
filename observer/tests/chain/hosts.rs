//! docs/fleet.py, which measures a Prometheus with many hosts, with a few.

use std::process::Command;

use observer_test_support::{Daemon, documents, needs_programs, shipped};

use super::read;

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn simulated_hosts_are_scraped_and_evaluated() {
    needs_programs!("prometheus");
    let daemon = Daemon::start(&[]);
    let document = read("/usr/share/doc/observer/docs/fleet.md");
    let command = documents::command(&document, "python3 /usr/share/doc");
    let words: Vec<_> = command.split_whitespace().collect();
    let rules = shipped("/usr/share/observer/prometheus");
    // The last of two values is taken.
    let output = Command::new(words[0])
        .arg(shipped(words[1]))
        .args(&words[2..])
        .args(["--hosts=5", "--minutes=0.2", "--interval=1", "--learn=1"])
        .arg(format!("--daemon=http://{}/metrics", daemon.address))
        .arg(format!("--prometheus={}", rules.display()))
        .output()
        .expect("it can be started");
    let printed = String::from_utf8_lossy(&output.stdout);
    // It fails if a host is not scraped, or a rule not evaluated.
    assert!(output.status.success(), "{output:?}");
    assert!(printed.contains(" 5 hosts; "), "{printed}");
    println!("{printed}");
}
