//! socket() and accept() calls that failed because file descriptors or memory ran out.

/// Exhaustion counters: `EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`.
pub const FD_ERRNOS: [i32; 4] = [24, 23, 105, 12];

/// Counters of descriptors.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FdCounters {
    /// socket() and accept() calls that failed for lack of descriptors or memory, in the order of
    /// [`FD_ERRNOS`].
    pub exhausted: [u64; FD_ERRNOS.len()],
}

crate::assert_layout!(FdCounters, 32, [
    exhausted: [u64; FD_ERRNOS.len()],
]);
