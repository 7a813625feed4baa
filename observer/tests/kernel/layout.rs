//! The fields that the daemon reads from the BTF of the running kernel.
//!
//! Kernels that lack a field, simulated on the running one: every program must still load,
//! because the verifier removes what depends on the field.
//!
//! On a fast machine each field is missing alone, and what does not depend on it is not loaded again. Verifying takes
//! long in an emulated one, and there several are missing at once.

mod uses;

use std::{collections::HashSet, path::Path};

use observer::kernel::{
    Kernel, LoadOptions, Loaded, OBJECT,
    fields::{FIELDS, HASHINFO, Layout, Need, PORT_RANGE, REGISTERS, TW_REUSE},
    reset_reasons,
};
use observer_common::RESET_CLASSES_FROM;
use observer_core::{
    btf::{KernelBtf, VMLINUX},
    contract::{AttachType, Hooks, ObserveTls, Status, SyscallTracepoints},
};
use observer_test_support::{scale, skip};

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn fields_and_signatures_are_found() {
    let btf = KernelBtf::from_file(VMLINUX).unwrap();
    let layout = Layout::resolve(&btf).unwrap();
    // These two have not moved in any kernel from 5.10 to 7.3.
    assert_eq!(layout.offset("OFF_SKC_FAMILY"), Some(16));
    assert_eq!(layout.offset("OFF_SKC_STATE"), Some(18));
    let args = btf.tracepoint_args("inet_sock_set_state").unwrap();
    assert_eq!(args, ["struct sock *", "int", "int"]);
    assert_eq!(btf.func_args("tcp_connect").unwrap(), ["struct sock *"]);
    assert!(!btf.has_func("tcp_sock"));
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn reset_reasons_have_names() {
    let reasons = reset_reasons(&KernelBtf::from_file(VMLINUX).unwrap());
    if reasons.is_empty() {
        skip!("the kernel has no reset reasons (before 6.10)");
    }
    assert_eq!(reasons[&0], "NOT_SPECIFIED");
    let state = reasons.iter().find(|(_, name)| *name == "TCP_STATE");
    assert!(state.is_some_and(|(number, _)| *number < RESET_CLASSES_FROM));
}

/// Small maps and no self-test.
fn options() -> LoadOptions {
    LoadOptions {
        ring_bytes: 1 << 16,
        max_connections: 64,
        slots: 16,
        max_sockopt_failures: 64,
        hooks: Hooks::Any,
        syscall_tracepoints: SyscallTracepoints::Auto,
        tls: ObserveTls::Never,
        self_test: false,
        record_mask: u32::MAX,
        btf: VMLINUX.into(),
        log: false,
    }
}

/// The numbers of the loaded programs. The kernel numbers programs in the order of loading.
fn numbers(loaded: &Loaded) -> Vec<u32> {
    let programs = loaded.ebpf.programs();
    programs
        .filter_map(|(_, program)| Some(program.info().ok()?.id()))
        .collect()
}

/// How many programs the kernel loaded after the last one of `before`, and how many that may have
/// been: those that are loaded, and on functions those that were tried before.
fn loads(before: &Loaded, after: &Loaded) -> (usize, usize) {
    let tried = after.verdicts.iter().filter(|verdict| {
        let on_function = !matches!(
            verdict.attach_type,
            AttachType::TpBtf | AttachType::Tracepoint | AttachType::Iter
        );
        let loaded = match verdict.status {
            Status::Attached | Status::Incomplete => true,
            // Others are refused when they are attached.
            Status::Refused => !verdict.detail.starts_with("the kernel refused the program"),
            _ => false,
        };
        on_function && loaded
    });
    let newest = |loaded| numbers(loaded).into_iter().max().unwrap();
    let loads = newest(after) - newest(before);
    (loads as usize, numbers(after).len() + tried.count())
}

/// Verifying takes most of a start, so no program is loaded again without a reason.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn only_programs_on_functions_are_loaded_twice() {
    let kernel = Kernel::examine(Path::new(VMLINUX)).unwrap();
    let first = kernel.load(&options()).unwrap();
    let second = kernel.load(&options()).unwrap();
    let (count, expected) = loads(&first, &second);
    assert!(count <= expected, "{count} > {expected}");
    let options = LoadOptions {
        self_test: true,
        ..options()
    };
    let third = kernel.load(&options).unwrap();
    let (count, expected) = loads(&second, &third);
    assert!(count <= expected, "{count} > {expected}");
}

/// The verifier gives up after a million instructions, and counts each again on each path that it follows. How many paths
/// there are depends on the kernel.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn no_program_is_near_the_limit_of_the_verifier() {
    const MOST: u32 = 250_000;
    let loaded = Kernel::examine(Path::new(VMLINUX))
        .unwrap()
        .load(&options())
        .unwrap();
    let programs = loaded.ebpf.programs();
    let mut verified: Vec<_> = programs
        .filter_map(|(name, program)| {
            let count = program.info().ok()?.verified_instruction_count()?;
            Some((count, name))
        })
        .collect();
    if verified.is_empty() {
        skip!("the kernel does not say how many (before 5.16)");
    }
    verified.sort();
    println!("{verified:?}");
    assert!(verified.iter().all(|(count, _)| *count < MOST));
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn each_optional_field_can_be_missing() {
    let options = options();
    let optional: Vec<_> = FIELDS
        .iter()
        .chain(REGISTERS)
        .filter(|field| field.need == Need::Optional)
        .map(|field| field.global)
        .chain([PORT_RANGE, TW_REUSE, HASHINFO])
        .collect();
    assert!(optional.len() > 20);
    // Where functions cannot be hooked, the kernel refuses them independent of the fields.
    let refused: HashSet<_> = Kernel::examine(&options.btf)
        .unwrap()
        .load(&options)
        .unwrap()
        .verdicts
        .iter()
        .filter(|verdict| verdict.status == Status::Refused)
        .map(|verdict| verdict.program)
        .collect();
    let usual = Kernel::examine(&options.btf)
        .unwrap()
        .inputs(&options, &refused)
        .unwrap();
    let uses = uses::globals_by_function(OBJECT);
    let mut count = 0;
    let groups = if scale() < 1.0 { 4 } else { optional.len() };
    for group in 0..groups {
        // Fields of one structure are adjacent, so a group has fields of several structures.
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
        let inputs = kernel.inputs(&options, &refused).unwrap();
        let is_changed = |name: &&str| inputs.globals[name] != usual.globals[name];
        let changed: Vec<_> = inputs.globals.keys().copied().filter(is_changed).collect();
        // The verifier has seen the others: their code, and the globals that it uses, are the same.
        let is_new = |program: &str| {
            !usual.programs.contains(program)
                || changed.iter().any(|global| uses[program].contains(*global))
        };
        count += inputs.programs.iter().filter(|it| is_new(it)).count();
        let verdicts = kernel
            .load_only(&options, &refused, is_new)
            .unwrap_or_else(|error| {
                panic!("without {missing:?}: {:#}", anyhow::Error::from(error))
            });
        for verdict in &verdicts {
            assert!(
                verdict.status != Status::Refused || refused.contains(verdict.program),
                "without {missing:?}: {verdict:?}"
            );
        }
    }
    // Each field matters to one program at least, some to those that this kernel does without.
    assert!(count > optional.len() / 2, "{count} programs loaded");
    println!(
        "{} fields in {groups} groups, {count} programs",
        optional.len()
    );
}
