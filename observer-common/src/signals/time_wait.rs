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
