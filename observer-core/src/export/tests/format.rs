//! The text format: escaping, and agreement with the client library.

use std::collections::BTreeSet;

use prometheus::{Registry, TextEncoder};

use super::{AWKWARD, exporter, kernel, parse, text};
use crate::table::{OTHER, TableConfig, UNATTRIBUTED, name_of};

#[test]
fn awkward_names_survive_the_round_trip() {
    let samples = parse(&text(&exporter(kernel(), TableConfig::default())));
    let comms: BTreeSet<String> = samples
        .keys()
        .filter_map(|(_, labels)| labels.get("comm").cloned())
        .filter(|comm| ![OTHER, UNATTRIBUTED].contains(&comm.as_str()))
        .collect();
    assert_eq!(comms, AWKWARD.map(name_of).into());
    let units: BTreeSet<&str> = samples
        .keys()
        .filter_map(|(_, labels)| labels.get("unit").map(String::as_str))
        .collect();
    assert_eq!(units, ["", "a\\x2db@\"1\".service"].into());
}

#[test]
fn text_and_client_library_agree() {
    let exporter = exporter(kernel(), TableConfig::default());
    let registry = Registry::new();
    registry.register(Box::new(exporter.clone())).unwrap();
    let encoded = TextEncoder::new()
        .encode_to_string(&registry.gather())
        .unwrap();
    let ours = |text: &str| {
        let mut samples = parse(text);
        // These differ between any two scrapes.
        samples.retain(|(name, _), _| {
            !name.starts_with("process_") && !name.contains("scrape_duration")
        });
        samples
    };
    assert_eq!(ours(&text(&exporter)), ours(&encoded));
    assert!(
        registry.register(Box::new(exporter)).is_err(),
        "names are taken"
    );
}
