//! What the kernel itself says about TCP: its counters, and the network namespaces that they are
//! kept for.
//!
//! These numbers serve as a check on the ones counted by the kernel programs, and for what
//! those cannot see, such as sockets older than the daemon. The text files are outside
//! bytes: their parsers never panic, and their errors name file and field.

pub mod netns;
pub mod overflows;
pub mod snmp;
pub mod sockstat;
