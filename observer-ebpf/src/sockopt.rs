//! Failed setsockopt calls: `tracepoint/syscalls/sys_exit_setsockopt`. A call that succeeds
//! costs one comparison: the arguments are read from the caller's saved registers, so
//! nothing is kept from the entry.
//!
//! 32-bit programs and io_uring do not pass this tracepoint.

use aya_ebpf::{macros::tracepoint, programs::TracePointContext};
use observer_common::{MAP_SOCKOPT, RECORD_SETSOCKOPT_FAILED, SIGNAL_SETSOCKOPT, SockoptKey};

use crate::{
    counting::{self, add, map_full, seen, settle, settle_lost},
    files,
    layout::{SYSCALL_RET, at},
    maps::SOCKOPT_FAILURES,
    memory::{Memory, Probe},
    owner, stream,
};

const BPF_NOEXIST: u64 = 1;
const EBADF: i64 = 9;
const ENOTSOCK: i64 = 88;
/// Numbers above this are the kernel's own (ERESTARTSYS...) and never reach the caller.
const MAX_ERRNO: i64 = 511;

#[tracepoint(category = "syscalls", name = "sys_exit_setsockopt")]
pub fn setsockopt_exit_tracepoint(ctx: TracePointContext) -> u32 {
    // SAFETY: the offset comes from the event's format.
    let ret: i64 = unsafe { ctx.read_at(SYSCALL_RET.load() as usize) }.unwrap_or(0);
    if ret < 0 && -ret <= MAX_ERRNO {
        on_failure(-ret);
    }
    0
}

#[inline(always)]
fn on_failure(errno: i64) {
    seen(SIGNAL_SETSOCKOPT);
    let slot = owner::current();
    let mut key = SockoptKey {
        slot,
        generation: 0,
        level: files::argument(1) as i32,
        option: files::argument(2) as i32,
        errno: errno as u16,
        family: 0,
        protocol: 0,
        socket_type: 0,
    };
    let mut sk = core::ptr::null();
    if errno != EBADF && errno != ENOTSOCK {
        if let Some(socket) = files::current_socket(files::argument(0) as u32) {
            sk = socket;
            // SAFETY: a socket from the file table, offsets from BTF.
            unsafe {
                key.family = Probe::read(sk, at::OFF_SKC_FAMILY());
                key.protocol = Probe::read(sk, at::OFF_SK_PROTOCOL());
                key.socket_type = Probe::read(sk, at::OFF_SK_TYPE());
            }
        }
    }
    if let Some(counters) = counting::slot(slot) {
        // SAFETY: points into the map.
        key.generation = unsafe { (*counters).generation };
    }
    if count(&key) {
        settle(SIGNAL_SETSOCKOPT, slot);
    } else {
        map_full(MAP_SOCKOPT);
        settle_lost(SIGNAL_SETSOCKOPT);
    }
    let is_inet = key.family == observer_common::AF_INET || key.family == observer_common::AF_INET6;
    let addressed = if is_inet { sk } else { core::ptr::null() };
    stream::write(
        RECORD_SETSOCKOPT_FAILED,
        addressed,
        core::ptr::null(),
        slot,
        |record| {
            record.family = key.family;
            record.protocol = key.protocol;
            record.reason = u32::from(key.socket_type);
            record.level = key.level;
            record.option = key.option;
            record.errno = key.errno;
        },
    );
}

/// Adds one to the counter of `key`; false when there is no room for it.
#[inline(always)]
fn count(key: &SockoptKey) -> bool {
    if SOCKOPT_FAILURES.get_ptr(key).is_none() {
        // When another CPU was faster, its entry is there now.
        let _ = SOCKOPT_FAILURES.insert(key, 0, BPF_NOEXIST);
    }
    match SOCKOPT_FAILURES.get_ptr_mut(key) {
        Some(counter) => {
            add(counter, 1);
            true
        }
        None => false,
    }
}
