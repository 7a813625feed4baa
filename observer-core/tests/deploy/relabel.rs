//! Which series the examples for many hosts keep.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::Value;

use crate::{
    read,
    rules::{items, known, queried, text, yaml},
};

/// Whether relabelling keeps a series of this name. Only the name can be looked at, and `runbooks`, which no series of an
/// observer has, can be removed from the labels.
fn keeps(rules: &Value, name: &str) -> bool {
    items(rules).iter().all(|rule| {
        if rule["action"] == "labeldrop" {
            assert_eq!(rule["regex"], "runbooks");
            return true;
        }
        assert_eq!(rule["source_labels"], serde_json::json!(["__name__"]));
        // Prometheus anchors expressions at both ends.
        let regex = format!("^(?:{})$", text(&rule["regex"]));
        let matches = Regex::new(&regex).expect("a regex").is_match(name);
        match text(&rule["action"]) {
            "drop" => !matches,
            "keep" => matches,
            other => panic!("the action {other}"),
        }
    })
}

/// Names of series that are kept, and of those that are not.
fn divide(rules: &Value) -> [BTreeSet<String>; 2] {
    assert!(!items(rules).is_empty(), "no rule");
    let known = known();
    let (kept, dropped): (BTreeSet<_>, BTreeSet<_>) = known
        .series()
        .map(str::to_owned)
        .partition(|name| keeps(rules, name));
    [kept, dropped]
}

#[test]
fn relabelling_is_evaluated() {
    let rule = |regex, action| serde_json::json!([{ "source_labels": ["__name__"], "regex": regex, "action": action }]);
    assert!(keeps(&rule("a|b.*", "keep"), "bc"));
    assert!(!keeps(&rule("a|b.*", "keep"), "ab"));
    assert!(!keeps(&rule("a", "drop"), "a") && keeps(&rule("a", "drop"), "aa"));
}

#[test]
fn an_agent_drops_what_no_rule_queries() {
    let agent = yaml("deploy/prometheus/agent.yml");
    let [_, dropped] = divide(&agent["scrape_configs"][0]["metric_relabel_configs"]);
    let expected = [
        "socket_close_wait_seconds_bucket",
        "socket_conn_age_seconds_bucket",
        "socket_live_conn_age_seconds_bucket",
        "socket_state_transitions_total",
    ];
    assert_eq!(dropped, expected.map(str::to_owned).into());
    let queried = queried();
    assert!(dropped.is_disjoint(&queried), "{queried:?}");

    let [kept, dropped] = divide(&agent["remote_write"][0]["write_relabel_configs"]);
    let by_process = |name: &&String| name.starts_with("socket_process_");
    assert!(dropped.iter().all(|name| by_process(&name)), "{dropped:?}");
    let kept: BTreeSet<_> = kept.iter().filter(by_process).collect();
    let needed: BTreeSet<_> = queried.iter().filter(by_process).collect();
    assert_eq!(kept, needed);
}

#[test]
fn results_of_rules_and_findings_are_forwarded_and_nothing_else_about_sockets() {
    let document = read("docs/fleet.md");
    let lines = document
        .lines()
        .skip_while(|it| it.trim() != "remote_write:");
    let block: Vec<_> = lines.take_while(|it| it.starts_with("    ")).collect();
    let example: Value = serde_saphyr::from_str(&block.join("\n")).expect("YAML");
    let relabelling = &example["remote_write"][0]["write_relabel_configs"];
    let drops_label = |it: &Value| it["action"] == "labeldrop";
    assert!(items(relabelling).iter().any(drops_label), "runbooks stays");
    let [kept, dropped] = divide(relabelling);
    let is_result = |name: &String| name.contains(':') || name.starts_with("socket_anomal");
    let wrong: Vec<_> = dropped.iter().filter(|name| is_result(name)).collect();
    assert!(wrong.is_empty(), "dropped: {wrong:?}");
    let sockets = kept.iter().filter(|name| name.starts_with("socket_"));
    let wrong: Vec<_> = sockets.filter(|name| !is_result(name)).collect();
    assert!(wrong.is_empty(), "kept: {wrong:?}");
    for name in [
        "up",
        "ALERTS",
        "observer_signal_missing",
        "observer_job_failures_total",
    ] {
        assert!(kept.contains(name), "{name}");
    }
}
