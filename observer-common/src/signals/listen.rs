//! Listening sockets.

/// Key of the map of listeners. It contains a time, because another socket can get the address, and a
/// socket can listen twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct ListenerKey {
    /// The socket's address.
    pub socket: u64,
    /// [`crate::Conn::born_ns`] of its entry: when it started to listen, or was found.
    pub born_ns: u64,
}

crate::assert_layout!(ListenerKey, 16, [socket: u64, born_ns: u64]);

/// Value of the map of listeners. Fields that change often are read from the socket; see
/// [`ListenerSample`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Listener {
    /// Connection requests that were dropped because the accept queue was full. 0 without the function
    /// hooks.
    pub overflows: u64,
    /// The owner's slot, written at the start and the end of listening.
    pub slot: u32,
    /// Of the slot, at that time.
    pub generation: u32,
    /// `sk_drops` at the start; earlier drops are not counted.
    pub drops_before: u32,
    /// `sk_drops` at the end; in a sample of a live listener, the current value.
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

/// Output of the iterator over listeners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ListenerSample {
    /// Key of the listener.
    pub key: ListenerKey,
    /// Its value, with the current owner, address and drops.
    pub listener: Listener,
    /// Connections in the accept queue, `sk_ack_backlog`.
    pub backlog: u32,
    /// Limit of the accept queue, `sk_max_ack_backlog`; the kernel accepts one more.
    pub max_backlog: u32,
    /// The value of TCP_FASTOPEN, `fastopenq.max_qlen`; 0 without.
    pub fast_open: u32,
    /// Explicit padding.
    pub reserved: u32,
}

crate::assert_layout!(ListenerSample, 88, [
    key: ListenerKey, listener: Listener, backlog: u32, max_backlog: u32,
    fast_open: u32, reserved: u32,
]);

impl Listener {
    /// Drops since the start. The kernel's counter has 32 bits and may wrap.
    #[must_use]
    pub const fn dropped(&self) -> u32 {
        self.drops.wrapping_sub(self.drops_before)
    }
}
