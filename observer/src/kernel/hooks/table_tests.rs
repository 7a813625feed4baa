use std::collections::{HashMap, HashSet};

use observer_common::SIGNAL_NAMES;

use super::*;

#[test]
fn a_program_has_one_hook() {
    let mut hooks = HashMap::new();
    for program in all() {
        if matches!(program.attach, Attach::Shared { .. }) {
            continue;
        }
        let before = hooks.insert(program.name, program.attach);
        assert!(
            before.is_none_or(|before| before == program.attach),
            "{program:?}"
        );
    }
}

#[test]
fn what_is_shared_exists() {
    let attached: HashSet<_> = all()
        .filter(|program| !matches!(program.attach, Attach::Shared { .. }))
        .map(|program| (program.name, program.rung()))
        .collect();
    for program in all() {
        assert!(
            attached.contains(&(program.name, program.rung())),
            "{program:?}"
        );
    }
}

#[test]
fn every_signal_that_is_counted_has_a_ladder() {
    let counted: HashSet<_> = LADDERS
        .iter()
        .flat_map(|ladder| ladder.steps)
        .flat_map(|step| step.counts)
        .collect();
    for signal in 0..observer_common::SIGNALS as u32 {
        assert!(
            counted.contains(&signal),
            "{}",
            SIGNAL_NAMES[signal as usize]
        );
    }
}

#[test]
fn skipped_runs_go_by_release() {
    assert!(runs_are_skipped("7.3.4+deb13-cloud-amd64"));
    assert!(runs_are_skipped("7.0"));
    assert!(runs_are_skipped("6.18.44-fc"));
    assert!(runs_are_skipped("6.1.0-56-cloud-amd64"));
    assert!(!runs_are_skipped("5.10.0-46-cloud-amd64"));
    assert!(!runs_are_skipped("6"));
    assert!(!runs_are_skipped(""));
    assert!(!runs_are_skipped("next-20261121"));
}

#[test]
fn more_arguments_are_accepted_and_others_are_not() {
    let of = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
    let three = of(&["struct sock *", "struct sk_buff *", "enum sk_rst_reason"]);
    assert_eq!(
        check_args(&three, &["struct sock *", "struct sk_buff *"]),
        Ok(())
    );
    let error = check_args(&of(&["struct sk_buff *"]), &["struct sock *"]).unwrap_err();
    assert_eq!(
        error,
        "its arguments are (struct sk_buff *) and begin not with (struct sock *)"
    );
    assert!(check_args(&of(&["int"]), &["int", "int"]).is_err());
}
