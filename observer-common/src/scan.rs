//! The walk over open files.

/// What the resynchronisation iterator is to do.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ResyncControl {
    /// Number of this resynchronisation.
    pub epoch: u32,
    /// 0: confirm owners that still hold their sockets; 1: take in unknown sockets and
    /// move those whose owner was not confirmed to a process that holds them.
    pub pass: u32,
    /// Sockets taken in, by all resynchronisations so far.
    pub seeded: u64,
    /// Sockets moved to another process, by all resynchronisations so far.
    pub moved: u64,
    /// Sockets seen in this resynchronisation's second pass.
    pub seen: u64,
}

crate::assert_layout!(ResyncControl, 32, [epoch: u32, pass: u32, seeded: u64, moved: u64, seen: u64]);
