use super::*;
use crate::kernel::programs::{ACCEPT, SETSOCKOPT, TIME_WAIT, all};

/// A plan in which programs of these kinds fail.
fn without(kinds: &[Rung]) -> Plan {
    let mut plan = Plan::default();
    for program in all() {
        if matches!(program.attach, Attach::Function { rung, .. } if kinds.contains(&rung)) {
            plan.fail(program.name, Status::Refused, "no".to_owned());
        }
    }
    plan
}

const TRAMPOLINES: [Rung; 2] = [Rung::Fentry, Rung::Fexit];
const ALL: [Rung; 4] = [Rung::Fentry, Rung::Fexit, Rung::Kprobe, Rung::Kretprobe];

#[test]
fn the_best_step_is_taken() {
    let plan = Plan::default();
    assert!(plan.uses("accept_fexit") && !plan.uses("accept_kretprobe"));
    assert!(plan.by_function(TIME_WAIT));
    let plan = without(&TRAMPOLINES);
    assert!(plan.uses("accept_kretprobe") && !plan.uses("accept_fexit"));
    assert!(plan.by_function(TIME_WAIT));
    assert!(plan.can_step_down(ACCEPT));
    let plan = without(&ALL);
    assert!(!plan.by_function(ACCEPT) && !plan.by_function(TIME_WAIT));
    assert!(plan.step(ACCEPT).is_some() && !plan.can_step_down(ACCEPT));
}

#[test]
fn a_step_needs_all_its_programs() {
    let mut plan = Plan::default();
    plan.fail("time_wait_begin_fexit", Status::Refused, "no".to_owned());
    assert!(plan.uses("time_wait_end_kprobe") && !plan.uses("time_wait_end_fentry"));
    let verdict = |plan: &Plan, program: &str| {
        let mut verdicts = plan.verdicts().into_iter();
        verdicts.find(|verdict| verdict.program == program).unwrap()
    };
    let idle = verdict(&plan, "time_wait_end_fentry");
    assert_eq!(
        (idle.status, idle.detail.as_str()),
        (
            Status::Incomplete,
            "of no use without fexit inet_twsk_alloc"
        )
    );
    assert_eq!(
        verdict(&plan, "time_wait_begin_fexit").status,
        Status::Refused
    );
}

#[test]
fn each_ladder_reports_one_step_as_attached() {
    for plan in [Plan::default(), without(&TRAMPOLINES), without(&ALL)] {
        let verdicts = plan.verdicts();
        for ladder in LADDERS {
            let of: Vec<_> = verdicts
                .iter()
                .filter(|verdict| verdict.signal == ladder.signal)
                .collect();
            let attached = of.iter().any(|verdict| verdict.status == Status::Attached);
            assert_eq!(
                attached,
                ladder.signal != "reset_sent_no_socket" || plan.by_function(ladder)
            );
        }
    }
}

#[test]
fn a_program_is_attached_once() {
    for plan in [Plan::default(), without(&TRAMPOLINES), without(&ALL)] {
        let mut names: Vec<_> = plan.programs().iter().map(|program| program.name).collect();
        let before = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), before);
    }
}

#[test]
fn the_first_reason_stands() {
    let mut plan = Plan::default();
    plan.fail("setsockopt_fexit", Status::Unsupported, "first".to_owned());
    plan.fail("setsockopt_fexit", Status::Refused, "second".to_owned());
    let verdicts = plan.verdicts();
    let verdict = verdicts
        .iter()
        .find(|verdict| verdict.program == "setsockopt_fexit")
        .unwrap();
    assert_eq!(verdict.detail, "first");
    assert!(plan.by_function(SETSOCKOPT));
}

#[test]
fn the_reset_tracepoint_serves_twice_where_it_can() {
    let mut plan = Plan::default();
    assert!(plan.uses("reset_v4_fentry"));
    plan.reset_has_reason = true;
    assert!(!plan.uses("reset_v4_fentry") && plan.uses("reset_sent_tp_btf"));
}

#[test]
fn a_silent_hook_steps_down_where_it_can() {
    let spec = |name: &str| all().find(|program| program.name == name).unwrap();
    let verdict = |plan: &Plan, program: &str| {
        let mut verdicts = plan.verdicts().into_iter();
        verdicts.find(|verdict| verdict.program == program).unwrap()
    };
    let mut plan = Plan::default();
    assert!(plan.step_down(spec("time_wait_end_fentry")));
    assert_eq!(
        verdict(&plan, "time_wait_end_fentry").status,
        Status::Broken
    );
    assert!(plan.uses("time_wait_end_kprobe"));
    // Two steps use the tracepoint; the better one of them has another below.
    assert!(plan.step_down(spec("setsockopt_fexit")));
    assert!(plan.uses("sys_setsockopt_fexit"));
    // Nothing is below: better a doubtful hook than none.
    assert!(!plan.step_down(spec("state_tp_btf")));
    let state = verdict(&plan, "destroy_tp_btf");
    assert_eq!(state.status, Status::Attached);
    let mut verdicts = plan.verdicts().into_iter();
    let state = verdicts.find(|verdict| verdict.signal == "state").unwrap();
    assert_eq!(
        (state.status, state.detail.as_str()),
        (Status::Attached, "did not fire in the self-test")
    );
}
