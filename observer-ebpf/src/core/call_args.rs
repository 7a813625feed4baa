//! Arguments of function calls that have not returned yet. A kretprobe sees what a function
//! returns but not its arguments, so a kprobe on the same function saves them. Also the flags of
//! connection attempts whose sockets have no entry, because the map of connections is full.
//!
//! The map is an LRU map, because a return can be missed (a kretprobe has a limited number of
//! instances). An evicted call costs one event.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_get_smp_processor_id};
use observer_common::CallKey;

use crate::core::maps::CALLS;

/// Numbers of the functions.
pub const INET_HASH_CONNECT: u32 = 0;
pub const INET_CSK_GET_PORT: u32 = 1;

/// The key of a connection attempt has this instead of a function.
const ATTEMPT: u32 = 3;

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
    take_by(key(function))
}

#[inline(always)]
fn take_by(key: CallKey) -> Option<[u64; 2]> {
    let arguments = CALLS.get_ptr(key)?;
    // SAFETY: points into the map.
    let arguments = unsafe { *arguments };
    let _ = CALLS.remove(key);
    Some(arguments)
}

#[inline(always)]
fn attempt_of(sk: *const u8) -> CallKey {
    CallKey {
        thread: sk as u64,
        function: ATTEMPT,
        cpu: 0,
    }
}

/// Saves `CONN_` flags of an attempt of `sk`, which has no entry.
#[inline(always)]
pub fn save_attempt(sk: *const u8, flags: u16) {
    let _ = CALLS.insert(attempt_of(sk), [u64::from(flags), 0], 0);
}

/// Removes and returns the flags of the last attempt of `sk`.
#[inline(always)]
pub fn take_attempt(sk: *const u8) -> Option<u16> {
    take_by(attempt_of(sk)).map(|[flags, _]| flags as u16)
}
