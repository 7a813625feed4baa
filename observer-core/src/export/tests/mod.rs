//! What is exported, down to the bytes.

mod anomalies;
mod bound;
mod cost;
mod documented;
mod findings;
mod format;
mod samples;
mod sockets;

use std::collections::BTreeMap;

use observer_test_support::Metrics;

use super::testing::*;

/// A name with its labels, sorted.
type Series = (String, BTreeMap<String, String>);

/// The samples of an exposition, which must be right in all respects.
fn parse(text: &str) -> BTreeMap<Series, f64> {
    let samples = Metrics::parse_strictly(text).unwrap().samples.into_iter();
    samples
        .map(|sample| ((sample.name, sample.labels), sample.value))
        .collect()
}
