//! Accepted connections.

/// Counters of incoming connections.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct AcceptCounters {
    /// Connections that accept() returned.
    pub accepted: u64,
}

crate::assert_layout!(AcceptCounters, 8, [
    accepted: u64,
]);
