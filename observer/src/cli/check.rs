//! The report of `observer check`: which signals can be observed on this host, and why others cannot.

use std::fmt::Write as _;

use observer_core::{
    contract::{Status, Verdict, summaries},
    text::{cell, harden_json, sanitize, wrap},
};
use serde::{Serialize, Serializer};

use crate::{namespaces, privileges::CapabilityStatus};

mod gather;
#[cfg(test)]
mod tests;

pub use gather::{Host, gather};

/// The result of a check: what was found, or why it is missing.
pub type Probe = Result<String, String>;

/// The report. JSON keys are the names of the fields, and `exit_code`, `conclusion`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// `uname -r`
    pub kernel_release: String,
    /// `uname -m`
    pub arch: String,
    /// The kernel's BTF: `{"ok": bool, "detail": text}` in JSON.
    #[serde(serialize_with = "probe")]
    pub btf: Probe,
    /// tracefs, which classic tracepoints need.
    #[serde(serialize_with = "probe")]
    pub tracefs: Probe,
    /// Relevant capabilities.
    pub capabilities: Vec<CapabilityStatus>,
    /// One per program.
    pub verdicts: Vec<Verdict>,
    /// Fields that are missing in the kernel's BTF, each with the feature that needs it. In JSON a list
    /// of `{"field": text, "feature": text}`.
    #[serde(serialize_with = "fields")]
    pub absent_fields: Vec<(String, String)>,
    /// Kinds of namespace, pid or time, that are not the host's.
    pub private_namespaces: Vec<&'static str>,
    /// Remarks without influence on the conclusion.
    pub notes: Vec<String>,
}

fn probe<S: Serializer>(probe: &Probe, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Found<'a> {
        ok: bool,
        detail: &'a str,
    }
    let (Ok(detail) | Err(detail)) = probe;
    Found {
        ok: probe.is_ok(),
        detail,
    }
    .serialize(serializer)
}

fn fields<S: Serializer>(absent: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Absent<'a> {
        field: &'a str,
        feature: &'a str,
    }
    serializer.collect_seq(
        absent
            .iter()
            .map(|(field, feature)| Absent { field, feature }),
    )
}

/// Whether the observer can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Conclusion {
    /// Every signal has a hook.
    Complete,
    /// It runs, but some signal or feature is missing.
    Degraded,
    /// It cannot run.
    Impossible,
}

impl Conclusion {
    /// Exit status of `observer check`.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::Degraded => 1,
            Self::Impossible => 2,
        }
    }
}

impl Report {
    /// Signals none of whose programs is attached, with whether one of those is required.
    fn missing_signals(&self) -> Vec<(&'static str, bool)> {
        let is_required = |signal| {
            self.verdicts
                .iter()
                .any(|v| v.signal == signal && v.required)
        };
        summaries(&self.verdicts)
            .into_iter()
            .filter(|summary| summary.hooks.is_empty())
            .map(|summary| (summary.signal, is_required(summary.signal)))
            .collect()
    }

    fn missing_capabilities(&self, required: bool) -> Vec<&'static str> {
        let missing = |c: &&CapabilityStatus| c.required == required && !c.held;
        self.capabilities
            .iter()
            .filter(missing)
            .map(|c| c.name)
            .collect()
    }

    /// The conclusion, and a sentence that explains it.
    #[must_use]
    pub fn conclusion(&self) -> (Conclusion, String) {
        let missing = self.missing_signals();
        let mut fatal = Vec::new();
        if let Err(why) = &self.btf {
            fatal.push(format!("the kernel offers no BTF ({})", one_line(why)));
        }
        let privileges = self.missing_capabilities(true);
        if !privileges.is_empty() {
            fatal.push(format!("it lacks {}", privileges.join(" and ")));
        }
        let required: Vec<_> = missing
            .iter()
            .filter(|(_, r)| *r)
            .map(|(s, _)| *s)
            .collect();
        // Without BTF or privileges no hook attaches, so the list is omitted.
        if fatal.is_empty() && !required.is_empty() {
            fatal.push(format!(
                "no hook could be attached for {}",
                required.join(", ")
            ));
        }
        if fatal.is_empty() && self.verdicts.is_empty() {
            fatal.push("no hook was tried".to_owned());
        }
        if !fatal.is_empty() {
            let text = format!("The observer cannot run here: {}.", fatal.join("; "));
            return (Conclusion::Impossible, text);
        }

        let mut lacks = Vec::new();
        if !self.private_namespaces.is_empty() {
            lacks.push(format!(
                "its {} namespace is not the host's, {}",
                self.private_namespaces.join(" and "),
                namespaces::REMEDY
            ));
        }
        if !missing.is_empty() {
            let signals: Vec<_> = missing.iter().map(|(signal, _)| *signal).collect();
            lacks.push(format!("no hook for {}", signals.join(", ")));
        }
        if !self.absent_fields.is_empty() {
            let fields: Vec<_> = self
                .absent_fields
                .iter()
                .map(|(f, _)| sanitize(f))
                .collect();
            lacks.push(format!("the kernel has no {}", fields.join(", ")));
        }
        let capabilities = self.missing_capabilities(false);
        if !capabilities.is_empty() {
            lacks.push(format!("it lacks {}", capabilities.join(" and ")));
        }
        if lacks.is_empty() {
            return (Conclusion::Complete, "Every signal is observed.".to_owned());
        }
        let text = format!(
            "The observer runs here, but not in full: {}.",
            lacks.join("; ")
        );
        (Conclusion::Degraded, text)
    }

    /// Exit status of `observer check`: 0 complete, 1 degraded, 2 impossible.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.conclusion().0.exit_code()
    }

    /// One line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Missing {
            signal: &'static str,
            reason: &'static str,
        }
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            report: &'a Report,
            /// As `observer_signal_missing`.
            missing: Vec<Missing>,
            exit_code: u8,
            conclusion: String,
        }
        let (conclusion, text) = self.conclusion();
        let missing = summaries(&self.verdicts).into_iter().filter_map(|it| {
            let (signal, reason) = (it.signal, it.missing()?.name());
            Some(Missing { signal, reason })
        });
        let whole = Whole {
            report: self,
            missing: missing.collect(),
            exit_code: conclusion.exit_code(),
            conclusion: text,
        };
        // A struct of strings and numbers always serializes.
        harden_json(&serde_json::to_string(&whole).unwrap_or_default())
    }

    /// One line for each signal, a summary, and the missing signals and features; with `verbose`
    /// also the host and every hook that was tried. Ends with a newline. `width` is that of the terminal, if it is for one.
    #[must_use]
    pub fn to_text(&self, verbose: bool, width: Option<usize>) -> String {
        let width = width.unwrap_or(usize::MAX);
        let mut text = String::new();
        let (conclusion, sentence) = self.conclusion();
        if !self.verdicts.is_empty() {
            let (table, counts) = self.signals(width);
            let _ = writeln!(text, "{table}\n{counts}");
        }
        text.push_str(&wrap("", "", &sentence, width));
        if verbose || conclusion == Conclusion::Impossible {
            let _ = write!(text, "\n{}", self.host(width));
        }
        if verbose && !self.verdicts.is_empty() {
            let _ = write!(text, "\n{}", self.table(width));
        }
        if !self.absent_fields.is_empty() {
            text.push_str("\nfields this kernel does not have:\n");
            for (field, feature) in &self.absent_fields {
                let (field, feature) = (one_line(field), one_line(feature));
                let line = format!("{field}: {feature} is off");
                text.push_str(&wrap("  ", "    ", &line, width));
            }
        }
        if !self.notes.is_empty() {
            text.push_str("\nnotes:\n");
            for line in self.notes.iter().flat_map(|note| note.lines()) {
                text.push_str(&wrap("  ", "    ", &sanitize(line), width));
            }
        }
        text
    }

    fn host(&self, width: usize) -> String {
        let mut text = String::new();
        let release = sanitize(&self.kernel_release);
        let _ = writeln!(
            text,
            "{:<14} {release} ({})",
            "kernel",
            sanitize(&self.arch)
        );
        for (name, probe) in [("BTF", &self.btf), ("tracefs", &self.tracefs)] {
            let line = match probe {
                Ok(detail) => format!("ok: {}", one_line(detail)),
                Err(detail) => format!("MISSING: {}", one_line(detail)),
            };
            text.push_str(&wrap(
                &format!("{name:<14} "),
                &" ".repeat(15),
                &line,
                width,
            ));
        }
        for (
            i,
            CapabilityStatus {
                name,
                held,
                required,
                purpose,
            },
        ) in self.capabilities.iter().enumerate()
        {
            let title = if i == 0 { "capabilities" } else { "" };
            let held = match (held, required) {
                (true, _) => "yes",
                (false, true) => "MISSING",
                (false, false) => "no",
            };
            let columns = format!("{title:<14} {name:<20} {held:<8} ");
            text.push_str(&wrap(&columns, &" ".repeat(columns.len()), purpose, width));
        }
        text
    }

    /// A line for each signal, and how many there are of each kind.
    fn signals(&self, width: usize) -> (String, String) {
        let mut rows = vec![["SIGNAL", "COUNTS", "HOOKS"].map(str::to_owned)];
        let (mut exact, mut inferred, mut missing) = (0, 0, 0);
        for summary in summaries(&self.verdicts) {
            let is_missing = summary.hooks.is_empty();
            let (count, name) = match (is_missing, summary.inferred) {
                (true, _) => (&mut missing, "MISSING"),
                (false, true) => (&mut inferred, "inferred"),
                (false, false) => (&mut exact, "exact"),
            };
            *count += 1;
            let hooks = match summary.unavailable {
                Some(Verdict { hook, detail, .. }) if is_missing => {
                    shorten(&one_line(&format!("{hook}: {detail}")))
                }
                _ if summary.remarks.is_empty() => summary.hooks_text(),
                _ => format!("{} ({})", summary.hooks_text(), summary.remarks.join("; ")),
            };
            rows.push([summary.signal.to_owned(), name.to_owned(), hooks]);
        }
        let counts = format!(
            "{} signals: {exact} exact, {inferred} inferred, {missing} missing.",
            rows.len() - 1
        );
        (align(&rows, width), counts)
    }

    fn table(&self, width: usize) -> String {
        let header = ["SIGNAL", "ATTACH TYPE", "HOOK", "STATUS", "REASON"];
        let mut rows = vec![header.map(str::to_owned)];
        let shown = self
            .verdicts
            .iter()
            .filter(|verdict| verdict.status != Status::NotNeeded);
        for verdict in shown {
            let Verdict {
                signal,
                attach_type,
                hook,
                program: _,
                status,
                detail,
                required: _,
            } = verdict;
            rows.push([
                (*signal).to_owned(),
                attach_type.name().to_owned(),
                (*hook).to_owned(),
                status.name().to_owned(),
                shorten(&one_line(detail)),
            ]);
        }
        align(&rows, width)
    }
}

/// Columns of equal width, the last one without: it is wrapped at `limit`, beside the others if there is room, else below them.
fn align<const N: usize>(rows: &[[String; N]], limit: usize) -> String {
    const ROOM: usize = 24;
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        let Some((last, columns)) = row.split_last() else {
            continue;
        };
        let cells = columns.iter().enumerate();
        let cells: Vec<_> = cells.map(|(at, text)| cell(text, width(at))).collect();
        let columns = format!("{}  ", cells.join("  "));
        let used = columns.chars().count();
        if used + ROOM <= limit {
            text.push_str(&wrap(&columns, &" ".repeat(used), last, limit));
            continue;
        }
        let _ = writeln!(text, "{}", columns.trim_end());
        if !last.is_empty() {
            text.push_str(&wrap("    ", "    ", last, limit));
        }
    }
    text
}

/// Text as one line, safe for a terminal: a verifier's log has many lines.
fn one_line(text: &str) -> String {
    sanitize(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The start of a long reason; `--json` has all of it. The verifier's error is at the end of its log, so the end is kept
/// too.
fn shorten(text: &str) -> String {
    const HEAD: usize = 60;
    const TAIL: usize = 90;
    let length = text.chars().count();
    if length <= HEAD + TAIL + 3 {
        return text.to_owned();
    }
    let head: String = text.chars().take(HEAD).collect();
    let tail: String = text.chars().skip(length - TAIL).collect();
    format!("{head} … {tail}")
}
