//! docs/metrics.md names every metric there is, and none that there is not.

use std::{collections::BTreeSet, fs, path::Path};

use prometheus::Registry;

use super::reconcile::Agreement;
use crate::export::family::METRICS;

const START: &str = "<!-- generated from the program: start -->\n";
const END: &str = "<!-- generated from the program: end -->\n";

fn path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md")
}

/// Name, type and help of every metric, in the order of the exposition.
fn exported() -> Vec<(String, &'static str, String)> {
    let registry = Registry::new();
    let agreement = Agreement::new(&registry).expect("the registry is empty");
    // A metric with labels is gathered once it has a series.
    agreement.show_netns_drift(&[(1, 0)]);
    let own = METRICS.iter().map(|metric| {
        (
            metric.name.to_owned(),
            metric.kind.name(),
            metric.help.to_owned(),
        )
    });
    let registered = registry.gather().into_iter().map(|family| {
        let kind = match family.get_field_type() {
            prometheus::proto::MetricType::COUNTER => "counter",
            prometheus::proto::MetricType::GAUGE => "gauge",
            other => panic!("{}: {other:?}", family.name()),
        };
        (family.name().to_owned(), kind, family.help().to_owned())
    });
    own.chain(registered).collect()
}

fn generated() -> String {
    let mut text = String::from("| name | type | help |\n|---|---|---|\n");
    for (name, kind, help) in exported() {
        text.push_str(&format!("| `{name}` | {kind} | {help} |\n"));
    }
    text
}

/// The text before, within and after the generated part.
fn parts(text: &str) -> (&str, &str, &str) {
    let (before, rest) = text.split_once(START).expect("the start is marked");
    let (within, after) = rest.split_once(END).expect("the end is marked");
    (before, within, after)
}

/// Words that look like names of our metrics.
fn mentioned(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| {
            ["socket_", "observer_", "process_"]
                .iter()
                .any(|prefix| word.starts_with(prefix))
        })
        .map(|word| {
            ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| word.strip_suffix(suffix))
                .unwrap_or(word)
        })
        .collect()
}

#[test]
fn the_list_in_the_documents_is_the_programs() {
    let path = path();
    let text = fs::read_to_string(&path).expect("docs/metrics.md can be read");
    let (before, within, after) = parts(&text);
    let generated = generated();
    if within == generated {
        return;
    }
    if std::env::var_os("OBSERVER_UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{START}{generated}{END}{after}"))
            .expect("docs/metrics.md can be written");
        return;
    }
    panic!(
        "docs/metrics.md is out of date; `OBSERVER_UPDATE_DOCS=1 cargo test -p observer documented` \
         writes its list anew"
    );
}

#[test]
fn what_is_written_by_hand_covers_every_metric_and_no_other() {
    let text = fs::read_to_string(path()).expect("docs/metrics.md can be read");
    let (before, _, after) = parts(&text);
    let exported = exported();
    let names: BTreeSet<&str> = exported.iter().map(|(name, _, _)| name.as_str()).collect();
    // Each has a row of its own in one of the tables, not just a mention.
    let rows: BTreeSet<&str> = [before, after]
        .into_iter()
        .flat_map(str::lines)
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .filter(|name| mentioned(name).len() == 1)
        .collect();
    assert_eq!(rows, names);
    let unknown: Vec<_> = [before, after]
        .into_iter()
        .flat_map(mentioned)
        .filter(|name| !names.contains(name))
        .collect();
    assert!(unknown.is_empty(), "no such metrics: {unknown:?}");
}
