//! Outcomes of connect().

use observer_common::SIGNAL_CONNECT;

use super::spec::{
    AttachType, FallbackChain, Global, ProgramSpec, SYSTEM_CALLS_ONLY, Selection, chain, function,
    signal_name, syscall_exit, variant,
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

/// The same for io_uring. No self-test: it is called through a table, so it cannot be inlined, and io_uring may be
/// forbidden. Before 6.0 it has another form or is inlined.
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

/// Every chain of the signal.
pub const CHAINS: &[FallbackChain] = &[OUTCOME];

fn globals(selection: &Selection<'_>) -> Vec<Global> {
    vec![
        Global::flag("CONNECT_EXIT_SEEN", selection.variant.is_some()),
        Global::u64("CONNECT_NR", libc::SYS_connect as u64),
    ]
}
