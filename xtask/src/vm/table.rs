//! The tables: what each kernel offers, and what each test found on it.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use super::outcome::{Outcome, Verdict};

/// One kernel's part of a run.
pub struct Row {
    /// As asked for: `6.1-rt`.
    pub name: String,
    pub release: String,
    /// Version of the package.
    pub version: String,
    pub took: Duration,
    /// What went wrong with the guest as a whole.
    pub trouble: Option<String>,
    pub outcome: Outcome,
}

type Table = Vec<Vec<String>>;

/// Kernels, one line each.
fn kernels(rows: &[Row]) -> Table {
    let mut table = vec![
        ["kernel", "release", "package", "time", "end"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for row in rows {
        table.push(vec![
            row.name.clone(),
            row.release.clone(),
            row.version.clone(),
            format!("{:.0} s", row.took.as_secs_f64()),
            row.trouble.clone().unwrap_or_else(|| "ok".to_owned()),
        ]);
    }
    table
}

/// The kind of hook that serves each signal, by kernel.
fn signals(rows: &[Row]) -> Table {
    let mut order: Vec<String> = Vec::new();
    let mut cells: BTreeMap<(String, usize), Vec<String>> = BTreeMap::new();
    for (column, row) in rows.iter().enumerate() {
        for verdict in verdicts(row) {
            let text = |key: &str| verdict[key].as_str().unwrap_or("?").to_owned();
            let signal = format!("{} ({})", text("signal"), text("hook"));
            if !order.contains(&signal) {
                order.push(signal.clone());
            }
            let cell = match text("status").as_str() {
                "attached" => text("rung"),
                "not_needed" => continue,
                other => format!("{} {other}", text("rung")),
            };
            cells.entry((signal, column)).or_default().push(cell);
        }
    }
    with_columns(rows, "signal (hook)", order, |signal, column| {
        cells
            .get(&(signal.to_owned(), column))
            .map_or("-".to_owned(), |cells| cells.join(", "))
    })
}

fn tests(rows: &[Row]) -> Table {
    let mut order: Vec<String> = Vec::new();
    for name in rows.iter().flat_map(|row| row.outcome.programs.keys()) {
        if !order.contains(name) {
            order.push(name.clone());
        }
    }
    order.sort();
    with_columns(rows, "test file", order, |name, column| {
        let program = rows[column].outcome.programs.get(name);
        program.map_or("not run".to_owned(), |program| program.cell())
    })
}

fn with_columns(
    rows: &[Row],
    corner: &str,
    names: Vec<String>,
    cell: impl Fn(&str, usize) -> String,
) -> Table {
    let header = rows.iter().map(|row| row.name.clone());
    let mut table: Table = vec![std::iter::once(corner.to_owned()).chain(header).collect()];
    for name in names {
        let cells = (0..rows.len()).map(|column| cell(&name, column));
        table.push(std::iter::once(name.clone()).chain(cells).collect());
    }
    table
}

fn verdicts(row: &Row) -> impl Iterator<Item = &serde_json::Value> {
    let report = row.outcome.report.as_ref();
    report
        .and_then(|report| report["verdicts"].as_array())
        .into_iter()
        .flatten()
}

/// What the cells of the tables leave out, one line each.
fn remarks(rows: &[Row]) -> Vec<String> {
    let mut reasons: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut note = |text: String, row: &'_ Row| {
        let name: &str = &rows[rows.iter().position(|r| r.name == row.name).unwrap_or(0)].name;
        let kernels = reasons.entry(text).or_default();
        if !kernels.contains(&name) {
            kernels.push(name);
        }
    };
    for row in rows {
        for verdict in verdicts(row) {
            let text = |key: &str| verdict[key].as_str().unwrap_or_default();
            if !matches!(text("status"), "attached" | "not_needed") {
                note(
                    format!("{} is {}: {}", text("hook"), text("status"), text("detail")),
                    row,
                );
            }
        }
        let report = row.outcome.report.as_ref();
        let absent = report.and_then(|report| report["absent_fields"].as_array());
        for field in absent.into_iter().flatten() {
            let text = |key: &str| field[key].as_str().unwrap_or_default();
            note(
                format!("{}: {} is off", text("field"), text("feature")),
                row,
            );
        }
        for (file, program) in &row.outcome.programs {
            for (test, verdict) in &program.tests {
                match verdict {
                    Verdict::Passed => {}
                    Verdict::Failed => note(format!("{file}::{test} failed"), row),
                    Verdict::Skipped(why) => {
                        note(format!("{file}::{test} was skipped: {why}"), row)
                    }
                }
            }
        }
        for text in &row.outcome.notes {
            note(text.clone(), row);
        }
    }
    reasons
        .into_iter()
        .map(|(text, kernels)| format!("{}: {text}", kernels.join(", ")))
        .collect()
}

/// For a terminal.
pub fn text(rows: &[Row]) -> String {
    let mut text = String::new();
    for table in [kernels(rows), signals(rows), tests(rows)] {
        if table.len() < 2 {
            continue;
        }
        let width = |column: usize| table.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths: Vec<_> = (0..table[0].len()).map(width).collect();
        for row in &table {
            let cells = row.iter().zip(&widths);
            let line: Vec<_> = cells
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            let _ = writeln!(text, "{}", line.join("  ").trim_end());
        }
        text.push('\n');
    }
    for remark in remarks(rows) {
        let _ = writeln!(text, "{remark}");
    }
    text
}

/// The document about kernels.
pub fn markdown(rows: &[Row], date: &str, accelerator: &str) -> String {
    let mut text = format!(
        "# Kernels\n\n\
         Written by `cargo xtask vm --write-table` on {date}; QEMU with {accelerator}. Stock Debian\n\
         kernels for x86_64, each booted with the same test programs. The first table says what\n\
         was booted, the second which kind of hook serves each signal (`observer check`), the\n\
         third what the tests on a real kernel found.\n"
    );
    for table in [kernels(rows), signals(rows), tests(rows)] {
        if table.len() < 2 {
            continue;
        }
        text.push('\n');
        for (number, row) in table.iter().enumerate() {
            let cells: Vec<_> = row.iter().map(|cell| cell.replace('|', r"\|")).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
            if number == 0 {
                let _ = writeln!(text, "|{}", "---|".repeat(row.len()));
            }
        }
    }
    let remarks = remarks(rows);
    if !remarks.is_empty() {
        text.push('\n');
    }
    for remark in remarks {
        let _ = writeln!(text, "- {remark}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{super::outcome, *};

    fn row(name: &str, status: &str, output: &str) -> Row {
        let json = format!(
            "@@ begin json\n{{\"verdicts\":[{{\"signal\":\"state\",\"rung\":\"tp_btf\",\"hook\":\"h\",\
             \"status\":\"{status}\",\"detail\":\"why\"}}]}}\n@@ end json 0\n{output}"
        );
        Row {
            name: name.to_owned(),
            release: format!("{name}.0-amd64"),
            version: "1".to_owned(),
            took: Duration::from_secs(9),
            trouble: None,
            outcome: outcome::parse(&json),
        }
    }

    #[test]
    fn kernels_stand_side_by_side() {
        let test = "@@ begin kernel_reset\ntest a ... skipped: no x\nok\n@@ end kernel_reset 0 3\n";
        let rows = [row("5.10", "refused", ""), row("6.1", "attached", test)];
        let text = text(&rows);
        assert!(
            text.contains("state (h)      tp_btf refused  tp_btf\n"),
            "{text}"
        );
        assert!(
            text.contains("kernel_reset  not run  0 passed, 1 skipped\n"),
            "{text}"
        );
        assert!(text.contains("5.10: h is refused: why\n"), "{text}");
        assert!(
            text.contains("6.1: kernel_reset::a was skipped: no x\n"),
            "{text}"
        );
        let markdown = markdown(&rows, "2026-01-01", "tcg");
        assert!(
            markdown.contains("| state (h) | tp_btf refused | tp_btf |\n"),
            "{markdown}"
        );
        assert!(markdown.contains("|---|---|---|\n"), "{markdown}");
    }
}
