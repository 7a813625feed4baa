//! The report for people.

use super::{
    item::{Item, Severity},
    report::Report,
    settings::{Setting, Verdict},
};
use crate::text::{sanitize, wrap};

/// Maximum number of network namespaces with the same setting that are named.
const NAMESPACES: usize = 5;
/// The widest lines.
const WIDTH: usize = 100;

/// The report as text, one finding after the other, the worst first. `width` is that of the terminal, if it is for one.
#[must_use]
pub fn render(report: &Report, width: Option<usize>) -> String {
    let width = width.map_or(WIDTH, |it| it.min(WIDTH));
    let mut text = String::new();
    for item in &report.findings {
        text += &one(item, width);
        text.push('\n');
    }
    if report.findings.is_empty() {
        text += "OK    nothing is wrong with the connections of this host now\n\n";
    }
    let odd = report
        .settings
        .iter()
        .filter(|it| it.verdict != Verdict::Ok);
    for (setting, netns) in by_namespace(odd) {
        let line = format!(
            "{} = {}{}: {}",
            setting.name,
            setting.value,
            in_namespaces(&netns),
            setting.why
        );
        text += &wrap("WARN  ", "      ", &line, width);
    }
    let fine = report
        .settings
        .iter()
        .filter(|it| it.verdict == Verdict::Ok);
    text += &format!("{} settings were checked and are fine\n", fine.count());
    for missing in &report.not_looked_at {
        let line = format!("{}: {}", missing.what, missing.why);
        text += &wrap("not checked ", "      ", &sanitize(&line), width);
    }
    text
}

/// Settings that differ in the network namespace alone, with their namespaces.
fn by_namespace<'a>(all: impl Iterator<Item = &'a Setting>) -> Vec<(&'a Setting, Vec<u32>)> {
    let mut groups: Vec<(&Setting, Vec<u32>)> = Vec::new();
    for setting in all {
        let is_like = |(of, _): &&mut (&Setting, Vec<u32>)| {
            let without = |it: &Setting| Setting {
                netns: it.netns.map(|_| 0),
                ..it.clone()
            };
            without(of) == without(setting)
        };
        match groups.iter_mut().find(is_like) {
            Some((_, netns)) => netns.extend(setting.netns),
            None => groups.push((setting, setting.netns.into_iter().collect())),
        }
    }
    groups
}

fn in_namespaces(all: &[u32]) -> String {
    let first: Vec<_> = all.iter().take(NAMESPACES).map(u32::to_string).collect();
    match all.len() {
        0 => String::new(),
        number if number > NAMESPACES => {
            let more = number - NAMESPACES;
            format!(" (netns {} and {more} more)", first.join(", "))
        }
        _ => format!(" (netns {})", first.join(", ")),
    }
}

fn one(item: &Item, width: usize) -> String {
    let label = match item.severity {
        Severity::Fail => "FAIL",
        Severity::Warn => "WARN",
        Severity::Note => "NOTE",
    };
    let mut text = wrap(
        &format!("{label}  {}  ", item.id),
        "      ",
        &item.summary,
        width,
    );
    let since = item.since.iter().map(|since| ("Since", since));
    let follows = item.follows_from.as_ref();
    let follows = follows.map(|it| format!("from {}: {}", it.id, it.who));
    let follows = follows.iter().map(|it| ("Follows", it));
    let causes = item.causes.iter().map(|it| ("Cause", it));
    let notes = item.notes.iter().map(|it| ("Note", it));
    let facts = item.holds_for.iter();
    let facts = facts.flat_map(|it| {
        // Its condition could not be checked.
        let unknown = it.unknown.iter().map(|unknown| ("If", unknown));
        unknown.chain([("Fact", &it.fact), ("Fix", &it.fix), ("Check", &it.check)])
    });
    for (name, line) in since.chain(follows).chain(causes).chain(notes).chain(facts) {
        text += &wrap(&format!("      {name:<8}"), "              ", line, width);
    }
    text
}
