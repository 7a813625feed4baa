//! Sockets in TIME_WAIT, where the kernel's functions can be hooked and nothing has to be
//! inferred.

/// How many sockets a process left in TIME_WAIT. It outlives the process and its slot: a
/// process that ended keeps its account until the last of them is gone.
///
/// The accounts below [`crate::SLOT_FIRST`] are those of the slots of the same number; a
/// process that found no account counts in that of [`crate::SLOT_OVERFLOW`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Account {
    /// Entered TIME_WAIT and are, or were, in the map of sockets in TIME_WAIT.
    pub entered: u64,
    /// Left it.
    pub ended: u64,
}

crate::assert_layout!(Account, 16, [entered: u64, ended: u64]);

impl Account {
    /// Sockets in TIME_WAIT now. Two CPUs may be seen out of order.
    #[must_use]
    pub const fn live(&self) -> u64 {
        self.entered.saturating_sub(self.ended)
    }
}

/// A socket in TIME_WAIT; the key is the address of its `struct inet_timewait_sock`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TimeWait {
    /// The owner's slot.
    pub slot: u32,
    /// Of the slot, when the socket entered.
    pub generation: u32,
    /// The owner's account.
    pub account: u32,
    /// Inode number of its network namespace.
    pub netns: u32,
    /// When it entered, `bpf_ktime_get_ns`.
    pub entered_ns: u64,
}

crate::assert_layout!(TimeWait, 24, [
    slot: u32, generation: u32, account: u32, netns: u32, entered_ns: u64,
]);

/// The states that a timewait socket begins in: after the peer's FIN, or before it, for a
/// socket that was closed in FIN_WAIT2. The latter's later change to TIME_WAIT has no event.
pub const TIME_WAIT_SUBSTATES: [u8; 2] = [crate::TIME_WAIT, crate::FIN_WAIT2];

/// Element of the array of recent TIME_WAIT sockets, at one of the [`places_of`] its key.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TimeWaitOwner {
    /// The socket cookie, which a timewait socket takes over from the socket it replaces
    /// (`inet_twsk_alloc`); another number where there is none; 0 while nothing is here, or
    /// something is being written.
    pub key: u64,
    /// The owner's slot.
    pub slot: u32,
    /// Of the slot, at that time.
    pub generation: u32,
    /// Address of its `struct net`.
    pub net: u64,
    /// `net_cookie` of that, by which another at the same address is told from it.
    pub net_cookie: u64,
    /// When it entered, as [`crate::coarse_time`].
    pub entered: u32,
    /// Local port, host order.
    pub local_port: u16,
    /// Remote port, host order.
    pub remote_port: u16,
    /// Local address as the bytes of a `struct in6_addr`, IPv4 as `::ffff:a.b.c.d`.
    pub local: [u32; 4],
    /// Remote address, likewise.
    pub remote: [u32; 4],
    /// `skc_hash`, under which the timewait socket is found.
    pub hash: u32,
    /// Explicit padding.
    pub reserved: u32,
}

crate::assert_layout!(TimeWaitOwner, 80, [
    key: u64, slot: u32, generation: u32, net: u64, net_cookie: u64, entered: u32, local_port: u16, remote_port: u16,
    local: [u32; 4], remote: [u32; 4], hash: u32, reserved: u32,
]);

/// Where in an array of `mask + 1` elements, a power of two up to 65,536, an entry with this key
/// may be. With five places to choose from, one in a hundred finds all taken when the array is
/// half full. The first is beside that of the key before: cookies are handed out one after the
/// other, on each CPU, and so are most places, which are in the cache then.
#[must_use]
#[inline(always)]
pub const fn places_of(key: u64, mask: u32) -> [u32; 5] {
    // The finalizer of MurmurHash3, whose every bit depends on every bit of the key.
    let hash = (key ^ (key >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    let hash = hash ^ (hash >> 33);
    [
        key as u32 & mask,
        hash as u32 & mask,
        (hash >> 16) as u32 & mask,
        (hash >> 32) as u32 & mask,
        (hash >> 48) as u32 & mask,
    ]
}

/// How long a socket rests in TIME_WAIT, `TCP_TIMEWAIT_LEN` (`include/net/tcp.h`).
pub const TIME_WAIT_NS: u64 = 60_000_000_000;

/// Nanoseconds in units of 2^20, about a millisecond; they wrap after 52 days.
#[must_use]
pub const fn coarse_time(nanoseconds: u64) -> u32 {
    (nanoseconds >> 20) as u32
}
