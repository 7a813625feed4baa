//! What the kernel itself says about TCP: its counters, and the network namespaces that they are
//! kept for.
//!
//! They are compared with the numbers of the kernel programs, and used for what those cannot see,
//! such as sockets older than the daemon. The text files are untrusted input: their parsers never
//! panic, and their errors name file and field.

pub mod counters;
pub mod netns;
pub mod overflows;
pub mod snmp;
pub mod sockstat;
pub mod sysctls;
