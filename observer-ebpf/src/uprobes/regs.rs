//! Registers of the thread that hit a probe.

use aya_ebpf::{
    EbpfContext, bindings::pt_regs, helpers::generated::bpf_get_attach_cookie,
    programs::ProbeContext,
};

use crate::uprobes::stack;

/// The cookie of the attachment, `bpf_get_attach_cookie` (5.15). Each program calls it.
#[inline(always)]
pub fn cookie(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: the context of the running program.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    stack::of_thread(ctx, cookie);
    cookie
}

/// The stack pointer that the caller of the function at whose entry the probe is will have when it returns:
/// on x86-64 the return address is above it.
#[inline(always)]
pub fn stack_after_return(regs: *const pt_regs) -> u64 {
    stack(regs)
        + if cfg!(bpf_target_arch = "x86_64") {
            8
        } else {
            0
        }
}

/// The stack pointer.
#[inline(always)]
pub fn stack(regs: *const pt_regs) -> u64 {
    // SAFETY: the context of the running program.
    unsafe {
        #[cfg(bpf_target_arch = "x86_64")]
        return (*regs).rsp;
        #[cfg(not(bpf_target_arch = "x86_64"))]
        return (*regs).sp;
    }
}

/// The goroutine: R14 on amd64 and X28 on arm64, in Go's internal ABI.
#[inline(always)]
pub fn goroutine(ctx: &ProbeContext) -> u64 {
    // SAFETY: the context of the running program.
    unsafe {
        #[cfg(bpf_target_arch = "x86_64")]
        return (*ctx.regs).r14;
        #[cfg(not(bpf_target_arch = "x86_64"))]
        return (*ctx.regs).regs[28];
    }
}

/// The first word that a Go function returns, or its first argument: AX on amd64 and X0 on arm64.
#[inline(always)]
pub fn go_first(ctx: &ProbeContext) -> u64 {
    // SAFETY: the context of the running program.
    unsafe {
        #[cfg(bpf_target_arch = "x86_64")]
        return (*ctx.regs).rax;
        #[cfg(not(bpf_target_arch = "x86_64"))]
        return (*ctx.regs).regs[0];
    }
}

/// The second word of a Go function's arguments: BX on amd64 and X1 on arm64.
#[inline(always)]
pub fn go_second(ctx: &ProbeContext) -> u64 {
    // SAFETY: the context of the running program.
    unsafe {
        #[cfg(bpf_target_arch = "x86_64")]
        return (*ctx.regs).rbx;
        #[cfg(not(bpf_target_arch = "x86_64"))]
        return (*ctx.regs).regs[1];
    }
}

/// The third word of a Go function's arguments: CX on amd64 and X2 on arm64.
#[inline(always)]
pub fn go_third(ctx: &ProbeContext) -> u64 {
    // SAFETY: the context of the running program.
    unsafe {
        #[cfg(bpf_target_arch = "x86_64")]
        return (*ctx.regs).rcx;
        #[cfg(not(bpf_target_arch = "x86_64"))]
        return (*ctx.regs).regs[2];
    }
}
