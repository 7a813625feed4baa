//! The expected attach type of each signal on each kernel, from a committed file. It makes the test
//! fail if a hook is lost by mistake; observer itself would use a fallback.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{host, shell, vm};

/// The key of a kernel's row in the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Such as 6.12.
    pub series: [u32; 2],
    /// The kind of kernel, which also affects hooks: `rt`, `full`, [`NO_FUNCTION_HOOKS`], or empty.
    pub kind: String,
}

/// The kernel has neither kprobes nor traceable functions, or refuses both.
const NO_FUNCTION_HOOKS: &str = "no-function-hooks";

impl Row {
    /// Reads `6.12` or `6.12-rt`.
    fn parse(text: &str) -> Option<Self> {
        let (series, kind) = text.split_once('-').unwrap_or((text, ""));
        let (major, minor) = series.split_once('.')?;
        Some(Self {
            series: [major.parse().ok()?, minor.parse().ok()?],
            kind: kind.to_owned(),
        })
    }

    /// The running kernel's row. Whether functions can be hooked is determined from the kernel and
    /// not from observer, whose report is compared with the row.
    pub fn running() -> Result<Self> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let mut numbers = release.split(['.', '-']);
        let mut number = || numbers.next()?.trim().parse().ok();
        let (Some(major), Some(minor)) = (number(), number()) else {
            anyhow::bail!("cannot read the kernel's release {release:?}");
        };
        let kind = if function_hooks() {
            ""
        } else {
            NO_FUNCTION_HOOKS
        };
        Ok(Self {
            series: [major, minor],
            kind: kind.to_owned(),
        })
    }
}

impl From<vm::Wanted> for Row {
    fn from(wanted: vm::Wanted) -> Self {
        let name = wanted.to_string();
        let (_, kind) = name.split_once('-').unwrap_or((&name, ""));
        Self {
            series: wanted.series,
            kind: kind.to_owned(),
        }
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            series: [major, minor],
            kind,
        } = self;
        write!(f, "{major}.{minor}")?;
        if kind.is_empty() {
            Ok(())
        } else {
            write!(f, "-{kind}")
        }
    }
}

/// Whether kprobes (CONFIG_KPROBE_EVENTS has a PMU of that name) or fentry (the kernel lists the
/// functions that can be traced) can work here.
fn function_hooks() -> bool {
    let kprobes = fs::exists("/sys/bus/event_source/devices/kprobe").unwrap_or(false);
    kprobes || {
        // Only its beginning: it has tens of thousands of lines.
        let list = "/sys/kernel/tracing/available_filter_functions";
        let head = shell::as_root("head")
            .ok()
            .and_then(|mut head| shell::output(head.args(["-c", "1", list])));
        head.is_some_and(|text| !text.is_empty())
    }
}

/// Hooks with their attach types (`fexit inet_csk_accept`), by signal.
type Signals = BTreeMap<String, String>;

/// The file's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttachTypes {
    rows: BTreeMap<Row, Signals>,
}

fn path() -> PathBuf {
    host::root().join("docs/attach-types.toml")
}

const HEADER: &str = "\
# The hooks that each signal has on each kernel, with their attach types. `cargo xtask vm` compares
# each guest's `observer check` with it, and `cargo xtask test` that of the running kernel; a
# difference fails.
# Written by `cargo xtask vm --write-attach-types` and `cargo xtask test --write-attach-types`.
#
# A kernel without a row is compared with the nearest older one of the same kind. The kind
# no-function-hooks is for kernels without kprobes that let no function be traced either.
";

impl AttachTypes {
    pub fn read() -> Result<Self> {
        let path = path();
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} has a line that is none", path.display()))
    }

    pub fn write(&self) -> Result<PathBuf> {
        let path = path();
        fs::write(&path, self.text())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Reads the part of TOML that [`AttachTypes::text`] writes.
    fn parse(text: &str) -> Option<Self> {
        let mut rows = BTreeMap::new();
        let mut row: Option<Row> = None;
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.strip_prefix("[\"") {
                let name = Row::parse(name.strip_suffix("\"]")?)?;
                rows.insert(name.clone(), Signals::new());
                row = Some(name);
            } else {
                let (signal, types) = line.split_once(" = ")?;
                let types = types.strip_prefix('"')?.strip_suffix('"')?;
                let signals = rows.get_mut(row.as_ref()?)?;
                signals.insert(signal.to_owned(), types.to_owned());
            }
        }
        Some(Self { rows })
    }

    fn text(&self) -> String {
        let mut text = HEADER.to_owned();
        for (row, signals) in &self.rows {
            let _ = writeln!(text, "\n[\"{row}\"]");
            for (signal, types) in signals {
                let _ = writeln!(text, "{signal} = \"{types}\"");
            }
        }
        text
    }

    /// Sets the kernel's row from a report.
    pub fn set(&mut self, row: Row, report: &Value) {
        self.rows.insert(row, signals(report));
    }

    /// The row that a kernel is compared with: its own, or the nearest older one of its kind, or
    /// of the plain kind.
    fn row(&self, wanted: &Row) -> Option<(&Row, &Signals)> {
        let nearest = |kind: &str| {
            let older =
                |(row, _): &(&Row, &Signals)| row.kind == kind && row.series <= wanted.series;
            self.rows.iter().rfind(older)
        };
        let plain = || {
            // Hooks on functions are no fallback for a kernel that has none.
            (wanted.kind != NO_FUNCTION_HOOKS).then(|| nearest(""))?
        };
        nearest(&wanted.kind).or_else(plain)
    }

    /// How a report of `observer check --json` differs from the kernel's row, one line for each
    /// signal.
    pub fn differences(&self, wanted: &Row, report: &Value) -> Vec<String> {
        let Some((row, expected)) = self.row(wanted) else {
            return vec![format!(
                "docs/attach-types.toml has no row for {wanted} or anything older"
            )];
        };
        let found = signals(report);
        let names: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
        let show = |types: Option<&String>| match types.map(String::as_str) {
            None => "no such signal".to_owned(),
            Some("") => "nothing".to_owned(),
            Some(types) => types.to_owned(),
        };
        names
            .into_iter()
            .filter(|signal| expected.get(*signal) != found.get(*signal))
            .map(|signal| {
                format!(
                    "{signal} is observed by {}, and docs/attach-types.toml has {} for {row}",
                    show(found.get(signal)),
                    show(expected.get(signal)),
                )
            })
            .collect()
    }

    /// The message for a kernel without a row.
    pub fn note(&self, wanted: &Row) -> Option<String> {
        let (row, _) = self.row(wanted)?;
        (row != wanted).then(|| {
            format!("docs/attach-types.toml has no row for {wanted}; compared with that of {row}")
        })
    }
}

/// The hooks of each signal's attached programs, with their attach types. Listed by hook, because a
/// signal with several hooks keeps its attach type if one of them is lost.
pub fn signals(report: &Value) -> Signals {
    let mut signals: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for verdict in report["verdicts"].as_array().into_iter().flatten() {
        let Some(signal) = verdict["signal"].as_str() else {
            continue;
        };
        let hooks = signals.entry(signal.to_owned()).or_default();
        if verdict["status"] == "attached" {
            let hook = verdict["hook"].as_str().unwrap_or("?");
            hooks.insert(format!("{} {hook}", attach_type(verdict)));
        }
    }
    let join = |(signal, hooks): (String, BTreeSet<String>)| {
        let hooks: Vec<_> = hooks.into_iter().collect();
        (signal, hooks.join(", "))
    };
    signals.into_iter().map(join).collect()
}

/// A verdict's attach type.
pub fn attach_type(verdict: &Value) -> &str {
    verdict["attach_type"].as_str().unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(reset: &str) -> Value {
        let verdict = |signal: &str, attach_type: &str, status: &str| {
            let hook = format!("{attach_type}_hook");
            serde_json::json!({
                "signal": signal, "attach_type": attach_type, "hook": hook, "status": status
            })
        };
        serde_json::json!({"verdicts": [
            verdict("time_wait", "fexit", "attached"),
            verdict("time_wait", "fentry", "attached"),
            verdict("time_wait", "tp_btf", "not_needed"),
            verdict("reset_sent", reset, "attached"),
            verdict("fd", "tracepoint", "refused"),
        ]})
    }

    fn row(text: &str) -> Row {
        Row::parse(text).unwrap()
    }

    fn expected() -> AttachTypes {
        let mut types = AttachTypes::default();
        types.set(row("6.1"), &report("tp_btf"));
        types.set(row("6.12"), &report("fexit"));
        types
    }

    #[test]
    fn what_is_written_is_read() {
        let types = expected();
        let text = types.text();
        assert!(
            text.contains(
                "\n[\"6.1\"]\nfd = \"\"\nreset_sent = \"tp_btf tp_btf_hook\"\n\
                 time_wait = \"fentry fentry_hook, fexit fexit_hook\"\n"
            ),
            "{text}"
        );
        assert_eq!(AttachTypes::parse(&text), Some(types));
        assert_eq!(AttachTypes::parse("x = \"y\"\n"), None);
    }

    #[test]
    fn a_lost_hook_is_a_difference() {
        let types = expected();
        assert!(types.differences(&row("6.1"), &report("tp_btf")).is_empty());
        assert_eq!(
            types.differences(&row("6.1"), &report("kprobe")),
            [
                "reset_sent is observed by kprobe kprobe_hook, and docs/attach-types.toml has \
                 tp_btf tp_btf_hook for 6.1"
            ]
        );
        let gone = serde_json::json!({"verdicts": []});
        assert_eq!(types.differences(&row("6.1"), &gone).len(), 3);
    }

    #[test]
    fn the_nearest_older_row_applies() {
        let types = expected();
        let of = |name: &str| types.row(&row(name)).map(|(row, _)| row.to_string());
        assert_eq!(of("6.1").as_deref(), Some("6.1"));
        assert_eq!(of("6.6").as_deref(), Some("6.1"));
        assert_eq!(of("7.3").as_deref(), Some("6.12"));
        assert_eq!(of("6.12-rt").as_deref(), Some("6.12"));
        assert_eq!(of("5.10"), None);
        assert_eq!(of("6.18-no-function-hooks"), None);
        assert!(types.note(&row("6.12")).is_none());
        assert!(types.note(&row("6.18")).is_some());
        assert!(types.differences(&row("5.10"), &report("x"))[0].contains("no row for 5.10"));
    }

    #[test]
    fn the_committed_file_is_as_it_is_written() {
        let text = fs::read_to_string(path()).unwrap();
        let types = AttachTypes::parse(&text).unwrap();
        assert_eq!(types.text(), text);
        for kernel in vm::ALL_KERNELS {
            assert!(types.rows.contains_key(&row(kernel)), "{kernel}");
        }
    }
}
