//! Arguments of function calls that have not returned yet. A kretprobe sees what a function
//! returns but not its arguments, so a kprobe on the same function saves them.
//!
//! The map is an LRU map, because a return can be missed (a kretprobe has a limited number of
//! instances). An evicted call costs one event.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_get_smp_processor_id};
use observer_common::CallKey;

use crate::core::maps::CALLS;

/// Numbers of the functions.
pub const INET_HASH_CONNECT: u32 = 0;
pub const INET_CSK_GET_PORT: u32 = 1;

/// Key of the call of `function` in the running thread.
#[inline(always)]
fn key(function: u32) -> CallKey {
    let thread = bpf_get_current_pid_tgid();
    let mut cpu = 0;
    if thread == 0 {
        // SAFETY: the helper takes no arguments.
        cpu = unsafe { bpf_get_smp_processor_id() };
    }
    CallKey {
        thread,
        function,
        cpu,
    }
}

/// Saves the arguments of a call of `function`.
#[inline(always)]
pub fn save(function: u32, arguments: [u64; 2]) {
    let _ = CALLS.insert(key(function), arguments, 0);
}

/// Removes and returns the arguments of the call of `function` that is returning.
#[inline(always)]
pub fn take(function: u32) -> Option<[u64; 2]> {
    let key = key(function);
    let arguments = CALLS.get_ptr(key)?;
    // SAFETY: points into the map.
    let arguments = unsafe { *arguments };
    let _ = CALLS.remove(key);
    Some(arguments)
}
