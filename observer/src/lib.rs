//! observer: a TCP connection-lifecycle observer for Linux.
//!
//! *The kernel counts, the stream tells, the daemon explains.* Data moves one way:
//! kernel programs -> maps and ring ([`kernel`]) -> process table -> exposition. See
//! ARCHITECTURE.md for the code map.

pub mod explain;
pub mod cli;
pub mod config;
pub mod kernel;
pub mod net;
pub mod process;
pub mod logging;
pub mod privileges;
pub mod export;
pub mod kernel;
pub mod table;
