//! Tests that docs/hints.md matches the program.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use super::{HINTS, Shown, Sockets};
use crate::export::family::METRICS;

const START: &str = "<!-- generated from the program: start -->\n";
const END: &str = "<!-- generated from the program: end -->\n";

/// Compares the marked part of a document, or writes it if asked to.
pub(crate) fn check(document: &str, generated: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(document);
    let text = fs::read_to_string(&path).expect("the document can be read");
    let (before, rest) = text.split_once(START).expect("the start is marked");
    let (within, after) = rest.split_once(END).expect("the end is marked");
    if within == generated {
        return;
    }
    if std::env::var_os("OBSERVER_UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{START}{generated}{END}{after}"))
            .expect("the document can be written");
        return;
    }
    panic!(
        "docs/{document} is out of date; `OBSERVER_UPDATE_DOCS=1 cargo test -p observer-core documented` \
         writes its lists anew"
    );
}

/// As a cell of a table.
pub(crate) fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[test]
fn hints_are_in_the_documents() {
    let mut text = String::from(
        "\n## setsockopt()\n\n| id | option, errno, sockets | shown if | fact | kernels | fix | check |\n|---|---|---|---|---|---|---|\n",
    );
    let mut connections = String::from(
        "\n## Connections and limits\n\n| id | shown if | fact | kernels | fix | check |\n|---|---|---|---|---|---|\n",
    );
    for hint in &HINTS {
        let needs: Vec<_> = hint.needs.iter().map(ToString::to_string).collect();
        let needs = needs.join(" and ");
        let rest = [&needs, hint.fact, hint.kernels, hint.fix, hint.check]
            .map(cell)
            .join(" | ");
        let Shown::BySetsockopt {
            options,
            prefixes,
            errnos,
            sockets,
        } = hint.shown
        else {
            let _ = writeln!(connections, "| {} | {rest} |", hint.id);
            continue;
        };
        let prefixes = prefixes.iter().map(|prefix| format!("{prefix}*"));
        let options: Vec<_> = options
            .iter()
            .map(|it| (*it).to_owned())
            .chain(prefixes)
            .collect();
        let sockets = match sockets {
            Sockets::All => "all",
            Sockets::NotInternet => "not inet or inet6",
            Sockets::Protocol(name) | Sockets::Family(name) => name,
        };
        let of = format!("{}; {}; {sockets}", options.join(", "), errnos.join(", "));
        let _ = writeln!(text, "| {} | {of} | {rest} |", hint.id);
    }
    text.push_str(&connections);
    text.push('\n');
    check("hints.md", &text);
}

#[test]
fn metrics_that_hints_name_exist() {
    let metrics: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    let text: String = HINTS.iter().map(|hint| hint.check).collect();
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let named: BTreeSet<&str> = words.filter(|word| word.starts_with("socket_")).collect();
    let unknown: Vec<_> = named.difference(&metrics).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert!(named.len() > 5);
}
