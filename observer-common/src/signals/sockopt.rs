//! Failed setsockopt calls. They are counted in a hash map, because an array would be too large.

/// Key of the failure counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SockoptKey {
    /// Slot of the process.
    pub slot: u32,
    /// Generation of the slot when the failure was counted.
    pub generation: u32,
    /// `level` argument.
    pub level: i32,
    /// `optname` argument.
    pub option: i32,
    /// Positive errno.
    pub errno: u16,
    /// Address family of the socket; 0 if the descriptor was not a socket.
    pub family: u16,
    /// `sk_protocol` of the socket (262 for MPTCP).
    pub protocol: u16,
    /// `sk_type`: SOCK_STREAM, SOCK_DGRAM...
    pub socket_type: u16,
}

crate::assert_layout!(SockoptKey, 24, [
    slot: u32, generation: u32, level: i32, option: i32,
    errno: u16, family: u16, protocol: u16, socket_type: u16,
]);

/// Kinds of failed calls (keys) that a process has counters for; further ones count in
/// [`SockoptKey::rest`]. A program can use any option number, and the map is for all processes.
pub const SOCKOPT_KINDS: u64 = 64;

impl SockoptKey {
    /// The key of the kinds beyond [`SOCKOPT_KINDS`] of a process.
    #[must_use]
    pub const fn rest(slot: u32, generation: u32) -> Self {
        Self {
            slot,
            generation,
            level: i32::MIN,
            option: i32::MIN,
            errno: 0,
            family: u16::MAX,
            protocol: u16::MAX,
            socket_type: u16::MAX,
        }
    }
}
