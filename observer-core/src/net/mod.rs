//! The kernel's own TCP counters, by network namespace.
//!
//! They are compared with the counts of the kernel programs, and used where those are incomplete,
//! such as for sockets older than the daemon. The text files are untrusted input: their parsers
//! never panic, and their errors name file and field.

pub mod counters;
pub mod netns;
pub mod overflows;
pub mod snmp;
pub mod sockstat;
pub mod sysctls;
