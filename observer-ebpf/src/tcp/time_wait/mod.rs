//! Sockets in TIME_WAIT.

pub mod exact;
pub mod inferred;
