//! Failed bind() and listen() calls.
//!
//! No kretprobes: `__sys_bind` waits for the socket's lock, and a kretprobe has a limited
//! number of calls that it can follow at the same time.

use observer_common::SIGNAL_BIND;

use super::spec::{
    AttachType, FallbackChain, Global, ProgramSpec, SYSTEM_CALLS_ONLY, Selection, chain, function,
    signal_name, syscall_exit, variant,
};

const BIND_ARGS: &[&str] = &["int", "struct sockaddr *", "int"];
const LISTEN_ARGS: &[&str] = &["int", "int"];
const IO_URING_ARGS: &[&str] = &["struct io_kiocb *"];

/// The return of bind().
pub const BIND_EXIT: ProgramSpec = syscall_exit(
    "bind_exit_tracepoint",
    "syscalls:sys_exit_bind",
    "sys_exit_bind",
);

/// The return of listen().
pub const LISTEN_EXIT: ProgramSpec = syscall_exit(
    "listen_exit_tracepoint",
    "syscalls:sys_exit_listen",
    "sys_exit_listen",
);

const BIND_FEXIT: ProgramSpec = function("bind_fexit", AttachType::Fexit, "__sys_bind", BIND_ARGS);
const LISTEN_FEXIT: ProgramSpec = function(
    "listen_fexit",
    AttachType::Fexit,
    "__sys_listen",
    LISTEN_ARGS,
);

/// Calls of bind().
const BIND: FallbackChain = chain(
    signal_name(SIGNAL_BIND),
    &[
        variant(
            &[
                BIND_FEXIT,
                // No self-test: it is called through a table, so it cannot be inlined, and io_uring may be forbidden.
                function("io_bind_fexit", AttachType::Fexit, "io_bind", IO_URING_ARGS)
                    .without_self_test(),
            ],
            &[SIGNAL_BIND],
        ),
        // Before 6.11, io_uring has no bind().
        variant(&[BIND_FEXIT], &[SIGNAL_BIND]),
        variant(&[BIND_EXIT], &[SIGNAL_BIND]).remark(SYSTEM_CALLS_ONLY),
    ],
)
.globals(bind_globals);

/// Calls of listen().
const LISTEN: FallbackChain = chain(
    signal_name(SIGNAL_BIND),
    &[
        variant(
            &[
                LISTEN_FEXIT,
                function(
                    "io_listen_fexit",
                    AttachType::Fexit,
                    "io_listen",
                    IO_URING_ARGS,
                )
                .without_self_test(),
            ],
            &[SIGNAL_BIND],
        ),
        variant(&[LISTEN_FEXIT], &[SIGNAL_BIND]),
        variant(&[LISTEN_EXIT], &[SIGNAL_BIND]).remark(SYSTEM_CALLS_ONLY),
    ],
)
.globals(listen_globals);

/// Every chain of the signal.
pub const CHAINS: &[FallbackChain] = &[BIND, LISTEN];

fn bind_globals(selection: &Selection<'_>) -> Vec<Global> {
    vec![Global::flag(
        "BIND_BY_FUNCTION",
        selection.hooks_functions(),
    )]
}

fn listen_globals(selection: &Selection<'_>) -> Vec<Global> {
    vec![Global::flag(
        "LISTEN_BY_FUNCTION",
        selection.hooks_functions(),
    )]
}
