//! The stack that a program runs on.

use aya_ebpf::EbpfContext;

use crate::core::{fields::HAS_PRIVATE_STACKS, maps::TAIL_CALLS};

/// Has the kernel run the program on the stack of its thread.
///
/// Since 6.13, a program with 64 bytes of stack or more gets a private stack for each CPU
/// (`BPF_PRIV_STACK_MIN_SIZE`, kernel/bpf/verifier.c). That is for programs which are not entered a second time on
/// the same CPU, but a thread in a program on a uprobe can be preempted, and then another thread that enters the
/// program overwrites its stack: on 7.3, one of a hundred handshakes of four threads was taken for another. A program with
/// a tail call gets no private stack (`check_max_stack_depth`), so each has one. It is never made: no cookie has
/// this value. Older kernels may refuse tail calls beside calls of functions (arm64 before 6.0).
#[inline(always)]
pub fn of_thread(ctx: &impl EbpfContext, cookie: u64) {
    if HAS_PRIVATE_STACKS.load() != 0 && cookie == u64::MAX {
        // SAFETY: the map is empty, so nothing is called.
        unsafe { TAIL_CALLS.tail_call(ctx, 0) };
    }
}
