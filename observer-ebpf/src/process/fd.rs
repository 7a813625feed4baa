//! Calls that failed because file descriptors, or memory for sockets, ran out.
//!
//! `alloc_fd` reserves a descriptor for every call that returns one (socket, accept, open, pipe, dup,
//! eventfd, SCM_RIGHTS...), `sock_alloc_file` makes the file of a socket, and `__sock_create` the socket
//! of socket(). A call ends at the first of them that fails, so none counts it twice.
//!
//! Without function hooks, `tracepoint/syscalls/sys_exit_{accept,accept4,socket}` are used. Those
//! on accept() also pass accepted connections to [`accept`], unless a function hook counts them.

use aya_ebpf::{
    macros::{fexit, tracepoint},
    programs::{FExitContext, TracePointContext},
};
use observer_common::{FD_ERRNOS, RECORD_FD_EXHAUSTED, SIGNAL_FD};

use crate::{
    core::{
        counters::{self, add, bounded},
        fd_lookup,
        fields::{ACCEPT_BY_FUNCTION, FD_BY_FUNCTION, SYSCALL_RET},
        outcome::{count_outcome, seen},
        process, records,
    },
    tcp::accept,
};

#[fexit(function = "alloc_fd")]
pub fn alloc_fd_fexit(ctx: FExitContext) -> i32 {
    let ret: i32 = ctx.arg(3);
    on_return(i64::from(ret));
    0
}

/// The function returns the file, or an errno as a pointer (`ERR_PTR`).
#[fexit(function = "sock_alloc_file")]
pub fn sock_alloc_file_fexit(ctx: FExitContext) -> i32 {
    on_return(ctx.arg(3));
    0
}

#[fexit(function = "__sock_create")]
pub fn sock_create_fexit(ctx: FExitContext) -> i32 {
    let ret: i32 = ctx.arg(6);
    on_return(i64::from(ret));
    0
}

#[tracepoint(category = "syscalls", name = "sys_exit_accept")]
pub fn accept_exit_tracepoint(ctx: TracePointContext) -> u32 {
    on_accept(returned(&ctx))
}

#[tracepoint(category = "syscalls", name = "sys_exit_accept4")]
pub fn accept4_exit_tracepoint(ctx: TracePointContext) -> u32 {
    on_accept(returned(&ctx))
}

#[tracepoint(category = "syscalls", name = "sys_exit_socket")]
pub fn socket_exit_tracepoint(ctx: TracePointContext) -> u32 {
    on_return(returned(&ctx));
    0
}

#[inline(always)]
fn returned(ctx: &TracePointContext) -> i64 {
    // SAFETY: the offset comes from the event's format.
    unsafe { ctx.read_at(SYSCALL_RET.load() as usize) }.unwrap_or(0)
}

#[inline(always)]
fn on_accept(ret: i64) -> u32 {
    if ret < 0 {
        if FD_BY_FUNCTION.load() == 0 {
            on_return(ret);
        }
    } else if ACCEPT_BY_FUNCTION.load() != 0 {
        // Counted when it left the accept queue.
    } else if let Some(sk) = fd_lookup::current_socket(ret as u32) {
        accept::on_descriptor(sk);
    }
    0
}

#[inline(always)]
fn on_return(ret: i64) {
    if ret < 0 {
        exhausted(-ret);
    }
}

#[inline(always)]
fn exhausted(errno: i64) {
    let mut index = 0;
    while index < FD_ERRNOS.len() && i64::from(FD_ERRNOS[index]) != errno {
        index += 1;
    }
    let Some(index) = bounded(index, FD_ERRNOS.len()) else {
        return;
    };
    seen(SIGNAL_FD);
    let slot = process::current();
    count_outcome(SIGNAL_FD, slot);
    if let Some(counters) = counters::slot(slot) {
        // SAFETY: points into the map; the index was checked.
        unsafe {
            add(
                (&raw mut (*counters).fd.exhausted).cast::<u64>().add(index),
                1,
            )
        };
    }
    records::write(
        RECORD_FD_EXHAUSTED,
        core::ptr::null(),
        core::ptr::null(),
        slot,
        |record| {
            record.errno = errno as u16;
        },
    );
}
