//! Kernels that lack a field, simulated on the running one: every program must still load,
//! because the verifier removes what depends on the field.
//!
//! On a fast machine each field is missing alone. Verifying takes long in an emulated one,
//! and there several are missing at once.

use std::collections::HashSet;

use observer::kernel::{
    KERNEL_BTF, Kernel, LoadOptions,
    fields::{FIELDS, HASHINFO, Need, PORT_RANGE, REGISTERS, TW_REUSE},
};
use observer_core::contract::{Hooks, Status, SyscallTracepoints};
use observer_test_support::scale;

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn each_optional_field_can_be_missing() {
    let options = LoadOptions {
        ring_bytes: 1 << 16,
        max_connections: 64,
        slots: 16,
        max_sockopt_failures: 64,
        hooks: Hooks::Any,
        syscall_tracepoints: SyscallTracepoints::Auto,
        self_test: false,
        record_mask: u32::MAX,
        btf: KERNEL_BTF.into(),
        log: false,
    };
    let optional: Vec<_> = FIELDS
        .iter()
        .chain(REGISTERS)
        .filter(|field| field.need == Need::Optional)
        .map(|field| field.global)
        .chain([PORT_RANGE, TW_REUSE, HASHINFO])
        .collect();
    assert!(optional.len() > 20);
    // Where functions may not be hooked, the kernel says so whatever the fields.
    let refused: HashSet<_> = Kernel::examine(&options.btf)
        .unwrap()
        .load(&options)
        .unwrap()
        .verdicts
        .iter()
        .filter(|verdict| verdict.status == Status::Refused)
        .map(|verdict| verdict.program)
        .collect();
    let groups = if scale() < 1.0 { 4 } else { optional.len() };
    for group in 0..groups {
        // Fields of one structure stand together, so that a group has some of each.
        let missing: Vec<_> = optional.iter().skip(group).step_by(groups).collect();
        let kernel = missing
            .iter()
            .fold(Kernel::examine(&options.btf).unwrap(), |kernel, global| {
                kernel.without(global)
            });
        for global in &missing {
            assert!(
                kernel
                    .absent()
                    .iter()
                    .any(|absent| absent.global == **global)
            );
        }
        let loaded = kernel.load(&options).unwrap_or_else(|error| {
            panic!("without {missing:?}: {:#}", anyhow::Error::from(error))
        });
        for verdict in &loaded.verdicts {
            assert!(
                verdict.status != Status::Refused || refused.contains(verdict.program),
                "without {missing:?}: {verdict:?}"
            );
        }
    }
    println!("{} fields in {groups} groups", optional.len());
}
