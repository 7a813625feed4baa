//! The text format: escaping, agreement with the client library, promtool.

use std::{
    collections::BTreeSet,
    io::Write as _,
    process::{Command, Stdio},
};

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

#[test]
fn promtool_finds_nothing_to_say() {
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match promtool {
        Ok(promtool) => promtool,
        Err(error) => {
            eprintln!("skipped: promtool cannot be run: {error}");
            return;
        }
    };
    let text = text(&exporter(kernel(), TableConfig::default()));
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}
