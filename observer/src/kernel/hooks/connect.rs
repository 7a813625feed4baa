//! Outcomes of connect(), and who connects.

use observer_common::SIGNAL_CONNECT;

use super::{
    spec::{
        AttachType, FallbackChain, Global, ProgramSpec, SOCK, SYSTEM_CALLS_ONLY, Selection, chain,
        function, shared, signal_name, syscall_exit, variant,
    },
    state,
};

/// The return of connect(), where functions cannot be hooked.
pub const EXIT: ProgramSpec = syscall_exit(
    "connect_exit_tracepoint",
    "syscalls:sys_exit_connect",
    "sys_exit_connect",
);

/// The return of connect().
pub const FEXIT: ProgramSpec = function(
    "connect_fexit",
    AttachType::Fexit,
    "__sys_connect",
    &["int", "struct sockaddr *", "int"],
);

/// The same of io_uring. Called through a table, so it cannot be inlined; io_uring may be forbidden.
/// Before 6.0 it has another form or is inlined.
const IO_URING_FEXIT: ProgramSpec = function(
    "io_connect_fexit",
    AttachType::Fexit,
    "io_connect",
    &["struct io_kiocb *", "unsigned int"],
)
.without_self_test();

/// Outcomes that the state machine does not show.
const OUTCOME: FallbackChain = chain(
    signal_name(SIGNAL_CONNECT),
    &[
        variant(&[FEXIT, IO_URING_FEXIT], &[SIGNAL_CONNECT]),
        variant(&[FEXIT], &[SIGNAL_CONNECT]),
        variant(&[EXIT], &[SIGNAL_CONNECT]).remark(SYSTEM_CALLS_ONLY),
    ],
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
