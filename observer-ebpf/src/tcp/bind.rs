//! Calls of bind() and listen() on TCP sockets that failed. A call that succeeds costs one
//! comparison.
//!
//! All system calls, 32-bit ones included, call `__sys_bind` and `__sys_listen`; io_uring calls
//! `io_bind` and `io_listen` instead (6.11 and later). Hooks on the protocol's functions would miss
//! calls that security modules refuse before. Only 64-bit system calls pass
//! `tracepoint/syscalls/sys_exit_bind` and `sys_exit_listen`. There are no kretprobes, because these
//! calls wait for the socket's lock.

use aya_ebpf::{
    macros::{fexit, tracepoint},
    programs::{FExitContext, TracePointContext},
};
use observer_common::{
    BIND_ERRORS, BIND_INDICES, BIND_OTHER, CALL_BIND, CALL_LISTEN, RECORD_BIND_FAILED, SIGNAL_BIND,
};

use crate::{
    core::{
        counters::{self, add, index_in},
        fd_lookup,
        fields::{BIND_BY_FUNCTION, LISTEN_BY_FUNCTION, PORTS_BIND_BY_FUNCTION, SYSCALL_RET},
        outcome::{count_outcome, seen},
        process,
        read::User,
        records, regs,
        sockaddr::SockAddr,
        socket,
    },
    tcp::ports::search,
};

/// Higher numbers are internal to the kernel (ERESTARTSYS...) and never reach the caller.
const MAX_ERRNO: i64 = 511;

#[fexit(function = "__sys_bind")]
pub fn bind_fexit(ctx: FExitContext) -> i32 {
    let ret: i32 = ctx.arg(3);
    if ret < 0 {
        let (address, length) = (ctx.arg(1), ctx.arg(2));
        on_failed_bind(ctx.arg(0), -i64::from(ret), address, length);
    }
    0
}

#[fexit(function = "__sys_listen")]
pub fn listen_fexit(ctx: FExitContext) -> i32 {
    let ret: i32 = ctx.arg(2);
    if ret < 0 {
        on_failed_listen(ctx.arg(0), -i64::from(ret));
    }
    0
}

#[fexit(function = "io_bind")]
pub fn io_bind_fexit(ctx: FExitContext) -> i32 {
    // The request has its own copy of the address, which is not read.
    if let Some((sk, errno)) = fd_lookup::failed_request(ctx.arg(0)) {
        on_failure(CALL_BIND, sk, errno, || None);
    }
    0
}

#[fexit(function = "io_listen")]
pub fn io_listen_fexit(ctx: FExitContext) -> i32 {
    if let Some((sk, errno)) = fd_lookup::failed_request(ctx.arg(0)) {
        on_failure(CALL_LISTEN, sk, errno, || None);
    }
    0
}

/// Also counts failed searches of bind() for a local port, where no function hook does.
#[tracepoint(category = "syscalls", name = "sys_exit_bind")]
pub fn bind_exit_tracepoint(ctx: TracePointContext) -> u32 {
    let errno = errno_of(&ctx);
    if errno > 0 {
        if PORTS_BIND_BY_FUNCTION.load() == 0 && errno == search::EADDRINUSE {
            search::on_bind_call();
        }
        if BIND_BY_FUNCTION.load() == 0 {
            let address = regs::argument(1) as *const u8;
            let length = regs::argument(2) as u32;
            on_failed_bind(regs::argument(0) as i32, errno, address, length);
        }
    }
    0
}

/// As [`bind_exit_tracepoint`]: listen() searches for a port if the socket has none.
#[tracepoint(category = "syscalls", name = "sys_exit_listen")]
pub fn listen_exit_tracepoint(ctx: TracePointContext) -> u32 {
    let errno = errno_of(&ctx);
    if errno > 0 {
        if PORTS_BIND_BY_FUNCTION.load() == 0 && errno == search::EADDRINUSE {
            search::on_listen_call();
        }
        if LISTEN_BY_FUNCTION.load() == 0 {
            on_failed_listen(regs::argument(0) as i32, errno);
        }
    }
    0
}

/// The errno of a call that failed; 0 or less if it succeeded.
#[inline(always)]
fn errno_of(ctx: &TracePointContext) -> i64 {
    // SAFETY: the offset comes from the event's format.
    let ret: i64 = unsafe { ctx.read_at(SYSCALL_RET.load() as usize) }.unwrap_or(0);
    -ret
}

/// A call by descriptor failed. The descriptor may not be a socket: at the tracepoint, the call may
/// have been refused by seccomp before the kernel checked the descriptor.
#[inline(always)]
fn on_failed_bind(fd: i32, errno: i64, address: *const u8, length: u32) {
    if let Some(sk) = fd_lookup::current_socket(fd as u32) {
        on_failure(CALL_BIND, sk, errno, move || {
            SockAddr::read::<User>(address, length)
        });
    }
}

/// As [`on_failed_bind`].
#[inline(always)]
fn on_failed_listen(fd: i32, errno: i64) {
    if let Some(sk) = fd_lookup::current_socket(fd as u32) {
        on_failure(CALL_LISTEN, sk, errno, || None);
    }
}

/// Counts the failure for the running process. `asked` reads the address that bind() was asked for, if it is known.
#[inline(always)]
fn on_failure(call: usize, sk: *const u8, errno: i64, asked: impl FnOnce() -> Option<SockAddr>) {
    if errno > MAX_ERRNO || socket::tcp_protocol(sk).is_none() {
        return;
    }
    seen(SIGNAL_BIND);
    let slot = process::current();
    count_outcome(SIGNAL_BIND, slot);
    let Some(index) = index_in(&BIND_INDICES, errno as u32, BIND_OTHER, BIND_ERRORS) else {
        return;
    };
    if let Some(counters) = counters::slot(slot) {
        // SAFETY: points into the map; `call` is one of the `CALL_` constants, the index was
        // checked.
        unsafe {
            let of_call = (&raw mut (*counters).bind.failed[call]).cast::<u64>();
            add(of_call.add(index), 1);
        }
    }
    // The closures move their constants: with a reference to `call`, its use as an index above has a bounds check, whose panic the
    // verifier refuses ("last insn is not an exit or jmp").
    records::write(
        RECORD_BIND_FAILED,
        sk,
        core::ptr::null(),
        slot,
        move |record| {
            record.errno = errno as u16;
            record.reason = call as u32;
            if call == CALL_LISTEN {
                return;
            }
            // In place of the addresses of a socket that is bound or connected already.
            let asked = asked().unwrap_or_default();
            record.family = asked.family;
            record.local = asked.address;
            record.local_port = asked.port;
            record.remote = [0; 16];
            record.remote_port = 0;
        },
    );
}
