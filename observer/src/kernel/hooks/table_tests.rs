use std::collections::{HashMap, HashSet};

use observer_common::SIGNAL_NAMES;

use super::*;

#[test]
fn a_program_has_one_hook() {
    let mut hooks = HashMap::new();
    for program in programs().filter(|program| !program.is_shared()) {
        let hook = format!("{program:?}");
        let before = hooks.insert(program.name, hook.clone());
        assert!(before.is_none_or(|before| before == hook), "{hook}");
    }
}

#[test]
fn shared_programs_are_attached_for_another_signal() {
    let attached: HashSet<_> = programs()
        .filter(|program| !program.is_shared())
        .map(|program| (program.name, program.hook, program.attach_type()))
        .collect();
    for program in programs() {
        let key = (program.name, program.hook, program.attach_type());
        assert!(attached.contains(&key), "{program:?}");
    }
}

#[test]
fn backup_programs_belong_to_a_program_on_their_tracepoint() {
    for backup in state::BACKUP_PROGRAMS {
        let of = |it: &&ProgramSpec| it.name == backup.of && it.hook == backup.tracepoint;
        assert!(programs().any(|program| of(&program)), "{backup:?}");
    }
}

#[test]
fn every_signal_that_is_counted_has_a_chain() {
    let counted: HashSet<_> = chains()
        .flat_map(|chain| chain.variants)
        .flat_map(|variant| variant.counts)
        .collect();
    for signal in 0..observer_common::SIGNALS as u32 {
        assert!(
            counted.contains(&signal),
            "{}",
            SIGNAL_NAMES[signal as usize]
        );
    }
}
