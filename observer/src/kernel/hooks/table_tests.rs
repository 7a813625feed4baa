use std::collections::{HashMap, HashSet};

use observer_common::{SIGNAL_NAMES, SIGNAL_QUIC, SIGNAL_TLS};

use super::*;
use crate::kernel::hooks::spec::AttachType;

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
        let of = |it: &&ProgramSpec| it.name == backup.of[0] && it.hook == backup.tracepoint;
        assert!(programs().any(|program| of(&program)), "{backup:?}");
    }
}

#[test]
fn every_signal_that_is_counted_has_a_chain() {
    let counted: HashSet<_> = chains()
        .flat_map(|chain| chain.variants)
        .flat_map(|variant| variant.counts)
        .collect();
    // Functions of user space are not in this table (`kernel/uprobes`).
    let uprobes = [SIGNAL_TLS, SIGNAL_QUIC];
    for signal in 0..observer_common::SIGNALS as u32 {
        assert!(
            counted.contains(&signal) || uprobes.contains(&signal),
            "{}",
            SIGNAL_NAMES[signal as usize]
        );
    }
}

/// A kretprobe can follow a limited number of calls at a time (`rp->maxactive`, `register_kretprobe`:
/// twice the number of CPUs, at least 10) and misses the others without counting them. So it may only
/// be attached to functions that do not block: on an event, on the socket's lock, or on the caller's
/// memory, with which any user could occupy all instances.
#[test]
fn kretprobes_are_on_functions_that_do_not_wait() {
    const DO_NOT_WAIT: [&str; 2] = [
        // Searches under spinlocks. Between these it may be preempted (`cond_resched`).
        "__inet_hash_connect",
        "inet_csk_get_port",
    ];
    for program in programs() {
        if program.attach_type() == AttachType::Kretprobe {
            assert!(DO_NOT_WAIT.contains(&program.hook), "{program:?}");
        }
    }
}
