//! Listening sockets.

/// Key of the map of listeners. An address may be used again by another socket, and one
/// socket may listen twice, so the moment belongs to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct ListenerKey {
    /// The socket's address.
    pub socket: u64,
    /// [`crate::Conn::born_ns`] of its entry: when it began to listen, or was found.
    pub born_ns: u64,
}

crate::assert_layout!(ListenerKey, 16, [socket: u64, born_ns: u64]);

/// Value of the map of listeners. What changes all the time stays in the socket and is read
/// from there; see [`ListenerSample`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Listener {
    /// Connection requests that found the accept queue full. Counted where a function hook
    /// is attached, otherwise 0.
    pub overflows: u64,
    /// The owner's slot: when it began to listen, and again when it ended.
    pub slot: u32,
    /// Of the slot, at that time.
    pub generation: u32,
    /// `sk_drops` at the first look: what was dropped before is not counted.
    pub drops_before: u32,
    /// `sk_drops` at the end; the sample's while it listens.
    pub drops: u32,
    /// 1 once it no longer listens.
    pub closed: u32,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Local port, host order.
    pub port: u16,
    /// Explicit padding.
    pub reserved: [u16; 3],
    /// Local address as the bytes of a `struct in6_addr`, IPv4 as `::ffff:a.b.c.d`.
    pub address: [u32; 4],
}

crate::assert_layout!(Listener, 56, [
    overflows: u64, slot: u32, generation: u32, drops_before: u32, drops: u32, closed: u32,
    netns: u32, port: u16, reserved: [u16; 3], address: [u32; 4],
]);

/// What the iterator over listeners writes for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ListenerSample {
    /// Which.
    pub key: ListenerKey,
    /// Its entry, with owner, address and drops as they are now.
    pub listener: Listener,
    /// Connections that wait to be accepted, `sk_ack_backlog`.
    pub backlog: u32,
    /// The most that may wait, `sk_max_ack_backlog`; one more is let in.
    pub max_backlog: u32,
}

crate::assert_layout!(ListenerSample, 80, [
    key: ListenerKey, listener: Listener, backlog: u32, max_backlog: u32,
]);

impl Listener {
    /// Drops since it was first seen. The kernel's counter is 32 bits wide and may wrap.
    #[must_use]
    pub const fn dropped(&self) -> u32 {
        self.drops.wrapping_sub(self.drops_before)
    }
}
