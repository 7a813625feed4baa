//! A finding in one line, for the log, the API, the page and `observer doctor`.

mod evidence;
mod names;
mod numbers;

use std::time::Duration;

use self::{evidence::what, names::described, numbers::percent};
pub use self::{
    names::named,
    numbers::{duration, number},
};
use super::{
    cause::Explanation,
    finding::{Change, Finding, Severity, Subject},
};

/// Subject and problem: a line without control characters.
#[must_use]
pub fn headline(finding: &Finding) -> String {
    format!("{} {}", who(finding), what(finding))
}

/// The same with causes and fix.
#[must_use]
pub fn finding_summary(finding: &Finding) -> String {
    let mut summary = headline(finding);
    if let Some(causes) = causes(&finding.causes) {
        summary += &format!("; {causes}");
    }
    if let Some(fix) = fix(&finding.causes) {
        summary += &format!("; fix: {}", fix.trim_end_matches('.'));
    }
    summary
}

/// The same after the change. `at` is the time of the change, by CLOCK_MONOTONIC.
#[must_use]
pub fn change_summary(change: &Change, at: Duration) -> String {
    let finding = change.finding();
    let anomaly = finding.anomaly.name();
    let lasted = || duration(at.saturating_sub(finding.since));
    match change {
        Change::Raised(_) => format!("{anomaly} raised: {}", finding_summary(finding)),
        Change::Updated(_) => {
            let severity = match finding.severity {
                Severity::Warning => "warning",
                Severity::Critical => "critical",
            };
            let summary = finding_summary(finding);
            format!("{anomaly} is {severity} after {}: {summary}", lasted())
        }
        // The numbers are outdated.
        Change::Cleared(_) => {
            format!("{anomaly} cleared after {}: {}", lasted(), who(finding))
        }
        Change::Unlisted(_) => format!(
            "{anomaly} is not listed any more after {}, because there is no room for it and a critical finding: {}",
            lasted(),
            who(finding)
        ),
    }
}

/// With whom it is wrong.
#[must_use]
pub fn who(finding: &Finding) -> String {
    let Finding {
        subject, labels, ..
    } = finding;
    let named = labels.as_deref().map(named);
    match subject {
        Subject::Process(key) => named.unwrap_or_else(|| format!("pid {}", key.tgid)),
        Subject::Name(name) => described(name, "all processes"),
        Subject::Destination(to) => {
            let holder = named.unwrap_or_else(|| "an unknown process".to_owned());
            format!("{holder} from {} to {}", to.source, to.remote)
        }
        Subject::Listener(place) => {
            let holder = named.map_or_else(String::new, |named| format!(" of {named}"));
            format!("the listener {}{holder}", place.address)
        }
        Subject::Namespace(netns) => {
            let holder = named.map_or_else(String::new, |named| format!("{named} in "));
            format!("{holder}network namespace {netns}")
        }
        // A loopback address is one of many programs, each namespace has one, and it is not forged.
        Subject::Source { address, netns } if address.is_loopback() => {
            format!("a program of this host ({address}) in network namespace {netns}")
        }
        Subject::Source { address, .. } => address.to_string(),
    }
}

fn causes(causes: &[Explanation]) -> Option<String> {
    match causes {
        [] => None,
        [only] => Some(format!("cause: {}", only.cause.text)),
        several => {
            // Those of different questions do not share: each explains nearly all.
            let all_hold = several.iter().map(|it| it.share).sum::<f64>() > 1.001;
            let text = |it: &Explanation| match all_hold {
                true => it.cause.text.to_owned(),
                false => format!("{} ({})", it.cause.text, percent(it.share)),
            };
            let texts: Vec<_> = several.iter().map(text).collect();
            let and = if all_hold { "; and " } else { ", or " };
            Some(format!("causes: {}", texts.join(and)))
        }
    }
}

/// Of the first cause. A hint with an unknown condition is no advice to follow without a look.
fn fix(causes: &[Explanation]) -> Option<&'static str> {
    let mut hints = causes.first()?.hints.iter();
    Some(hints.find(|it| it.unknown.is_empty())?.hint.fix)
}

#[cfg(test)]
mod tests;
