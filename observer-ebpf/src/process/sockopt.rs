//! Failed setsockopt calls. A call that succeeds costs one comparison.
//!
//! `do_sock_setsockopt` (6.7 and later) is called for every call on a socket, also through io_uring
//! and from 32-bit programs; before that, `__sys_setsockopt` is. Only 64-bit system calls pass
//! `tracepoint/syscalls/sys_exit_setsockopt`, whose program reads the arguments from the caller's
//! saved registers.

use aya_ebpf::{
    macros::{fexit, tracepoint},
    programs::{FExitContext, TracePointContext},
};
use observer_common::{MAP_SOCKOPT, RECORD_SETSOCKOPT_FAILED, SIGNAL_SETSOCKOPT, SockoptKey};

use crate::core::{
    counters::{self, add},
    fd_lookup,
    fields::{SETSOCKOPT_BY_FUNCTION, SYSCALL_RET, at},
    maps::{BPF_NOEXIST, SOCKOPT_FAILURES},
    outcome::{count_lost, count_outcome, map_full, seen},
    process,
    read::{Memory, Probe},
    records, regs,
};

/// Higher numbers are internal to the kernel (ERESTARTSYS...) and never reach the caller.
const MAX_ERRNO: i64 = 511;

#[tracepoint(category = "syscalls", name = "sys_exit_setsockopt")]
pub fn setsockopt_exit_tracepoint(ctx: TracePointContext) -> u32 {
    // SAFETY: the offset comes from the event's format.
    let ret: i64 = unsafe { ctx.read_at(SYSCALL_RET.load() as usize) }.unwrap_or(0);
    if ret < 0 && -ret <= MAX_ERRNO {
        on_failed_call(
            -ret,
            regs::argument(0) as u32,
            regs::argument(1) as i32,
            regs::argument(2) as i32,
        );
    }
    0
}

#[fexit(function = "do_sock_setsockopt")]
pub fn setsockopt_fexit(ctx: FExitContext) -> i32 {
    let socket: *const u8 = ctx.arg(0);
    let level: i32 = ctx.arg(2);
    let option: i32 = ctx.arg(3);
    // Not read by position, because `optval` is a structure that takes two argument slots.
    if let Ok(ret) = ctx.ret::<i32>() {
        on_return(socket, level, option, ret);
    }
    0
}

#[fexit(function = "__sys_setsockopt")]
pub fn sys_setsockopt_fexit(ctx: FExitContext) -> i32 {
    let fd: i32 = ctx.arg(0);
    let level: i32 = ctx.arg(1);
    let option: i32 = ctx.arg(2);
    let ret: i32 = ctx.arg(5);
    on_sys_return(fd, level, option, ret);
    0
}

#[inline(always)]
fn on_return(socket: *const u8, level: i32, option: i32, ret: i32) {
    if ret >= 0 {
        return;
    }
    // SAFETY: a struct socket, offset from BTF.
    let sk = unsafe { Probe::read::<u64>(socket, at::OFF_SOCKET_SK()) } as *const u8;
    on_failure(-i64::from(ret), level, option, sk);
}

#[inline(always)]
fn on_sys_return(fd: i32, level: i32, option: i32, ret: i32) {
    if ret < 0 {
        on_failed_call(-i64::from(ret), fd as u32, level, option);
    }
}

/// A call by descriptor failed.
#[inline(always)]
fn on_failed_call(errno: i64, fd: u32, level: i32, option: i32) {
    let sk = fd_lookup::current_socket(fd).unwrap_or(core::ptr::null());
    if SETSOCKOPT_BY_FUNCTION.load() != 0 && !sk.is_null() {
        return;
    }
    on_failure(errno, level, option, sk);
}

/// A call failed on the socket `sk`, null for none.
#[inline(always)]
fn on_failure(errno: i64, level: i32, option: i32, sk: *const u8) {
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
    if count(&key) {
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

/// Increments the counter of `key`; false if the map is full.
#[inline(always)]
fn count(key: &SockoptKey) -> bool {
    if SOCKOPT_FAILURES.get_ptr(key).is_none() {
        // If this fails because another CPU inserted the key first, use its counter.
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
