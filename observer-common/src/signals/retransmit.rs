//! Retransmitted segments.

/// Counters of retransmissions.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RetransmitCounters {
    /// Retransmitted segments.
    pub segments: u64,
}

crate::assert_layout!(RetransmitCounters, 8, [
    segments: u64,
]);
