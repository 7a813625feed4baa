//! The labels of a series: `comm` and `unit` of a name, and in addition `pid` of a process.

use std::fmt::Write as _;

/// Processes beyond `--max-names`, without a slot, or not selected.
pub const OTHER: &str = "<other>";
/// Events whose owner is not known.
pub const UNATTRIBUTED: &str = "<unattributed>";
/// [`Labels::unit_group`] of all sessions of users: what their units begin with.
pub const SESSIONS: &str = "session-";

/// The labels of a series: of a name (`comm`, `unit`) or of one process (`pid`, `comm`, `unit`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels {
    comm: String,
    unit: String,
    pid: Option<String>,
    /// All labels in the text format, made once and written in every sample.
    text: String,
}

impl Labels {
    /// The labels of a name, from values that are printable already. See [`name_of`].
    #[must_use]
    pub fn name(comm: &str, unit: &str) -> Self {
        Self::new(None, comm, unit)
    }

    /// The labels of one process.
    #[must_use]
    pub fn process(pid: u32, comm: &str, unit: &str) -> Self {
        Self::new(Some(pid.to_string()), comm, unit)
    }

    fn new(pid: Option<String>, comm: &str, unit: &str) -> Self {
        let mut labels = Self {
            comm: comm.to_owned(),
            unit: unit.to_owned(),
            pid,
            text: String::new(),
        };
        let mut text = String::with_capacity(32 + comm.len() + unit.len());
        for (name, value) in labels.pairs() {
            let separator = if text.is_empty() { "" } else { "," };
            let _ = write!(text, "{separator}{name}=\"");
            escape_into(value, &mut text);
            text.push('"');
        }
        labels.text = text;
        labels
    }

    /// The process id, for the labels of one process.
    #[must_use]
    pub fn pid(&self) -> Option<&str> {
        self.pid.as_deref()
    }

    /// `comm` and `unit`, which a process and the name that it counts for have in common.
    #[must_use]
    pub fn name_key(&self) -> (&str, &str) {
        (self.comm(), self.unit())
    }

    /// Whether they are those of no name: what is not attributed, or of too many names.
    #[must_use]
    pub fn is_of_several(&self) -> bool {
        [OTHER, UNATTRIBUTED].contains(&self.comm())
    }

    /// The process's name, or [`OTHER`] or [`UNATTRIBUTED`].
    #[must_use]
    pub fn comm(&self) -> &str {
        &self.comm
    }

    /// The systemd unit or container.
    #[must_use]
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// The unit, or what its systemd is of a user's own units and of sessions: a user can have any number of them, so they
    /// count as one. Empty for processes without a unit, which have nothing in common.
    #[must_use]
    pub fn unit_group(&self) -> &str {
        let outer = self.unit.split('/').next().unwrap_or(&self.unit);
        match outer.starts_with(SESSIONS) && outer.ends_with(".scope") {
            true => SESSIONS,
            false => outer,
        }
    }

    /// Names and values of the labels.
    pub fn pairs(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let pid = self.pid().map(|pid| ("pid", pid));
        pid.into_iter()
            .chain([("comm", self.comm()), ("unit", self.unit())])
    }

    /// The same, escaped for the text format.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// The `comm` label of a process whose comm is `bytes`: printable, and with a backslash before
/// a first `<` or backslash, so that no program can have the label [`OTHER`] or [`UNATTRIBUTED`].
#[must_use]
pub fn name_of(bytes: &[u8]) -> String {
    let name = printable(bytes);
    if name.starts_with(['<', '\\']) {
        return format!("\\{name}");
    }
    name
}

/// Escapes a label value for the text format: backslash, newline, double quote.
pub(crate) fn escape_into(value: &str, text: &mut String) {
    // Usually there is nothing to escape.
    if !value
        .bytes()
        .any(|byte| matches!(byte, b'\\' | b'\n' | b'"'))
    {
        text.push_str(value);
        return;
    }
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' => text.push_str("\\\""),
            _ => text.push(c),
        }
    }
}

/// Makes a label value of arbitrary bytes: truncates it at the first NUL and replaces invalid UTF-8 and
/// control characters by U+FFFD. A newline stays, because the text format can escape it. Different
/// bytes can become the same text.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end])
        .chars()
        .map(|c| match c {
            '\n' => c,
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_a_user_are_one() {
        let group = |unit: &str| Labels::name("p", unit).unit_group().to_owned();
        for unit in [
            "user@1000.service",
            "user@1000.service/a.service",
            "user@1000.service/b.scope/c",
        ] {
            assert_eq!(group(unit), "user@1000.service");
        }
        assert_eq!(group("session-7.scope"), group("session-c12.scope"));
        assert_ne!(group("nginx.service"), group("db.service"));
        assert_eq!(group(""), "");
    }
}
