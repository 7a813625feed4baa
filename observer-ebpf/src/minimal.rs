//! The minimum that an observer needs to know owner and age of each socket: at each transition one
//! lookup, one reading of the clock and one counter; an entry from the first transition to the end of
//! the socket. `cargo xtask bench` attaches these programs in place of those that do nothing, to show
//! the part of the cost that no observer can avoid.
//!
//! In two variants: with a hash map, and with socket storage, which the kernel frees with the
//! socket.

#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(
    internal_features,
    reason = "AtomicU64::fetch_add does not exist on the BPF target"
)]

mod license;

use core::{
    intrinsics::{AtomicOrdering, atomic_xadd},
    ptr,
};

use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    btf_maps::{Array, HashMap, SkStorage},
    helpers::{bpf_ktime_get_ns, generated::bpf_sk_storage_get},
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};
use observer_common::{CLOSE, LISTEN, SYN_SENT};

const BPF_NOEXIST: u64 = 1;

/// Entry of a socket.
#[derive(Clone, Copy)]
#[repr(C)]
struct Seen {
    entered_ns: u64,
    state: u32,
    owner: u32,
}

#[btf_map]
static SOCKETS: HashMap<u64, Seen, 131_072> = HashMap::new();

#[btf_map]
static STORAGE: SkStorage<Seen> = SkStorage::new();

/// Transitions, by owner.
#[btf_map]
static TRANSITIONS: Array<u64, 4096> = Array::new();

#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn minimal_state(ctx: BtfTracePointContext) -> i32 {
    let sk: u64 = ctx.arg(0);
    let old: i32 = ctx.arg(1);
    let new: i32 = ctx.arg(2);
    // SAFETY: the helper takes no arguments.
    let entered_ns = unsafe { bpf_ktime_get_ns() };
    let mut owner = 1;
    if old as u8 == LISTEN || (old as u8, new as u8) == (CLOSE, SYN_SENT) {
        let seen = Seen {
            entered_ns,
            state: new as u32,
            owner,
        };
        let _ = SOCKETS.insert(sk, seen, BPF_NOEXIST);
    } else if let Some(seen) = SOCKETS.get_ptr_mut(sk) {
        // SAFETY: points into the map.
        unsafe {
            (*seen).entered_ns = entered_ns;
            (*seen).state = new as u32;
            owner = (*seen).owner;
        }
    }
    count(owner);
    0
}

#[inline(always)]
fn count(owner: u32) {
    if let Some(count) = TRANSITIONS.get_ptr_mut(owner) {
        // SAFETY: points into the map.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(count, 1) };
    }
}

#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn minimal_storage_state(ctx: BtfTracePointContext) -> i32 {
    let sk: *mut u8 = ctx.arg(0);
    let old: i32 = ctx.arg(1);
    let new: i32 = ctx.arg(2);
    // SAFETY: the helper takes no arguments.
    let entered_ns = unsafe { bpf_ktime_get_ns() };
    let mut owner = 1;
    let mut first = Seen {
        entered_ns,
        state: new as u32,
        owner,
    };
    let is_first = old as u8 == LISTEN || (old as u8, new as u8) == (CLOSE, SYN_SENT);
    let (value, flags) = if is_first {
        ((&raw mut first).cast(), BPF_SK_STORAGE_GET_F_CREATE)
    } else {
        (ptr::null_mut(), 0)
    };
    // SAFETY: a socket from the kernel; the value is copied.
    let seen = unsafe {
        let storage = (&raw const STORAGE).cast_mut().cast();
        bpf_sk_storage_get(storage, sk.cast(), value, flags.into()).cast::<Seen>()
    };
    if !is_first && !seen.is_null() {
        // SAFETY: points into the storage.
        unsafe {
            (*seen).entered_ns = entered_ns;
            (*seen).state = new as u32;
            owner = (*seen).owner;
        }
    }
    count(owner);
    0
}

#[btf_tracepoint(function = "tcp_destroy_sock")]
pub fn minimal_destroy(ctx: BtfTracePointContext) -> i32 {
    let sk: u64 = ctx.arg(0);
    let _ = SOCKETS.remove(sk);
    0
}
