//! Control of the walk over open files.

/// Control block of the iterator over open files.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ResyncControl {
    /// Number of this resynchronisation.
    pub epoch: u32,
    /// 0: confirm owners that still have their sockets open; 1: insert unknown sockets, and hand
    /// sockets whose owner was not confirmed over to a process that has them open.
    pub pass: u32,
    /// Sockets inserted by all resynchronisations so far.
    pub seeded: u64,
    /// Sockets handed over to another process by all resynchronisations so far.
    pub moved: u64,
    /// Sockets visited in the second pass of this resynchronisation.
    pub seen: u64,
    /// 1: drops of a UDP socket without an entry may be older than the observer, and are not
    /// counted. It stays 1 until a resynchronisation has finished in which every socket with drops
    /// had or got an entry.
    pub baseline: u32,
    /// The process whose UDP sockets were visited last.
    pub udp_tgid: u32,
    /// Number of them with an entry.
    pub udp_entries: u32,
    /// 1 once this resynchronisation visited a UDP socket with drops for which the map was full.
    pub refused: u32,
}

crate::assert_layout!(ResyncControl, 48, [
    epoch: u32, pass: u32, seeded: u64, moved: u64, seen: u64, baseline: u32, udp_tgid: u32,
    udp_entries: u32, refused: u32,
]);
