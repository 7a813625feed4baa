//! The labels of a per-process series.

use std::fmt::Write as _;

/// `pid`, `comm` and `unit`: what identifies a per-process series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels {
    pid: String,
    comm: String,
    unit: String,
    /// The three of them in the text format, made once and written in every sample.
    text: String,
}

impl Labels {
    /// Labels from values that are printable already.
    #[must_use]
    pub fn new(pid: &str, comm: &str, unit: &str) -> Self {
        let mut text = String::with_capacity(24 + pid.len() + comm.len() + unit.len());
        for (name, value) in [("pid", pid), ("comm", comm), ("unit", unit)] {
            let separator = if text.is_empty() { "" } else { "," };
            let _ = write!(text, "{separator}{name}=\"");
            escape_into(value, &mut text);
            text.push('"');
        }
        Self {
            pid: pid.to_owned(),
            comm: comm.to_owned(),
            unit: unit.to_owned(),
            text,
        }
    }

    /// Of the group that a process with these labels belongs to once it is gone.
    #[must_use]
    pub fn exited(&self) -> Self {
        Self::new("exited", &self.comm, &self.unit)
    }

    /// Of the group of those whose own group there is no room for.
    #[must_use]
    pub fn exited_unnamed() -> Self {
        Self::new("exited", "", "")
    }

    /// A process id, or `other`, `exited`, `unattributed`, `no_socket`.
    #[must_use]
    pub fn pid(&self) -> &str {
        &self.pid
    }

    /// The process's name.
    #[must_use]
    pub fn comm(&self) -> &str {
        &self.comm
    }

    /// The systemd unit or container.
    #[must_use]
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// All three, escaped for the text format.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Escapes a label value for the text format: backslash, newline, double quote.
pub(crate) fn escape_into(value: &str, text: &mut String) {
    // As a rule there is nothing to escape.
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

/// Makes a label value of arbitrary bytes: ends it at the first NUL and puts U+FFFD in the
/// place of what is no UTF-8 or a control character. A newline stays, since the text
/// format has a spelling for it. Different bytes may become the same text.
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
