//! The line that `systemctl status` shows.

use std::{fmt, time::Duration};

use observer_core::detect::{Finding, Severity, headline};

/// Maximum length of the worst finding in characters: systemd reads 4,096 bytes of a message.
const CHARACTERS: usize = 300;

/// The state of the daemon for an operator.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// A job that has not finished a run for too long, and the duration.
    pub stuck: Option<(&'static str, Duration)>,
    /// Findings, the worst first.
    pub findings: Vec<Finding>,
    /// Signals without an attached hook.
    pub not_observed: Vec<&'static str>,
    /// Why the last reload failed; `None` if it succeeded.
    pub not_reloaded: Option<String>,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            stuck,
            findings,
            not_observed,
            not_reloaded,
        } = self;
        let mut parts = Vec::new();
        if let Some((job, time)) = stuck {
            let seconds = time.as_secs();
            parts.push(format!("the job {job} has not finished for {seconds} s"));
        }
        if let Some(error) = not_reloaded {
            let error = cut(error.lines().next().unwrap_or_default());
            parts.push(format!("the last reload failed: {error}"));
        }
        parts.push(wrong(findings));
        if !not_observed.is_empty() {
            parts.push(format!("not observed: {}", not_observed.join(", ")));
        }
        let text = parts.join("; ");
        let (first, rest) = text.split_at(1);
        write!(f, "{}{rest}", first.to_uppercase())
    }
}

/// How many findings there are, and the worst.
fn wrong(findings: &[Finding]) -> String {
    let Some(worst) = findings.first() else {
        return "nothing is wrong".to_owned();
    };
    let critical = |it: &&Finding| it.severity == Severity::Critical;
    let critical = findings.iter().filter(critical).count();
    let count = match (findings.len(), critical) {
        (1, 0) => "1 warning".to_owned(),
        (1, 1) => "1 critical finding".to_owned(),
        (all, critical) => format!("{all} findings, {critical} critical"),
    };
    format!("{count}: {}", cut(&headline(worst)))
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(CHARACTERS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_one_line() {
        assert_eq!(State::default().to_string(), "Nothing is wrong");
        let state = State {
            stuck: Some(("fds", Duration::from_secs(40))),
            not_observed: vec!["connect", "fd"],
            not_reloaded: Some("configuration file x: bad\n  | more".to_owned()),
            ..State::default()
        };
        assert_eq!(
            state.to_string(),
            "The job fds has not finished for 40 s; the last reload failed: configuration file x: bad; \
             nothing is wrong; not observed: connect, fd"
        );
        assert_eq!(cut(&"ä".repeat(301)), format!("{}…", "ä".repeat(300)));
    }
}
