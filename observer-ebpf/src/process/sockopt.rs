//! Failed setsockopt calls. A call that succeeds costs one comparison.
//!
//! All system calls, 32-bit ones included, call `__sys_setsockopt`. Only 64-bit system calls pass
//! `tracepoint/syscalls/sys_exit_setsockopt`, whose program reads the arguments from the caller's
//! saved registers. io_uring (6.7 and later) passes neither. There is no kretprobe, because the call
//! waits for the socket's lock.

use aya_ebpf::{
    macros::{fexit, tracepoint},
    programs::{FExitContext, TracePointContext},
};
use observer_common::{
    MAP_SOCKOPT, RECORD_SETSOCKOPT_FAILED, SIGNAL_SETSOCKOPT, SOCKOPT_KINDS, SockoptKey,
};

use crate::core::{
    counters::{self, add},
    fd_lookup,
    fields::{SYSCALL_RET, at},
    maps::{BPF_NOEXIST, SOCKOPT_FAILURES},
    outcome::{count_lost, count_outcome, map_full, seen},
    process,
    read::{Memory, Probe},
    records, regs,
};

/// Higher numbers are internal to the kernel (ERESTARTSYS...) and never reach the caller.
const MAX_ERRNO: i64 = 511;

#[fexit(function = "__sys_setsockopt")]
pub fn setsockopt_fexit(ctx: FExitContext) -> i32 {
    let ret: i32 = ctx.arg(5);
    if ret < 0 {
        on_failed_call(-i64::from(ret), ctx.arg(0), ctx.arg(1), ctx.arg(2));
    }
    0
}

#[tracepoint(category = "syscalls", name = "sys_exit_setsockopt")]
pub fn setsockopt_exit_tracepoint(ctx: TracePointContext) -> u32 {
    // SAFETY: the offset comes from the event's format.
    let ret: i64 = unsafe { ctx.read_at(SYSCALL_RET.load() as usize) }.unwrap_or(0);
    if ret < 0 {
        on_failed_call(
            -ret,
            regs::argument(0) as i32,
            regs::argument(1) as i32,
            regs::argument(2) as i32,
        );
    }
    0
}

/// A call by descriptor failed.
#[inline(always)]
fn on_failed_call(errno: i64, fd: i32, level: i32, option: i32) {
    if errno > MAX_ERRNO {
        return;
    }
    let sk = fd_lookup::current_socket(fd as u32).unwrap_or(core::ptr::null());
    seen(SIGNAL_SETSOCKOPT);
    let slot = process::current();
    let mut key = SockoptKey {
        slot,
        generation: 0,
        level,
        option,
        errno: errno as u16,
        family: 0,
        protocol: 0,
        socket_type: 0,
    };
    if !sk.is_null() {
        // SAFETY: a socket from the kernel, offsets from BTF.
        unsafe {
            key.family = Probe::read(sk, at::OFF_SKC_FAMILY());
            key.protocol = Probe::read(sk, at::OFF_SK_PROTOCOL());
            key.socket_type = Probe::read(sk, at::OFF_SK_TYPE());
        }
    }
    if let Some(counters) = counters::slot(slot) {
        // SAFETY: points into the map.
        key.generation = unsafe { (*counters).generation };
    }
    if count(key) {
        count_outcome(SIGNAL_SETSOCKOPT, slot);
    } else {
        map_full(MAP_SOCKOPT);
        count_lost(SIGNAL_SETSOCKOPT);
    }
    let is_inet = key.family == observer_common::AF_INET || key.family == observer_common::AF_INET6;
    let addressed = if is_inet { sk } else { core::ptr::null() };
    records::write(
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

/// Increments the counter of `key`, or that of the process's further kinds; false if the map is full.
#[inline(always)]
fn count(mut key: SockoptKey) -> bool {
    if SOCKOPT_FAILURES.get_ptr(key).is_none() {
        let kinds = counters::slot(key.slot)
            // SAFETY: points into the map.
            .map(|slot| unsafe { &raw mut (*slot).sockopt_kinds });
        // SAFETY: as above.
        if kinds.is_some_and(|kinds| unsafe { *kinds } >= SOCKOPT_KINDS) {
            key = SockoptKey::rest(key.slot, key.generation);
        }
        // If this fails because another CPU inserted the key first, use its counter.
        if SOCKOPT_FAILURES.insert(key, 0, BPF_NOEXIST).is_ok()
            && let Some(kinds) = kinds
        {
            add(kinds, 1);
        }
    }
    match SOCKOPT_FAILURES.get_ptr_mut(key) {
        Some(counter) => {
            add(counter, 1);
            true
        }
        None => false,
    }
}
