use super::*;
use crate::kernel::hooks::{accept, reset, sockopt, spec::TYPED_IS_SKIPPED, time_wait};

/// A plan for a kernel before 6.10 with everything else.
fn plan() -> Plan {
    let mut plan = Plan::default();
    plan.unmet.insert(reset::FIRES_WITHOUT_SOCKET.otherwise);
    plan.unmet.insert(TYPED_IS_SKIPPED.otherwise);
    plan
}

/// A plan in which programs of these types fail.
fn without(types: &[AttachType]) -> Plan {
    let mut plan = plan();
    for program in table::programs() {
        if program.hooks_function() && types.contains(&program.attach_type()) {
            plan.fail(program.name, Status::Refused, "no".to_owned());
        }
    }
    plan
}

const TRAMPOLINES: [AttachType; 2] = [AttachType::Fentry, AttachType::Fexit];
const ALL: [AttachType; 4] = [
    AttachType::Fentry,
    AttachType::Fexit,
    AttachType::Kprobe,
    AttachType::Kretprobe,
];

fn hooks_functions(plan: &Plan, chain: &FallbackChain) -> bool {
    plan.variant(chain).is_some_and(Variant::hooks_functions)
}

fn uses(plan: &Plan, program: &str) -> bool {
    plan.programs().iter().any(|used| used.name == program)
}

fn verdict(plan: &Plan, program: &str) -> Verdict {
    let mut verdicts = plan.verdicts().into_iter();
    verdicts.find(|verdict| verdict.program == program).unwrap()
}

#[test]
fn the_best_variant_is_selected() {
    let [time_wait] = time_wait::CHAINS else {
        panic!("one chain");
    };
    let plan = plan();
    assert!(uses(&plan, "hash_connect_fexit") && !uses(&plan, "hash_connect_kretprobe"));
    assert!(uses(&plan, "time_wait_begin_fexit") && uses(&plan, "time_wait_end_fentry"));
    assert!(plan.has_fallback(&accept::CHAIN));
    let plan = without(&TRAMPOLINES);
    assert!(uses(&plan, "hash_connect_kretprobe") && !uses(&plan, "hash_connect_fexit"));
    assert!(!uses(&plan, "time_wait_begin_fexit") && plan.variant(time_wait).is_some());
    let plan = without(&ALL);
    assert!(!hooks_functions(&plan, &accept::CHAIN));
    assert!(plan.variant(&accept::CHAIN).is_some() && !plan.has_fallback(&accept::CHAIN));
}

#[test]
fn a_variant_needs_all_its_programs() {
    let mut plan = plan();
    plan.fail("time_wait_begin_fexit", Status::Refused, "no".to_owned());
    assert!(!uses(&plan, "time_wait_end_fentry"));
    let idle = verdict(&plan, "time_wait_end_fentry");
    assert_eq!(
        (idle.status, idle.detail.as_str()),
        (Status::Incomplete, "needs fexit inet_twsk_alloc")
    );
    assert_eq!(
        verdict(&plan, "time_wait_begin_fexit").status,
        Status::Refused
    );
}

#[test]
fn each_chain_reports_one_variant_as_attached() {
    for plan in [plan(), without(&TRAMPOLINES), without(&ALL)] {
        let verdicts = plan.verdicts();
        for chain in table::chains() {
            let of: Vec<_> = verdicts
                .iter()
                .filter(|verdict| verdict.signal == chain.signal)
                .collect();
            let attached = of.iter().any(|verdict| verdict.status == Status::Attached);
            assert_eq!(
                attached,
                chain.signal != "reset_sent_no_socket" || hooks_functions(&plan, chain)
            );
        }
    }
}

#[test]
fn a_program_is_attached_once() {
    for plan in [plan(), without(&TRAMPOLINES), without(&ALL)] {
        let mut names: Vec<_> = plan.programs().iter().map(|program| program.name).collect();
        let before = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), before);
    }
}

#[test]
fn the_first_reason_stands() {
    let mut plan = plan();
    plan.fail("setsockopt_fexit", Status::Unsupported, "first".to_owned());
    plan.fail("setsockopt_fexit", Status::Refused, "second".to_owned());
    assert_eq!(verdict(&plan, "setsockopt_fexit").detail, "first");
    assert!(!hooks_functions(&plan, &sockopt::CHAIN));
}

#[test]
fn the_reset_tracepoint_serves_twice_where_it_can() {
    let mut plan = plan();
    assert!(uses(&plan, "reset_v4_fentry"));
    plan.unmet.remove(reset::FIRES_WITHOUT_SOCKET.otherwise);
    assert!(!uses(&plan, "reset_v4_fentry") && uses(&plan, "reset_sent_tp_btf"));
    // From 7.0 on.
    plan.unmet.clear();
    assert!(!uses(&plan, "reset_v4_fentry") && uses(&plan, "reset_sent_tracepoint"));
    assert!(uses(&plan, "state_tracepoint") && !uses(&plan, "state_tp_btf"));
}

#[test]
fn a_silent_hook_falls_back_where_it_can() {
    let spec = |name: &str| {
        let mut programs = table::programs();
        programs.find(|program| program.name == name).unwrap()
    };
    let mut plan = plan();
    assert!(plan.fall_back(spec("time_wait_end_fentry")));
    assert_eq!(
        verdict(&plan, "time_wait_end_fentry").status,
        Status::Broken
    );
    assert!(!uses(&plan, "time_wait_begin_fexit"));
    assert!(plan.fall_back(spec("setsockopt_fexit")));
    assert!(uses(&plan, "setsockopt_exit_tracepoint"));
    // There is no other variant: better a doubtful hook than none.
    assert!(!plan.fall_back(spec("state_tp_btf")));
    let state = verdict(&plan, "destroy_tp_btf");
    assert_eq!(state.status, Status::Attached);
    let mut verdicts = plan.verdicts().into_iter();
    let is_state =
        |verdict: &Verdict| (verdict.signal, verdict.program) == ("state", "state_tp_btf");
    let state = verdicts.find(is_state).unwrap();
    assert_eq!(
        (state.status, state.detail.as_str()),
        (Status::Attached, "did not fire in the self-test")
    );
}
