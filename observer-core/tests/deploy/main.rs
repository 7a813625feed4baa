//! Tests the files of `deploy`: the metrics, labels and files that they name exist, and each alert has a runbook and tests.

mod dashboards;
mod promql;
mod relabel;
mod rules;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A path in the repository.
fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
