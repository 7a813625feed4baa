//! Dashboards of Grafana.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use observer_test_support::{packaged, skip, tools_are_installed};
use serde_json::{Value, json};

use crate::{
    at, read,
    rules::{RUNBOOKS, known},
};

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

/// Links go to dashboards and runbooks that exist. Those to dashboards keep the data source and the place of the runbooks.
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
        let variables = dashboard["templating"]["list"].as_array();
        let mut variables = variables.expect("variables").iter();
        let runbooks = variables.find(|it| it["name"] == "runbooks");
        assert_eq!(runbooks.expect(name)["current"]["value"], RUNBOOKS);
        let mut links = 0;
        each(dashboard, "url", &mut |url| {
            let url = url.as_str().expect("a URL");
            links += 1;
            if let Some(file) = url.strip_prefix("${runbooks:raw}/") {
                read(&format!("docs/runbooks/{file}"));
            } else {
                let uid = url.strip_prefix("/d/").and_then(|it| it.split('?').next());
                assert!(uids.contains(uid.expect(url)), "{name}: {url}");
                for kept in ["&${datasource:queryparam}", "&${runbooks:queryparam}"] {
                    assert!(url.contains(kept), "{name}: {url} loses {kept}");
                }
            }
        });
        assert!(links > 5, "{name}");
    }
}

/// The Python that has Grafana's classes, from PyPI.
fn python_with_grafana() -> Option<PathBuf> {
    let python = packaged::python()?;
    let import = ["-c", "import grafana_foundation_sdk"];
    let output = Command::new(&python).args(import).output();
    let works = output.expect("it starts").status.success();
    assert!(works || !tools_are_installed(), "{python:?} {import:?}");
    works.then_some(python)
}

/// What Grafana's classes do not have in a dashboard, a line for each.
fn unknown_to_grafana(python: &Path, dashboards: &[PathBuf]) -> String {
    let output = Command::new(python)
        .arg(at("observer-core/tests/deploy/dashboard.py"))
        .args(dashboards)
        .output();
    let output = output.expect("it starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.is_empty(), "{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn grafana_knows_each_field_and_value() {
    let Some(python) = python_with_grafana() else {
        skip!("grafana-foundation-sdk is not installed");
    };
    let dashboards = dashboards();
    let files: Vec<_> = dashboards
        .iter()
        .map(|(name, _)| at(FOLDER).join(name))
        .collect();
    assert_eq!(unknown_to_grafana(&python, &files), "");

    // What it does not know is found in each part.
    let (_, dashboard) = &dashboards[0];
    let panels = dashboard["panels"].as_array().expect("panels");
    let stat = panels.iter().position(|it| it["type"] == "stat");
    let stat = format!("/panels/{}", stat.expect("a stat"));
    let folder = tempfile::tempdir().expect("a folder");
    for (part, field, value, found) in [
        ("", "schemaVersion", json!("41"), ".schema_version: '41'"),
        (&*stat, "gridpos", json!({}), ".gridpos: no such field"),
        (&stat, "type", json!("statt"), "no such panel: 'statt'"),
        (
            &format!("{stat}/gridPos"),
            "w",
            json!("8"),
            ".grid_pos.w: '8'",
        ),
        (
            &format!("{stat}/options"),
            "colorMode",
            json!("pink"),
            ".color_mode: 'pink'",
        ),
        (
            &format!("{stat}/options"),
            "colour",
            json!("x"),
            ".colour: no such field",
        ),
        (
            &format!("{stat}/targets/0"),
            "query",
            json!("up"),
            ".query: no such field",
        ),
        (
            &format!("{stat}/fieldConfig/defaults"),
            "min",
            json!("0"),
            ".min_val: '0'",
        ),
        (
            "/templating/list/0",
            "type",
            json!("queries"),
            ".type_val: 'queries'",
        ),
    ] {
        let mut wrong = dashboard.clone();
        wrong.pointer_mut(part).expect(part)[field] = value;
        let file = folder.path().join("wrong.json");
        fs::write(&file, wrong.to_string()).expect("it is written");
        let lines = unknown_to_grafana(&python, &[file]);
        assert!(lines.contains(found), "{part} {field}: {lines}");
    }
}
