//! The bodies of the fuzz targets: each passes external input to one parser and checks its
//! invariants. `fuzz_targets` runs them under libFuzzer, and observer/tests/fuzz_seeds.rs includes
//! this file to run them on the seeds.

use observer::kernel::{
    Attach, check_args, field_offset,
    fields::{FIELDS, Layout, REGISTERS},
    reset_reasons, table,
};
use observer_core::btf::KernelBtf;

/// A target's name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 2] = [("btf", btf), ("tracepoint", tracepoint)];

/// The kernel's type information.
pub fn btf(bytes: &[u8]) {
    let Ok(btf) = KernelBtf::from_bytes(bytes) else {
        return;
    };
    if let Ok(layout) = Layout::resolve(&btf) {
        // Seven more: the size of `struct pt_regs`, where and how large the port range is, and
        // what says which ports in TIME_WAIT are blocked (tcp_tw_reuse, its delay, the time that
        // counts from, the table of connections).
        assert_eq!(layout.globals().len(), FIELDS.len() + REGISTERS.len() + 7);
        for absent in layout.absent() {
            assert_eq!(layout.offset(absent.global), None);
        }
    }
    // `resolve` stops at the first required field that is missing.
    for spec in FIELDS.iter().chain(REGISTERS) {
        let _ = btf.member(spec.structure, spec.path);
    }
    for program in table::programs() {
        let (found, args) = match program.attach {
            Attach::TpBtf { tracepoint, args } => (btf.tracepoint_args(tracepoint), args),
            Attach::Function { function, args, .. } => (btf.func_args(function), args),
            _ => continue,
        };
        if let Some(found) = found {
            let _ = check_args(&found, args);
        }
    }
    let _ = btf.func_args("tcp_close");
    let _ = btf.has_func("tcp_close");
    let _ = reset_reasons(&btf);
}

/// The `format` file of a tracepoint.
pub fn tracepoint(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    for field in ["ret", "__syscall_nr", ""] {
        if let Some(offset) = field_offset(text, field) {
            assert!(text.contains(&offset.to_string()));
        }
    }
}
