//! Escapes untrusted text for terminals and JSON, and wraps lines.

use std::fmt::Write as _;

/// Makes text safe to print on one line of a terminal. A process chooses its own comm, and an escape
/// sequence in it could change colours, the window title or forge a line of output. Everything but letters, digits and ASCII punctuation is escaped, which
/// takes care of control characters (C0, DEL and C1), line and paragraph separators,
/// zero-width characters and those that reverse the direction of writing. A backslash is
/// doubled, so that the result is unambiguous.
#[must_use]
pub fn sanitize(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => safe.push_str("\\\\"),
            ' '..='~' => safe.push(c),
            _ if c.is_alphanumeric() => safe.push(c),
            _ if c.is_ascii() => {
                let _ = write!(safe, "\\x{:02x}", u32::from(c));
            }
            _ => {
                let _ = write!(safe, "\\u{{{:x}}}", u32::from(c));
            }
        }
    }
    safe
}

/// [`sanitize`], truncated with an ellipsis or padded to `width` characters, for a column.
pub fn cell(text: &str, width: usize) -> String {
    let safe = sanitize(text);
    if safe.chars().count() <= width {
        return format!("{safe:<width$}");
    }
    let mut cut: String = safe.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Escapes characters in a JSON text that JSON allows but a terminal interprets: DEL, C1 controls
/// (U+009B starts an escape sequence), separators and invisible characters. The values stay the same.
/// Such characters can only be inside strings, so the whole text is processed at once.
pub fn harden_json(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        if matches!(c, '\n' | ' '..='~') || (!c.is_ascii() && c.is_alphanumeric()) {
            safe.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(safe, "\\u{unit:04x}");
            }
        }
    }
    safe
}

/// Wraps `text` between words at `width` characters. The first line begins with `first`, the others with `next`, and all
/// end with a newline. A word that is longer than a line is not split.
#[must_use]
pub fn wrap(first: &str, next: &str, text: &str, width: usize) -> String {
    let mut lines = String::new();
    let mut line = first.to_owned();
    let mut used = first.chars().count();
    let mut is_empty = true;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if !is_empty && used + 1 + length > width {
            lines += line.trim_end();
            lines.push('\n');
            line = next.to_owned();
            used = next.chars().count();
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
            used += 1;
        }
        line += word;
        used += length;
        is_empty = false;
    }
    lines + line.trim_end() + "\n"
}
