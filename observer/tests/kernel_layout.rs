//! Kernels that lack a field, simulated on the running one: every program must still load,
//! because the verifier removes what depends on the field.

mod common;

use observer::kernel::{
    KERNEL_BTF, Kernel, LoadOptions,
    ladder::Hooks,
    layout::{FIELDS, Need, REGISTERS},
    verdict::Status,
};

#[test]
fn each_optional_field_can_be_missing() {
    needs_kernel!();
    let options = LoadOptions {
        ring_bytes: 1 << 16,
        max_connections: 64,
        slots: 16,
        max_sockopt_failures: 64,
        hooks: Hooks::Any,
        self_test: false,
        record_mask: u32::MAX,
        btf: KERNEL_BTF.into(),
        log: false,
    };
    let optional = FIELDS
        .iter()
        .chain(REGISTERS)
        .filter(|field| field.need == Need::Optional)
        .map(|field| field.global);
    let mut tried = 0;
    for global in optional {
        let kernel = Kernel::examine(&options.btf).unwrap().without(global);
        assert!(kernel.absent().iter().any(|absent| absent.global == global));
        let loaded = kernel
            .load(&options)
            .unwrap_or_else(|error| panic!("without {global}: {:#}", anyhow::Error::from(error)));
        for verdict in &loaded.verdicts {
            assert!(
                !matches!(verdict.status, Status::Refused),
                "without {global}: {verdict:?}"
            );
        }
        tried += 1;
    }
    println!("{tried} fields");
    assert!(tried > 20);
}
