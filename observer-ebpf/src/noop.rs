//! Programs that do nothing: what is left of an observer's cost when it counts nothing.
//! `cargo xtask bench` attaches them to the hooks of the observer, one instance for each.

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
