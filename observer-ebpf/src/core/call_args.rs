//! Arguments of function calls that are under way, for kretprobes: a kretprobe sees what a
//! function returns but no longer what it was given, so the kprobe beside it keeps that.
//!
//! An LRU map, because a return can be missed (`kretprobe` runs out of instances); a
//! forgotten call costs one event.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_get_smp_processor_id};
use observer_common::CallKey;

use crate::core::maps::CALLS;

/// Numbers of the functions.
pub const INET_TWSK_ALLOC: u32 = 0;
pub const INET_HASH_CONNECT: u32 = 1;
pub const INET_CSK_GET_PORT: u32 = 2;
pub const SETSOCKOPT: u32 = 3;

/// Key of the call of `function` that this thread is in.
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

/// Keeps the arguments of a call of `function`.
#[inline(always)]
pub fn enter(function: u32, arguments: [u64; 2]) {
    let _ = CALLS.insert(key(function), arguments, 0);
}

/// The arguments of the call of `function` that returns now.
#[inline(always)]
pub fn leave(function: u32) -> Option<[u64; 2]> {
    let key = key(function);
    let arguments = CALLS.get_ptr(key)?;
    // SAFETY: points into the map.
    let arguments = unsafe { *arguments };
    let _ = CALLS.remove(key);
    Some(arguments)
}
