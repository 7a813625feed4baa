//! Findings while programs of `tests/benign` and `tests/scenarios` run, and the tables in docs/detectors.md.

use std::{fs, path::Path};

use observer_test_support::Daemon;
use serde_json::Value;

/// The changes that came after those that `seen` counts, oldest first.
pub fn news(daemon: &Daemon, seen: &mut f64) -> Vec<Value> {
    let (status, body) = daemon.get("/api/v1/anomalies?limit=1000");
    assert_eq!(status, 200, "{body}");
    let mut answer: Value = serde_json::from_str(&body).expect("JSON");
    let Value::Array(mut changes) = answer["changes"].take() else {
        panic!("{body}");
    };
    changes.reverse();
    let at = |it: &Value| it["at_monotonic_seconds"].as_f64().expect("a time");
    changes.retain(|it| at(it) > *seen);
    if let Some(last) = changes.last() {
        *seen = at(last);
    }
    changes
}

/// Replaces a table in docs/detectors.md: the one that this command writes.
pub fn write_table(command: &str, table: &str) {
    let start = format!("<!-- written by {command}: start -->\n");
    let end = format!("<!-- written by {command}: end -->\n");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/detectors.md");
    let text = fs::read_to_string(&path).expect("the document can be read");
    let (before, rest) = text.split_once(&start).expect("the start is marked");
    let (_, after) = rest.split_once(&end).expect("the end is marked");
    let text = format!("{before}{start}\n{table}\n{end}{after}");
    fs::write(path, text).expect("the document can be written");
}
