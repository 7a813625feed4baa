//! Outcomes of connect(), and who connects.

use observer_common::SIGNAL_CONNECT;

use super::{
    spec::{
        AttachType, FallbackChain, Global, ProgramSpec, SOCK, Selection, chain, function, shared,
        signal_name, syscall_exit, variant,
    },
    state,
};

/// The return of connect().
pub const EXIT: ProgramSpec = syscall_exit(
    "connect_exit_tracepoint",
    "syscalls:sys_exit_connect",
    "sys_exit_connect",
);

/// Outcomes that the state machine does not show.
const OUTCOME: FallbackChain = chain(
    signal_name(SIGNAL_CONNECT),
    &[variant(&[EXIT], &[SIGNAL_CONNECT])],
)
.globals(globals);

/// The process that connects.
const OWNER: FallbackChain = chain(
    "connect_owner",
    &[
        variant(
            &[function(
                "connect_fentry",
                AttachType::Fentry,
                "tcp_connect",
                &[SOCK],
            )],
            &[],
        ),
        variant(
            &[function(
                "connect_kprobe",
                AttachType::Kprobe,
                "tcp_connect",
                &[SOCK],
            )],
            &[],
        ),
        variant(&[shared(state::TRANSITION)], &[]).remark("from the transition to SYN_SENT"),
    ],
);

/// Every chain of the signal.
pub const CHAINS: &[FallbackChain] = &[OUTCOME, OWNER];

fn globals(selection: &Selection<'_>) -> Vec<Global> {
    vec![
        Global::flag("CONNECT_EXIT_SEEN", selection.variant.is_some()),
        Global::u64("CONNECT_NR", libc::SYS_connect as u64),
    ]
}
