//! Key of the map that keeps the arguments of function calls for kretprobes.

/// A function call that has not returned yet. None of the hooked functions is recursive, so a
/// thread and a function identify a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CallKey {
    /// `bpf_get_current_pid_tgid`. 0 in the idle threads of all CPUs.
    pub thread: u64,
    /// Number of the function.
    pub function: u32,
    /// The CPU, in idle threads, which never move to another; 0 in other threads.
    pub cpu: u32,
}

crate::assert_layout!(CallKey, 16, [thread: u64, function: u32, cpu: u32]);
