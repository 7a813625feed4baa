//! The queries that docs/metrics.md recommends, and the names in them.

use std::{collections::BTreeSet, path::Path};

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    std::fs::read_to_string(path).unwrap()
}

/// The queries of the documentation: see [`queries_in`].
pub fn documented_queries() -> Vec<String> {
    queries_in(&document())
}

/// The names of all metrics that the documentation lists: the first column of its tables.
pub fn documented_names() -> BTreeSet<String> {
    let document = document();
    let rows = document.lines().filter_map(|line| line.strip_prefix('|'));
    let first_cells = rows.filter_map(|row| row.split('|').next());
    first_cells.flat_map(metric_names).collect()
}

/// Queries in a document: the indented lines of the section "Queries", of which those that are
/// indented deeper continue the line before; and what is between backquotes in the last column
/// of tables whose last column is headed "query".
fn queries_in(document: &str) -> Vec<String> {
    let mut queries: Vec<String> = Vec::new();
    let (mut section, mut table) = (false, false);
    for line in document.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title == "Queries";
        }
        if section && let Some(code) = line.strip_prefix("    ") {
            match queries.last_mut() {
                Some(last) if code.starts_with(' ') => {
                    last.push('\n');
                    last.push_str(code);
                }
                _ => queries.push(code.to_owned()),
            }
        }
        let Some(cell) = last_cell(line) else {
            table = false;
            continue;
        };
        if cell == "query" {
            table = true;
        } else if table {
            queries.extend(cell.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    queries
}

/// The last cell of a row of a table, where `\|` stands for a bar that is no border.
fn last_cell(line: &str) -> Option<String> {
    let row = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    let mut row = row.replace("\\|", "\0");
    let cell = row.rfind('|').map_or(0, |at| at + 1);
    let cell = row.split_off(cell).replace('\0', "|");
    Some(cell.trim().to_owned())
}

/// The observer's metrics that a text names, without what histograms add to theirs.
pub fn metric_names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':')
        .filter(|word| {
            ["socket_", "observer_", "process_"]
                .iter()
                .any(|it| word.starts_with(it))
        })
        .map(|word| {
            let base = ["_bucket", "_count", "_sum"]
                .into_iter()
                .find_map(|suffix| word.strip_suffix(suffix));
            base.unwrap_or(word).to_owned()
        })
        .collect()
}

#[test]
fn queries_are_found_where_they_are() {
    let document = "# Metrics
    not_a_query
| name | query |
|---|---|
| `socket_a` | `rate(socket_a[5m])`, `socket_a{b=~\"x\\|y\"} > 1` |

| name | what |
|---|---|
| `socket_b` | `no query` |
## Queries
Words:

    socket_c
    rate(socket_d[5m])
      / socket_e

## Other

    not_a_query
";
    assert_eq!(
        queries_in(document),
        [
            "rate(socket_a[5m])",
            "socket_a{b=~\"x|y\"} > 1",
            "socket_c",
            "rate(socket_d[5m])\n  / socket_e",
        ]
    );
    let names = metric_names("sum(rate(socket_x_seconds_bucket{socket=\"y\"}[5m])) by (le)");
    assert_eq!(names, ["socket_x_seconds".to_owned()].into());
}
