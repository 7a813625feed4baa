//! Tables of the hooks and test results of each kernel.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde_json::Value;

use super::{
    outcome::{Outcome, Program, full_name},
    packages::Kernel,
};
use crate::{
    attach_types,
    libtest::{Test, Verdict},
};

/// One kernel's part of a run.
pub struct Row {
    /// As asked for: `6.1-rt`.
    pub name: String,
    pub release: String,
    /// Version of the package.
    pub version: String,
    pub took: Duration,
    /// The problem of the guest as a whole, or the first one.
    pub trouble: Option<String>,
    pub outcome: Outcome,
}

impl Row {
    pub fn new(kernel: &Kernel) -> Self {
        Self {
            name: kernel.name.to_string(),
            release: kernel.release.clone(),
            version: kernel.version.clone(),
            took: Duration::ZERO,
            trouble: None,
            outcome: Outcome::default(),
        }
    }
}

/// Cells by line; the first is the header.
type Table = Vec<Vec<String>>;

/// Reasons that cells refer to by number, each with its subjects.
#[derive(Default)]
struct Reasons(Vec<(String, Vec<String>)>);

impl Reasons {
    /// The number of `reason`, to which `subject` is added.
    fn number(&mut self, reason: &str, subject: String) -> usize {
        let at = self.0.iter().position(|(known, _)| known == reason);
        let at = at.unwrap_or_else(|| {
            self.0.push((reason.to_owned(), Vec::new()));
            self.0.len() - 1
        });
        let subjects = &mut self.0[at].1;
        if !subjects.contains(&subject) {
            subjects.push(subject);
        }
        at + 1
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        self.0.iter().enumerate().map(|(at, (reason, subjects))| {
            format!("[{}] {reason}: {}", at + 1, subjects.join(", "))
        })
    }
}

/// Kernels, one line each.
fn kernels(rows: &[Row]) -> Table {
    let header = ["kernel", "release", "package", "time", "end"];
    let mut table = vec![header.map(str::to_owned).to_vec()];
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

/// A table with a column for each kernel. `cell` is given the line's key and the kernel.
fn by_kernel<K>(
    rows: &[Row],
    corner: &[&str],
    keys: Vec<K>,
    name: impl Fn(&K) -> Vec<String>,
    mut cell: impl FnMut(&K, &Row) -> String,
) -> Table {
    let kernels = rows.iter().map(|row| row.name.clone());
    let corner = corner.iter().map(|text| (*text).to_owned());
    let mut table: Table = vec![corner.chain(kernels).collect()];
    for key in keys {
        let mut line = name(&key);
        line.extend(rows.iter().map(|row| cell(&key, row)));
        table.push(line);
    }
    table
}

/// One program's verdict: signal, attach type, hook, status and why.
struct Hook<'a> {
    signal: &'a str,
    attach_type: &'a str,
    hook: &'a str,
    status: &'a str,
    detail: &'a str,
}

/// The statuses that need no explanation.
const ATTACHED: &str = "attached";
const NOT_NEEDED: &str = "not_needed";

fn hooks<'a>(row: &'a Row) -> Vec<Hook<'a>> {
    let report = row.outcome.report.as_ref();
    let verdicts = report.and_then(|report| report["verdicts"].as_array());
    let hook = |verdict: &'a Value| {
        let text = |key: &str| verdict[key].as_str().unwrap_or("?");
        Hook {
            signal: text("signal"),
            attach_type: attach_types::attach_type(verdict),
            hook: text("hook"),
            status: text("status"),
            detail: text("detail"),
        }
    };
    verdicts.into_iter().flatten().map(hook).collect()
}

/// Distinct values, in the order in which they come first.
fn distinct<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut known = Vec::new();
    for value in values {
        if !known.contains(&value) {
            known.push(value);
        }
    }
    known
}

fn or_dash(cells: Vec<String>) -> String {
    if cells.is_empty() {
        "-".to_owned()
    } else {
        cells.join(", ")
    }
}

/// The attach types of each signal.
fn signals(rows: &[Row]) -> Table {
    let all = rows.iter().flat_map(hooks);
    let signals = distinct(all.map(|hook| hook.signal.to_owned()));
    let name = |signal: &String| vec![signal.clone()];
    by_kernel(rows, &["signal"], signals, name, |signal, row| {
        let hooks = hooks(row).into_iter();
        let attached = hooks.filter(|hook| hook.signal == signal && hook.status == ATTACHED);
        or_dash(distinct(attached.map(|hook| hook.attach_type.to_owned())))
    })
}

/// The status of each hook.
fn statuses(rows: &[Row], reasons: &mut Reasons) -> Table {
    let key = |hook: Hook<'_>| [hook.signal, hook.attach_type, hook.hook].map(str::to_owned);
    // Group by signal, including hooks that only some kernels report.
    let mut keys = distinct(rows.iter().flat_map(hooks).map(key));
    let signals = distinct(keys.iter().map(|key| key[0].clone()));
    keys.sort_by_key(|key| signals.iter().position(|signal| *signal == key[0]));
    let corner = ["signal", "attach type", "hook"];
    by_kernel(
        rows,
        &corner,
        keys,
        |key| key.to_vec(),
        |key, row| {
            let hooks = hooks(row).into_iter();
            let own = hooks.filter(|hook| [hook.signal, hook.attach_type, hook.hook] == *key);
            let cells = own.map(|hook| match hook.status {
                ATTACHED => "attached".to_owned(),
                NOT_NEEDED => "not needed".to_owned(),
                status => {
                    let subject = format!("{} {}", hook.attach_type, hook.hook);
                    let number = reasons.number(hook.detail, subject);
                    format!("{} [{number}]", status.replace('_', " "))
                }
            });
            or_dash(distinct(cells))
        },
    )
}

fn files(rows: &[Row]) -> Vec<String> {
    let names = rows.iter().flat_map(|row| row.outcome.programs.keys());
    let mut names = distinct(names.cloned());
    names.sort();
    names
}

fn tests(rows: &[Row], reasons: &mut Reasons) -> Table {
    let name = |file: &String| vec![file.clone()];
    by_kernel(rows, &["tests"], files(rows), name, |file, row| {
        let program = row.outcome.programs.get(file);
        program.map_or("not run".to_owned(), |program| {
            verdict(file, program, reasons)
        })
    })
}

/// `4 passed, 1 skipped [2]`
fn verdict(file: &str, program: &Program, reasons: &mut Reasons) -> String {
    let mut parts = Vec::from_iter(program.trouble());
    let passed = program.count(|verdict| *verdict == Verdict::Passed);
    if passed > 0 {
        parts.push(format!("{passed} passed"));
    }
    let (mut in_part, mut skipped) = (Vec::new(), Vec::new());
    for test in &program.tests {
        let (why, numbers) = match &test.verdict {
            Verdict::InPart(why) => (why, &mut in_part),
            Verdict::Skipped(why) => (why, &mut skipped),
            Verdict::Passed | Verdict::Failed => continue,
        };
        numbers.push(reasons.number(why, full_name(file, &test.name)));
    }
    for (numbers, what) in [(in_part, "passed in part"), (skipped, "skipped")] {
        if !numbers.is_empty() {
            let count = numbers.len();
            let numbers = distinct(numbers).into_iter().map(|n| format!("[{n}]"));
            let numbers: Vec<_> = numbers.collect();
            parts.push(format!("{count} {what} {}", numbers.join(" ")));
        }
    }
    if parts.is_empty() {
        "no tests".to_owned()
    } else {
        parts.join(", ")
    }
}

/// Remarks that are in no table, with their kernels.
fn remarks(rows: &[Row]) -> Vec<String> {
    let mut remarks: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for row in rows {
        let report = row.outcome.report.as_ref();
        let absent = report.and_then(|report| report["absent_fields"].as_array());
        let absent = absent.into_iter().flatten().map(|field| {
            let text = |key: &str| field[key].as_str().unwrap_or_default();
            format!("{} is off: {}", text("feature"), text("field"))
        });
        let failed = row.outcome.programs.iter().flat_map(|(file, program)| {
            let failed = |test: &&Test| test.verdict == Verdict::Failed;
            let failed = program.tests.iter().filter(failed);
            failed.map(move |test| format!("{} failed", full_name(file, &test.name)))
        });
        let notes = row.outcome.notes.iter().cloned();
        for text in absent.chain(failed).chain(notes) {
            let kernels = remarks.entry(text).or_default();
            if !kernels.contains(&row.name.as_str()) {
                kernels.push(&row.name);
            }
        }
    }
    remarks
        .into_iter()
        .map(|(text, kernels)| format!("{}: {text}", kernels.join(", ")))
        .collect()
}

/// Seconds that each test file took, the slowest first.
fn times(rows: &[Row]) -> Table {
    let took = |file: &String, row: &Row| {
        let program = row.outcome.programs.get(file);
        program.map_or(Duration::ZERO, |program| program.took)
    };
    let mut files = files(rows);
    let sum = |file: &String| -> Duration { rows.iter().map(|row| took(file, row)).sum() };
    files.sort_by_key(|file| std::cmp::Reverse(sum(file)));
    let name = |file: &String| vec![file.clone()];
    by_kernel(rows, &["seconds"], files, name, |file, row| {
        format!("{:.1}", took(file, row).as_secs_f64())
    })
}

/// How many of the slowest tests are shown.
const SLOWEST: usize = 12;

/// The tests that take longest, as the mean of all kernels.
fn slowest(rows: &[Row]) -> Table {
    let mut sums: BTreeMap<String, (Duration, u32)> = BTreeMap::new();
    for (file, program) in rows.iter().flat_map(|row| &row.outcome.programs) {
        for test in &program.tests {
            let (sum, count) = sums.entry(full_name(file, &test.name)).or_default();
            *sum += test.took;
            *count += 1;
        }
    }
    let mut means: Vec<_> = sums
        .into_iter()
        .map(|(name, (sum, count))| (sum / count, name))
        .collect();
    means.sort_by(|a, b| b.cmp(a));
    let mut table = vec![vec!["slowest test".to_owned(), "mean seconds".to_owned()]];
    for (mean, name) in means.into_iter().take(SLOWEST) {
        table.push(vec![name, format!("{:.1}", mean.as_secs_f64())]);
    }
    table
}

/// For a terminal.
pub fn text(rows: &[Row]) -> String {
    let mut reasons = Reasons::default();
    // There are many hooks: list only the reasons of those that are not attached.
    statuses(rows, &mut reasons);
    let tables = [
        kernels(rows),
        signals(rows),
        tests(rows, &mut reasons),
        times(rows),
        slowest(rows),
    ];
    let mut text = String::new();
    for table in tables.iter().filter(|table| table.len() > 1) {
        let width = |column: usize| table.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths: Vec<_> = (0..table[0].len()).map(width).collect();
        for row in table {
            let cells = row.iter().zip(&widths);
            let line: Vec<_> = cells
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            let _ = writeln!(text, "{}", line.join("  ").trim_end());
        }
        text.push('\n');
    }
    for line in reasons.lines().chain(remarks(rows)) {
        let _ = writeln!(text, "{line}");
    }
    text
}

/// The document about kernels.
pub fn markdown(rows: &[Row], date: &str, accelerator: &str) -> String {
    let mut text = format!(
        "# Kernels\n\n\
         Stock Debian kernels for x86_64, each booted with the same test programs: a run of\n\
         `cargo xtask vm --write-table` on {date}; QEMU with {accelerator}. Numbers in brackets are\n\
         reasons, listed at the end.\n"
    );
    let mut reasons = Reasons::default();
    let sections = [
        ("Kernels", kernels(rows)),
        (
            "Attach types of each signal (`observer check`)",
            signals(rows),
        ),
        ("Status of each hook", statuses(rows, &mut reasons)),
        (
            "Results of the tests on a real kernel",
            tests(rows, &mut reasons),
        ),
    ];
    for (title, table) in sections.iter().filter(|(_, table)| table.len() > 1) {
        let _ = writeln!(text, "\n## {title}\n");
        for (number, row) in table.iter().enumerate() {
            let cells: Vec<_> = row.iter().map(|cell| cell.replace('|', r"\|")).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
            if number == 0 {
                let _ = writeln!(text, "|{}", "---|".repeat(row.len()));
            }
        }
    }
    let lines: Vec<_> = reasons.lines().chain(remarks(rows)).collect();
    if !lines.is_empty() {
        text.push_str("\n## Reasons\n\n");
    }
    for line in lines {
        let _ = writeln!(text, "- {line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{super::outcome, *};

    /// A kernel on which `fexit h` has this status and `tp_btf t` is attached.
    fn row(name: &str, status: &str, output: &[&str]) -> Row {
        let json = format!(
            r#"{{"verdicts":[
                {{"signal":"state","attach_type":"fexit","hook":"h","status":"{status}","detail":"why"}},
                {{"signal":"state","attach_type":"tp_btf","hook":"t","status":"attached","detail":""}}
            ]}}"#
        );
        let json = json.replace('\n', "");
        let lines = ["@@ begin check", &json, "@@ end check 0"];
        let lines = lines.iter().chain(output).map(|line| (*line).to_owned());
        let lines: Vec<_> = (0..).map(Duration::from_secs).zip(lines).collect();
        Row {
            name: name.to_owned(),
            release: format!("{name}.0-amd64"),
            version: "1".to_owned(),
            took: Duration::from_secs(9),
            trouble: None,
            outcome: outcome::parse(&lines),
        }
    }

    const RESET: [&str; 5] = [
        "@@ begin kernel_reset",
        "test a ... skipped: no x",
        "ok",
        "test b ... ok",
        "@@ end kernel_reset 0",
    ];

    #[test]
    fn each_kernel_has_a_column() {
        let rows = [
            row("5.10", "cannot_attach", &[]),
            row("6.1", "attached", &RESET),
        ];
        let text = text(&rows);
        for line in [
            "state   tp_btf  fexit, tp_btf\n",
            "kernel_reset  not run  1 passed, 1 skipped [2]\n",
            "kernel_reset  0.0   4.0\n",
            "[1] why: fexit h\n",
            "[2] no x: kernel_reset::a\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        let markdown = markdown(&rows, "2026-01-01", "tcg");
        for line in [
            "| state | tp_btf | fexit, tp_btf |\n",
            "| state | fexit | h | cannot attach [1] | attached |\n",
            "| state | tp_btf | t | attached | attached |\n",
            "|---|---|---|\n",
            "- [2] no x: kernel_reset::a\n",
        ] {
            assert!(markdown.contains(line), "{line}\n{markdown}");
        }
    }

    #[test]
    fn skipped_parts_are_listed() {
        let all = [
            "@@ begin k",
            "test a ... skipped: no x",
            "ok",
            "test b ... left out: no y",
            "ok",
            "@@ end k 0",
        ];
        let text = text(&[row("6.1", "attached", &all)]);
        let line = "k      1 passed in part [2], 1 skipped [1]\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn a_failure_is_named() {
        let failed = ["@@ begin k", "test a ... FAILED", "@@ end k 101"];
        let text = text(&[row("6.1", "attached", &failed)]);
        assert!(text.contains("k      FAILED 1\n"), "{text}");
        assert!(text.contains("6.1: k::a failed\n"), "{text}");
    }
}
