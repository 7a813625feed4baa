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
