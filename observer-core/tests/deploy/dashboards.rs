//! Dashboards of Grafana.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use crate::{at, read, rules::known};

const FOLDER: &str = "deploy/grafana/dashboards";

fn dashboards() -> Vec<(String, Value)> {
    let mut dashboards = Vec::new();
    for file in fs::read_dir(at(FOLDER)).expect("the dashboards") {
        let name = file.expect("a file").file_name();
        let name = name.to_string_lossy().into_owned();
        let json = serde_json::from_str(&read(&format!("{FOLDER}/{name}")));
        dashboards.push((name, json.expect("JSON")));
    }
    assert_eq!(dashboards.len(), 3);
    dashboards
}

/// Calls `look` with each value of a field named `name`, however deep.
fn each(value: &Value, name: &str, look: &mut impl FnMut(&Value)) {
    match value {
        Value::Object(fields) => {
            if let Some(found) = fields.get(name) {
                look(found);
            }
            fields.values().for_each(|it| each(it, name, look));
        }
        Value::Array(items) => items.iter().for_each(|it| each(it, name, look)),
        _ => {}
    }
}

#[test]
fn queries_name_what_exists() {
    let known = known();
    let mut wrong = Vec::new();
    for (_, dashboard) in dashboards() {
        each(&dashboard, "expr", &mut |query| {
            wrong.extend(known.unknown(query.as_str().expect("a query")));
        });
        // label_values(metric{...}, label)
        each(&dashboard["templating"], "definition", &mut |query| {
            let query = query.as_str().expect("a query");
            let inner = query
                .strip_prefix("label_values(")
                .and_then(|it| it.strip_suffix(')'));
            let (selector, label) = inner.expect(query).rsplit_once(", ").expect(query);
            wrong.extend(known.unknown(&format!("sum by ({label}) ({selector})")));
        });
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_panel_can_be_understood() {
    for (name, dashboard) in dashboards() {
        let mut ids = BTreeSet::new();
        for panel in dashboard["panels"].as_array().expect("panels") {
            let title = panel["title"].as_str().expect("a title");
            assert!(ids.insert(panel["id"].as_u64()), "{name}: {title}: its id");
            if panel["type"] == "row" {
                continue;
            }
            let what = panel["description"].as_str().unwrap_or_default();
            assert!(what.ends_with('.'), "{name}: {title} says not what it is");
            let defaults = &panel["fieldConfig"]["defaults"];
            assert!(defaults["unit"].is_string(), "{name}: {title} has no unit");
            let steps = &defaults["thresholds"]["steps"];
            assert!(steps.is_array(), "{name}: {title} has no thresholds");
        }
    }
}

/// Links go to dashboards and runbooks that exist.
#[test]
fn links_lead_somewhere() {
    let dashboards = dashboards();
    let uids: BTreeSet<_> = dashboards
        .iter()
        .map(|(name, it)| {
            let uid = it["uid"].as_str().expect("a uid");
            assert_eq!(*name, format!("{uid}.json"));
            uid
        })
        .collect();
    for (name, dashboard) in &dashboards {
        let mut links = 0;
        each(dashboard, "url", &mut |url| {
            let url = url.as_str().expect("a URL");
            links += 1;
            if let Some(file) = url.strip_prefix("https://runbooks.example.com/observer/") {
                read(&format!("docs/runbooks/{file}"));
            } else {
                let uid = url.strip_prefix("/d/").and_then(|it| it.split('?').next());
                assert!(uids.contains(uid.expect(url)), "{name}: {url}");
            }
        });
        assert!(links > 5, "{name}");
    }
}
