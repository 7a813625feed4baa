//! What docs/operations.md and the runbooks say about an alert, done as it is written there.

use std::{path::Path, process::Command, time::Duration};

use observer_test_support::{Daemon, Installed, Netns, Program, documents, observer, run, shipped};
use serde_json::Value;

use super::{Chain, read, replaced};

/// The name of the server that docs/operations.md breaks on purpose.
const LEAKING: &str = "leaky-server";
/// Its alerts.
pub const LEAK: [&str; 2] = ["ObserverFdLeak", "ObserverCloseWaitLeak"];

/// The command of docs/operations.md that begins with these words.
fn documented(words: &str) -> String {
    let document = read("/usr/share/doc/observer/docs/operations.md");
    documents::command(&document, words).to_owned()
}

/// The words of a command without the `&` at its end.
fn words(command: &str) -> Vec<&str> {
    command.trim_end_matches('&').split_whitespace().collect()
}

/// A server of docs/operations.md with another configuration file and folder of data.
fn server(command: &str, changes: [(&str, &Path); 2]) -> Command {
    let change = |command: String, (from, to): (&str, &Path)| {
        replaced(&command, from, &to.display().to_string())
    };
    let command = changes.into_iter().fold(command.to_owned(), change);
    let words = words(&command);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

/// The Prometheus of docs/operations.md.
pub fn prometheus(config: &Path, data: &Path) -> Command {
    server(
        &documented("prometheus --config"),
        [
            ("/usr/share/observer/prometheus/prometheus.yml", config),
            ("/tmp/prometheus", data),
        ],
    )
}

/// The Alertmanager of docs/operations.md.
pub fn alertmanager(config: &Path, data: &Path) -> Command {
    server(
        &documented("prometheus-alertmanager --config"),
        [
            ("/usr/share/observer/prometheus/alertmanager.yml", config),
            ("/tmp/alertmanager", data),
        ],
    )
}

/// Runs the program that docs/operations.md says to run, on its own loopback interface.
pub fn leak() -> (Netns, Program) {
    let command = documented("python3 /usr/share/doc");
    let words = words(&command);
    let netns = Netns::new();
    let mut command = netns.command(words[0]);
    let program = Program::spawn(command.arg(shipped(words[1])).args(&words[2..]));
    (netns, program)
}

/// Waits for the alerts of that program, and does with them what the document says.
pub fn follow_leak(chain: &Chain, patience: Duration, daemon: &Daemon, socket: &Path) {
    for name in LEAK {
        let is_it = |it: &&Value| is_of_leak(it, &[name]);
        chain.wait(name, patience, |told| {
            told.fired.values().any(|it| is_it(&it))
        });
        let told = chain.webhook.told().fired.clone();
        let alert = told.values().find(is_it).expect("it was there");
        assert_explained(alert, daemon, socket);
    }
    let address = chain.alertmanager_address.to_string();
    let amtool = replaced(&documented("amtool"), "127.0.0.1:9093", &address);
    let words = words(&amtool);
    let queried = run(words[0], &words[1..]);
    assert!(queried.contains(LEAK[0]), "{queried}");
}

/// Whether an alert is one of these of that program.
pub fn is_of_leak(it: &Value, names: &[&str]) -> bool {
    let name = it["labels"]["alertname"].as_str();
    it["labels"]["comm"] == LEAKING && name.is_some_and(|it| names.contains(&it))
}

/// The text of the runbook that an alert links to.
pub fn runbook(alert: &Value) -> String {
    let url = alert["annotations"]["runbook_url"].as_str();
    let file = url.and_then(|it| it.strip_prefix("file://"));
    read(file.expect("the address of a file"))
}

/// Asserts that the page and what the runbook of an alert says to run name the process to blame.
pub fn assert_explained(alert: &Value, daemon: &Daemon, socket: &Path) {
    let comm = alert["labels"]["comm"].as_str().expect("a process");
    let (_, page) = daemon.get("/");
    let (_, wrong) = page.split_once("What is wrong").expect("a section");
    let (wrong, _) = wrong.split_once("<h2>").expect("another one");
    assert!(wrong.contains(comm), "no {comm}: {wrong}");

    let document = runbook(alert);
    let words = words(documents::command(&document, "observer doctor"));
    let mut doctor = match Installed::from_env() {
        Some(_) => Installed::beside(daemon.pid(), &words),
        None => {
            let mut doctor = Command::new(observer());
            doctor.args(&words[1..]).env("OBSERVER_API_SOCKET", socket);
            doctor
        }
    };
    let output = doctor.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    // Warnings, or failures.
    assert!(matches!(output.status.code(), Some(1 | 2)), "{output:?}");
    assert!(said.contains(comm), "no {comm}: {said}");
    if comm == LEAKING {
        println!("{wrong}\n{said}");
    }
}
