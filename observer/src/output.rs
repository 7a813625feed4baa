//! Reports on standard output.

use std::io::{self, Write as _};

/// Prints a report. A reader that has closed its end of a pipe, as in `observer doctor | head`, has what it wanted.
///
/// # Errors
///
/// When it cannot be written.
pub fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// The width of the terminal that standard output is, if it is one.
pub fn width() -> Option<usize> {
    /// A narrower one would have a word on each line.
    const LEAST: usize = 40;
    let (width, _) = terminal_size::terminal_size_of(io::stdout())?;
    // 0 where nobody has set it, as on a serial line.
    (width.0 > 0).then(|| LEAST.max(width.0.into()))
}
