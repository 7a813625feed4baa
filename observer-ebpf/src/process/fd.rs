//! socket() and accept() calls that failed because file descriptors or memory ran out
//! (`tracepoint/syscalls/sys_exit_{accept,accept4,socket}`).
//!
//! The programs on accept() pass accepted connections to [`accept`] where no function hook counts
//! those.

use aya_ebpf::{macros::tracepoint, programs::TracePointContext};
use observer_common::{FD_ERRNOS, RECORD_FD_EXHAUSTED, SIGNAL_FD};

use crate::{
    core::{
        counters::{self, add, bounded},
        fd_lookup,
        fields::{ACCEPT_BY_FUNCTION, SYSCALL_RET},
        outcome::{count_outcome, seen},
        process, records,
    },
    tcp::accept,
};

#[tracepoint(category = "syscalls", name = "sys_exit_accept")]
pub fn accept_exit_tracepoint(ctx: TracePointContext) -> u32 {
    on_accept(&ctx)
}

#[tracepoint(category = "syscalls", name = "sys_exit_accept4")]
pub fn accept4_exit_tracepoint(ctx: TracePointContext) -> u32 {
    on_accept(&ctx)
}

#[tracepoint(category = "syscalls", name = "sys_exit_socket")]
pub fn socket_exit_tracepoint(ctx: TracePointContext) -> u32 {
    let ret = returned(&ctx);
    if ret < 0 {
        exhausted(-ret);
    }
    0
}

#[inline(always)]
fn returned(ctx: &TracePointContext) -> i64 {
    // SAFETY: the offset comes from the event's format.
    unsafe { ctx.read_at(SYSCALL_RET.load() as usize) }.unwrap_or(0)
}

#[inline(always)]
fn on_accept(ctx: &TracePointContext) -> u32 {
    let ret = returned(ctx);
    if ret < 0 {
        exhausted(-ret);
    } else if ACCEPT_BY_FUNCTION.load() != 0 {
        // Counted when it left the accept queue.
    } else if let Some(sk) = fd_lookup::current_socket(ret as u32) {
        accept::on_descriptor(sk);
    }
    0
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
