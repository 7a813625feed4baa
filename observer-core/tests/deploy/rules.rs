//! Rules of Prometheus, their tests and their runbooks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use observer_core::detect::Anomaly;
use observer_test_support::needs_programs;
use serde_json::Value;

use crate::{
    at,
    promql::{Known, names},
    read,
};

const ALERTS: &str = "deploy/prometheus/rules/observer-alerts.yml";
const RECORDING: &str = "deploy/prometheus/rules/observer-recording.yml";
const TESTS: &str = "deploy/prometheus/tests";

/// Where the packages install docs/runbooks.
pub const RUNBOOKS: &str = "file:///usr/share/doc/observer/docs/runbooks";

pub fn yaml(path: &str) -> Value {
    let text = read(path);
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

fn rules() -> Vec<Value> {
    let mut rules = Vec::new();
    for path in [RECORDING, ALERTS] {
        for group in items(&yaml(path)["groups"]) {
            rules.extend_from_slice(items(&group["rules"]));
        }
    }
    rules
}

/// Series of recording rules are known, too.
pub fn known() -> Known {
    let mut known = Known::new();
    for rule in rules() {
        if let Some(name) = rule["record"].as_str() {
            known.record(name, text(&rule["expr"]));
        }
    }
    known
}

/// The queries in an annotation: arguments of printf, with something for each `%q`.
fn queries(annotation: &str) -> Vec<String> {
    let after = annotation.split("printf \"").skip(1);
    let query = |after: &str| {
        let mut end = 0;
        let bytes = after.as_bytes();
        while bytes[end] != b'"' || bytes[end - 1] == b'\\' {
            end += 1;
        }
        after[..end].replace("\\\"", "\"").replace("%q", "\"x\"")
    };
    // `%.1f` and the like show a value.
    after.map(query).filter(|it| !it.starts_with('%')).collect()
}

fn tests() -> Vec<(String, Value)> {
    let files = fs::read_dir(at(TESTS)).expect("the tests");
    let name = |file: fs::DirEntry| file.file_name().to_string_lossy().into_owned();
    let names: BTreeSet<_> = files.map(|file| name(file.expect("a file"))).collect();
    let names = names.into_iter();
    names
        .map(|name| (name.clone(), yaml(&format!("{TESTS}/{name}"))))
        .collect()
}

#[test]
fn rules_name_what_exists() {
    let known = known();
    let mut wrong = Vec::new();
    for rule in rules() {
        wrong.extend(known.unknown(text(&rule["expr"])));
        if let Some(description) = rule["annotations"]["description"].as_str() {
            for query in queries(description) {
                wrong.extend(known.unknown(&query));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_alert_says_how_bad_it_is_and_what_to_do() {
    let index = read("docs/runbooks/README.md");
    let mut runbooks = BTreeSet::from(["README.md".to_owned()]);
    for rule in rules() {
        let Some(name) = rule["alert"].as_str() else {
            continue;
        };
        let severity = text(&rule["labels"]["severity"]);
        assert!(
            ["info", "warning", "critical"].contains(&severity),
            "{name}"
        );
        let annotations = &rule["annotations"];
        assert!(text(&annotations["summary"]).contains("instance"), "{name}");
        assert!(annotations["description"].is_string(), "{name}");
        let file = format!("{name}.md");
        let url = text(&annotations["runbook_url"]);
        let server = "{{ with $externalLabels.runbooks }}{{ . }}{{ else }}";
        assert_eq!(url, format!("{server}{RUNBOOKS}{{{{ end }}}}/{file}"));
        assert!(index.contains(&format!("]({file})")), "{name}");
        let runbook = read(&format!("docs/runbooks/{file}"));
        assert!(runbook.starts_with(&format!("# {name}\n")), "{name}");
        for part in ["What it means", "Is it real?", "Who", "Fix", "Verify"] {
            assert!(runbook.contains(part), "{name}: {part}");
        }
        runbooks.insert(file);
    }
    let files = fs::read_dir(at("docs/runbooks")).expect("the runbooks");
    for file in files {
        let name = file
            .expect("a file")
            .file_name()
            .to_string_lossy()
            .into_owned();
        assert!(runbooks.contains(&name), "{name} belongs to no alert");
    }
}

/// Metrics in runbooks are in backquotes or indented.
#[test]
fn runbooks_name_metrics_that_exist() {
    let known = known();
    for file in fs::read_dir(at("docs/runbooks")).expect("the runbooks") {
        let path = file.expect("a file").path();
        let text = fs::read_to_string(&path).expect("it can be read");
        let code = text.split('`').skip(1).step_by(2);
        let is_query = |it: &&str| it.contains("socket_") || it.contains("observer_");
        for query in code.filter(is_query) {
            let unknown = known.unknown(query);
            assert!(unknown.is_empty(), "{}: {unknown:?}", path.display());
        }
    }
}

#[test]
fn each_anomaly_has_an_alert() {
    let rules = rules();
    let alerts: Vec<_> = rules.iter().filter(|it| it["alert"].is_string()).collect();
    for anomaly in Anomaly::ALL {
        let name = anomaly.name();
        let is_meant = |rule: &&Value| text(&rule["expr"]).contains(name);
        assert!(alerts.iter().any(is_meant), "{name}");
    }
}

/// When each alert fires and when not, with a series that comes and goes; and each recording.
#[test]
fn each_rule_has_a_test() {
    let mut fires: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut silent: BTreeMap<String, usize> = BTreeMap::new();
    let mut evaluated = String::new();
    for (_, file) in tests() {
        for group in items(&file["tests"]) {
            for check in items(&group["alert_rule_test"]) {
                let name = text(&check["alertname"]);
                let alerts = items(&check["exp_alerts"]);
                if alerts.is_empty() {
                    *silent.entry(name.to_owned()).or_default() += 1;
                }
                for alert in alerts {
                    let severity = text(&alert["exp_labels"]["severity"]);
                    let key = (name.to_owned(), severity.to_owned());
                    *fires.entry(key).or_default() += 1;
                }
            }
            for check in items(&group["promql_expr_test"]) {
                evaluated += text(&check["expr"]);
                evaluated.push('\n');
            }
        }
    }
    for rule in rules() {
        if let Some(name) = rule["alert"].as_str() {
            let severity = text(&rule["labels"]["severity"]).to_owned();
            assert!(
                fires.contains_key(&(name.to_owned(), severity)),
                "{name} never fires"
            );
            assert!(silent.contains_key(name), "{name} is never silent");
        } else if let Some(name) = rule["record"].as_str() {
            let is_used = name.starts_with("comm:");
            assert!(is_used || evaluated.contains(name), "{name} is not tested");
        }
    }
}

/// The series that rules query, in expressions and annotations.
pub fn queried() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for rule in rules() {
        let description = rule["annotations"]["description"].as_str();
        let queries = queries(description.unwrap_or_default());
        for query in queries
            .iter()
            .map(String::as_str)
            .chain([text(&rule["expr"])])
        {
            all.extend(names(query).metrics.into_keys());
        }
    }
    all
}

/// Runs a tool on files, which must succeed.
fn check(program: &str, arguments: &[&str], files: &[String]) {
    let output = Command::new(program)
        .args(arguments)
        .args(files.iter().map(|it| at(it)))
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}:\n{}",
        said.trim_matches('\n')
    );
}

#[test]
fn rules_do_what_their_tests_say() {
    needs_programs!("promtool");
    let files: Vec<_> = tests()
        .into_iter()
        .map(|(name, _)| format!("{TESTS}/{name}"))
        .collect();
    check("promtool", &["test", "rules"], &files);
}

#[test]
fn examples_of_configuration_are_valid() {
    needs_programs!("promtool", "amtool");
    let file = |name: &str| vec![format!("deploy/prometheus/{name}")];
    check("promtool", &["check", "config"], &file("prometheus.yml"));
    check(
        "promtool",
        &["check", "config", "--agent"],
        &file("agent.yml"),
    );
    check("amtool", &["check-config"], &file("alertmanager.yml"));
}
