//! Why a file is not probed.

/// Why nothing may be attached to a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// Not of the only format that is read.
    #[error("not a 64-bit little-endian ELF program or library")]
    Format,
    /// Its code is not for the running machine.
    #[error("built for another machine (e_machine {0})")]
    Machine(u16),
    /// Headers or tables that contradict each other, or point out of the file.
    #[error("malformed ELF file: {0}")]
    Malformed(&'static str),
    /// Larger than any real file; reading on would take too long.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// A function that the others need.
    #[error("no function {0}")]
    Missing(String),
    /// Two functions of one name, or two places for one.
    #[error("several functions {0}")]
    Ambiguous(String),
    /// A function that is not where code is.
    #[error("{0} is not in an executable segment")]
    NotCode(String),
    /// Bytes that are no instructions, or not the expected ones.
    #[error("cannot decode {0}")]
    Undecodable(String),
    /// The tables behind `TLS_method` and similar functions do not identify the function that connects.
    #[error(
        "OpenSSL's method tables do not single out one function that connects and one that accepts"
    )]
    MethodTables,
    /// The function table of an unsupported Go release.
    #[error("unknown format of Go's function table (magic {0:#x})")]
    GoFormat(u32),
    /// Go's tables contradict each other.
    #[error("malformed Go program: {0}")]
    Go(&'static str),
}
