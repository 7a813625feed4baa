//! docs/metrics.md names every metric there is, and none that there is not.

use std::{collections::BTreeSet, fs, path::Path};

use prometheus::Registry;

use crate::export::{
    bound,
    family::METRICS,
    jobs::{self, DriftMetrics, JobMetrics, WalkMetrics},
    metric::{Metric, Scope},
};

const START: &str = "<!-- generated from the program: start -->\n";
const END: &str = "<!-- generated from the program: end -->\n";

fn path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md")
}

/// Every metric, in the order of the exposition.
fn exported() -> Vec<&'static Metric> {
    METRICS
        .iter()
        .chain(jobs::METRICS.iter().copied())
        .collect()
}

fn generated() -> String {
    let mut text = String::new();
    for (scope, title) in [
        (Scope::Name, "By name"),
        (Scope::Process, "By process"),
        (Scope::Host, "Of the host and its network namespaces"),
        (Scope::Finding, "What is wrong"),
        (Scope::Observer, "About the observer"),
    ] {
        let of_kernel = !matches!(scope, Scope::Finding | Scope::Observer);
        let hooks = |text: &str| {
            if of_kernel {
                format!(" {text} |")
            } else {
                String::new()
            }
        };
        let rule = if of_kernel { "---|" } else { "" };
        text.push_str(&format!(
            "\n### {title}\n\n| name | type, unit | labels |{} what it says | query |\n\
             |---|---|---|{rule}---|---|\n",
            hooks("hooks")
        ));
        for metric in exported() {
            let &Metric {
                name,
                kind,
                scope: of,
                unit,
                labels,
                hooks: hook,
                help,
                query,
            } = metric;
            if of != scope {
                continue;
            }
            let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
            // Also between backquotes, a bar ends a cell.
            let query = query.replace('|', "\\|");
            text.push_str(&format!(
                "| `{name}` | {}, {unit} | {} |{} {help} | `{query}` |\n",
                kind.name(),
                labels.join(", "),
                hooks(hook)
            ));
        }
    }
    text.push('\n');
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
                // A prefix of names, not a name.
                && !word.ends_with('_')
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
        "docs/metrics.md is out of date; `OBSERVER_UPDATE_DOCS=1 cargo test -p observer-core documented` \
         writes its list anew"
    );
}

#[test]
fn what_is_written_by_hand_names_metrics_that_there_are() {
    let text = fs::read_to_string(path()).expect("docs/metrics.md can be read");
    let (before, _, after) = parts(&text);
    let exported = exported();
    let names: BTreeSet<&str> = exported.iter().map(|metric| metric.name).collect();
    assert_eq!(names.len(), exported.len(), "a name comes twice");
    let unknown: Vec<_> = [before, after]
        .into_iter()
        .flat_map(mentioned)
        .filter(|name| !names.contains(name))
        .collect();
    assert!(unknown.is_empty(), "no such metrics: {unknown:?}");
}

#[test]
fn what_is_registered_is_documented() {
    let registry = Registry::new();
    // A metric with labels is gathered once it has a series.
    let metrics = JobMetrics::new(&registry).expect("the registry is empty");
    metrics.begin("tick");
    let mut drift = DriftMetrics::new(&registry).expect("no name is taken");
    drift.show_time_wait(&[(1, 0)]);
    drift.show_sockets(0);
    let _walks = WalkMetrics::new(&registry).expect("no name is taken");
    let gathered = registry.gather();
    let gathered = gathered.iter().map(|family| {
        let kind = match family.get_field_type() {
            prometheus::proto::MetricType::COUNTER => "counter",
            prometheus::proto::MetricType::GAUGE => "gauge",
            other => panic!("{}: {other:?}", family.name()),
        };
        (family.name(), kind)
    });
    let documented = jobs::METRICS.iter();
    let documented = documented.map(|metric| (metric.name, metric.kind.name()));
    assert_eq!(
        gathered.collect::<BTreeSet<_>>(),
        documented.collect::<BTreeSet<_>>()
    );
}

#[test]
fn the_formula_in_the_documents_is_the_programs() {
    let text = fs::read_to_string(path()).expect("docs/metrics.md can be read");
    let formula = format!(
        "series <= {} + {} x (max-names + 2) + {} x max-processes",
        bound::FIXED,
        bound::BY_NAME,
        bound::BY_PROCESS
    );
    assert!(text.contains(&formula), "docs/metrics.md lacks {formula:?}");
}

#[test]
fn no_label_is_one_that_prometheus_gives_targets() {
    for metric in exported() {
        for taken in ["instance", "job"] {
            let name = metric.name;
            assert!(
                !metric.labels.contains(&taken),
                "{name}: {taken} would become exported_{taken}"
            );
        }
    }
}
