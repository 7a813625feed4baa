//! Keys of processes, and numbers of slots.

/// Slot for events whose owner is not known.
pub const SLOT_UNATTRIBUTED: u32 = 0;
/// Slot for RSTs without a socket: port scans and stray segments.
pub const SLOT_NO_SOCKET: u32 = 1;
/// Slot for all processes that found no free slot.
pub const SLOT_OVERFLOW: u32 = 2;
/// First slot that a process can get.
pub const SLOT_FIRST: u32 = 3;

/// Bytes of a comm, NUL included: `TASK_COMM_LEN`.
pub const COMM_LEN: usize = 16;

/// Key of a process, unique within a boot: with a reused pid, the start time differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ProcessKey {
    /// Start of the thread-group leader, `task_struct.start_boottime`, in nanoseconds
    /// since boot.
    pub start_boottime_ns: u64,
    /// Thread-group id in the initial pid namespace.
    pub tgid: u32,
    /// Explicit padding, zero.
    pub reserved: u32,
}

crate::assert_layout!(ProcessKey, 16, [start_boottime_ns: u64, tgid: u32, reserved: u32]);
