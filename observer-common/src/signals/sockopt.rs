//! Failed setsockopt calls: too many combinations for an array, so a hash map.

/// Key of the failure counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SockoptKey {
    /// The process's slot.
    pub slot: u32,
    /// Of the slot, when the failure was counted.
    pub generation: u32,
    /// `level` argument.
    pub level: i32,
    /// `optname` argument.
    pub option: i32,
    /// Positive errno.
    pub errno: u16,
    /// Address family of the socket, 0 when the descriptor was no socket.
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
