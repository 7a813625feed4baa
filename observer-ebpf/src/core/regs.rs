//! Number and arguments of the running system call, from the saved user registers.

use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_get_current_task_btf, bpf_task_pt_regs,
};

use crate::core::{
    fields::{REGS_FROM_STACK, at, has},
    read::{Direct, Memory, Probe},
};

/// Size of a kernel stack, in bytes: `THREAD_SIZE` on x86-64 and on arm64 with pages of 4 or 16 KiB,
/// without KASAN.
const THREAD_SIZE: u64 = 16_384;

/// Reads from the user registers that were saved on entry to the system call. They still hold the
/// arguments when the call returns, so no hook on entry is needed.
#[inline(always)]
unsafe fn register<T: Copy + Default>(offset: usize) -> T {
    // SAFETY: the running thread's `struct pt_regs`; the caller's offset is from BTF.
    unsafe {
        if REGS_FROM_STACK.load() != 0 {
            // As in `task_pt_regs`: they are at the top of the task's kernel stack.
            let task = bpf_get_current_task() as *const u8;
            let stack = Probe::read::<u64>(task, at::OFF_TASK_STACK());
            let registers = stack + THREAD_SIZE - at::PT_REGS_SIZE() as u64;
            return Probe::read(registers as *const u8, offset);
        }
        // 5.15 and later.
        Direct::read(
            bpf_task_pt_regs(bpf_get_current_task_btf()) as *const u8,
            offset,
        )
    }
}

/// Argument `n` (0 to 2) of the running system call.
#[inline(always)]
pub fn argument(n: u32) -> u64 {
    if !has::OFF_REGS_ARG0() || !has::OFF_REGS_ARG1() || !has::OFF_REGS_ARG2() {
        return 0;
    }
    // SAFETY: offsets from BTF.
    unsafe {
        match n {
            0 => register(at::OFF_REGS_ARG0()),
            1 => register(at::OFF_REGS_ARG1()),
            _ => register(at::OFF_REGS_ARG2()),
        }
    }
}

/// Number of the running system call.
#[inline(always)]
pub fn syscall_number() -> u64 {
    if !has::OFF_REGS_SYSCALL() {
        return u64::MAX;
    }
    // SAFETY: offset from BTF. The upper half is sign extension on x86 and another field on
    // arm64.
    u64::from(unsafe { register::<u32>(at::OFF_REGS_SYSCALL()) })
}
