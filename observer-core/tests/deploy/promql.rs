//! Extracts the metrics and labels of a query. promtool checks its syntax.

use std::collections::{BTreeMap, BTreeSet};

use observer_core::export::{family::METRICS, jobs, metric::Type};

/// Labels that Prometheus gives to all series of a target.
const OF_TARGETS: [&str; 2] = ["instance", "job"];

/// Words that are no metric.
const WORDS: [&str; 8] = [
    "and", "or", "unless", "offset", "bool", "inf", "nan", "atan2",
];

/// Words before labels in brackets.
const GROUPING: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];

/// The metrics and labels of a query.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Metrics, each with the labels in the braces after it.
    pub metrics: BTreeMap<String, BTreeSet<String>>,
    /// Labels that are kept, dropped or matched, each with the word before it.
    pub grouping: BTreeSet<(String, String)>,
}

/// Reads a query.
pub fn names(query: &str) -> Names {
    let mut names = Names::default();
    let mut last = String::new();
    let mut rest = query.trim_start();
    while let Some(first) = rest.chars().next() {
        let word = word(rest);
        if first == '"' || first == '\'' {
            rest = after_string(rest);
        } else if first == '{' {
            let (labels, after) = matchers(rest);
            names
                .metrics
                .entry(last.clone())
                .or_default()
                .extend(labels);
            rest = after;
        } else if first == '[' {
            rest = rest.split_once(']').map_or("", |(_, after)| after);
        } else if first.is_ascii_digit() {
            rest = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '.');
        } else if word.is_empty() {
            rest = &rest[first.len_utf8()..];
        } else {
            rest = rest[word.len()..].trim_start();
            if GROUPING.contains(&word) {
                if let Some(list) = rest.strip_prefix('(') {
                    let (list, after) = list.split_once(')').expect("a closing bracket");
                    let labels = list.split(',').map(str::trim).filter(|it| !it.is_empty());
                    let pair = |label: &str| (word.to_owned(), label.to_owned());
                    names.grouping.extend(labels.map(pair));
                    rest = after;
                }
            } else if !rest.starts_with('(')
                && !WORDS.contains(&word)
                && !["by", "without"].contains(&self::word(rest))
            {
                word.clone_into(&mut last);
                names.metrics.entry(last.clone()).or_default();
            }
        }
        rest = rest.trim_start();
    }
    names
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    &text[..end.unwrap_or(text.len())]
}

fn after_string(text: &str) -> &str {
    let quote = text.chars().next().expect("a quote");
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return &text[at + 1..];
        }
        escaped = c == '\\' && !escaped;
    }
    panic!("a string without an end: {text}")
}

/// The labels in braces, and what follows.
fn matchers(text: &str) -> (Vec<String>, &str) {
    let mut labels = Vec::new();
    let mut rest = &text[1..];
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || "=!~,".contains(c));
        if let Some(after) = rest.strip_prefix('}') {
            return (labels, after);
        }
        if rest.starts_with(['"', '\'']) {
            rest = after_string(rest);
            continue;
        }
        let word = word(rest);
        assert!(!word.is_empty(), "not a label: {rest}");
        labels.push(word.to_owned());
        rest = &rest[word.len()..];
    }
}

/// The metrics there are, each with its labels.
pub struct Known(BTreeMap<String, BTreeSet<String>>);

impl Known {
    /// Those of the observer, and those that Prometheus makes of each scrape.
    pub fn new() -> Self {
        let mut known = BTreeMap::new();
        for metric in METRICS.iter().chain(jobs::METRICS.iter().copied()) {
            // Findings are about a process, or about none.
            let scope: &[&str] = match metric.name {
                name if name.starts_with("socket_anomal") => &[],
                _ => metric.scope.labels(),
            };
            let labels = metric.labels.iter().chain(scope).chain(&OF_TARGETS);
            let labels: BTreeSet<_> = labels.map(|it| (*it).to_owned()).collect();
            if matches!(metric.kind, Type::Histogram | Type::GaugeHistogram) {
                let with_bound = labels.iter().cloned().chain(["le".to_owned()]).collect();
                known.insert(format!("{}_bucket", metric.name), with_bound);
                for suffix in ["sum", "count"] {
                    known.insert(format!("{}_{suffix}", metric.name), labels.clone());
                }
            } else {
                known.insert(metric.name.to_owned(), labels);
            }
        }
        for name in ["up", "ALERTS"] {
            let labels = OF_TARGETS.map(str::to_owned);
            known.insert(name.to_owned(), labels.into());
        }
        let labels = known.get_mut("ALERTS").expect("it was inserted");
        labels.extend(["alertname", "alertstate", "severity"].map(str::to_owned));
        Self(known)
    }

    /// The names of all series, in order.
    pub fn series(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Adds the series of a recording rule.
    pub fn record(&mut self, name: &str, query: &str) {
        let Names { metrics, grouping } = names(query);
        let of = |word: &str| -> BTreeSet<_> {
            let pairs = grouping.iter().filter(|(it, _)| it == word);
            pairs.map(|(_, label)| label.clone()).collect()
        };
        let mut labels = of("by");
        if labels.is_empty() {
            labels = metrics.keys().flat_map(|it| self.0[it].clone()).collect();
            for dropped in of("without") {
                labels.remove(&dropped);
            }
        }
        self.0.insert(name.to_owned(), labels);
    }

    /// Errors in a query's names.
    pub fn unknown(&self, query: &str) -> Vec<String> {
        let Names { metrics, grouping } = names(query);
        let mut wrong = Vec::new();
        let mut all = BTreeSet::new();
        for (name, labels) in &metrics {
            let Some(known) = self.0.get(name) else {
                wrong.push(format!("there is no {name}: {query}"));
                continue;
            };
            all.extend(known);
            let unknown = labels.difference(known);
            wrong.extend(unknown.map(|label| format!("{name} has no {label}: {query}")));
        }
        let unknown = grouping.iter().filter(|(_, label)| !all.contains(label));
        wrong.extend(unknown.map(|(_, label)| format!("nothing has {label}: {query}")));
        wrong
    }
}

#[test]
fn names_are_read() {
    let query = "sum by (comm, le) (rate(a_total{b=\"x}y\", c!~'z'}[5m] offset 1h)) / on (pid) \
                 group_left () (d > bool 1.5e3) or vector(0)";
    let read = names(query);
    let set = |labels: &[&str]| -> BTreeSet<String> {
        labels.iter().map(|it| (*it).to_owned()).collect()
    };
    let metrics = [
        ("a_total".to_owned(), set(&["b", "c"])),
        ("d".to_owned(), set(&[])),
    ];
    assert_eq!(read.metrics, metrics.into());
    let pair = |word: &str, label: &str| (word.to_owned(), label.to_owned());
    let grouping = [pair("by", "comm"), pair("by", "le"), pair("on", "pid")];
    assert_eq!(read.grouping, grouping.into());
}

#[test]
fn unknown_names_are_told() {
    let mut known = Known::new();
    known.record(
        "r",
        "sum without (instance) (rate(socket_resets_total[5m]))",
    );
    let ok = [
        "rate(socket_connect_seconds_bucket{le=\"1\"}[5m])",
        "r{reason=\"x\"}",
        "up{job=\"observer\"} == 0",
        "socket_anomaly{pid!=\"\"}",
    ];
    for query in ok {
        assert!(known.unknown(query).is_empty(), "{query}");
    }
    let wrong = [
        "socket_reset_total",
        "socket_resets_total{pid=\"1\"}",
        "socket_connect_seconds",
        "sum by (reasons) (socket_resets_total)",
        "r{instance=\"a\"}",
    ];
    for query in wrong {
        assert_eq!(known.unknown(query).len(), 1, "{query}");
    }
}
