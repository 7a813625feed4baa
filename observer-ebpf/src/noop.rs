//! Programs that do nothing. `cargo xtask bench` attaches one to each hook of the observer, to measure
//! the cost of the hooks alone.

#![no_std]
#![no_main]

mod license;

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, fexit, kprobe, kretprobe, tracepoint},
    programs::{
        BtfTracePointContext, FEntryContext, FExitContext, ProbeContext, RetProbeContext,
        TracePointContext,
    },
};

#[btf_tracepoint]
pub fn noop_tp_btf(_ctx: BtfTracePointContext) -> i32 {
    0
}

#[tracepoint]
pub fn noop_tracepoint(_ctx: TracePointContext) -> u32 {
    0
}

#[fentry]
pub fn noop_fentry(_ctx: FEntryContext) -> i32 {
    0
}

#[fexit]
pub fn noop_fexit(_ctx: FExitContext) -> i32 {
    0
}

#[kprobe]
pub fn noop_kprobe(_ctx: ProbeContext) -> u32 {
    0
}

#[kretprobe]
pub fn noop_kretprobe(_ctx: RetProbeContext) -> u32 {
    0
}
