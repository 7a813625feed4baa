//! Calls that failed because file descriptors, or memory for sockets, ran out.

use observer_common::SIGNAL_FD;

use super::spec::{
    AttachType, FallbackChain, Global, ProgramSpec, Selection, chain, function, signal_name,
    syscall_exit, variant,
};

/// The return of accept().
pub const ACCEPT_EXIT: ProgramSpec = syscall_exit(
    "accept_exit_tracepoint",
    "syscalls:sys_exit_accept",
    "sys_exit_accept",
);

/// The return of accept4().
pub const ACCEPT4_EXIT: ProgramSpec = syscall_exit(
    "accept4_exit_tracepoint",
    "syscalls:sys_exit_accept4",
    "sys_exit_accept4",
);

/// The return of socket().
const SOCKET_EXIT: ProgramSpec = syscall_exit(
    "socket_exit_tracepoint",
    "syscalls:sys_exit_socket",
    "sys_exit_socket",
);

/// Calls that failed.
const CHAIN: FallbackChain = chain(
    signal_name(SIGNAL_FD),
    &[
        variant(
            &[
                function(
                    "alloc_fd_fexit",
                    AttachType::Fexit,
                    "alloc_fd",
                    &["unsigned int", "unsigned int", "unsigned int"],
                ),
                function(
                    "sock_alloc_file_fexit",
                    AttachType::Fexit,
                    "sock_alloc_file",
                    &["struct socket *", "int", "char *"],
                ),
                function(
                    "sock_create_fexit",
                    AttachType::Fexit,
                    "__sock_create",
                    &[
                        "struct net *",
                        "int",
                        "int",
                        "int",
                        "struct socket **",
                        "int",
                    ],
                ),
            ],
            &[SIGNAL_FD],
        ),
        variant(&[ACCEPT_EXIT, ACCEPT4_EXIT, SOCKET_EXIT], &[SIGNAL_FD]).remark(SOCKETS_ONLY),
    ],
)
.globals(globals);

/// Calls that the tracepoints miss.
const SOCKETS_ONLY: &str = "64-bit socket() and accept() calls only, not open() or io_uring";

/// Every chain of the signal.
pub const CHAINS: &[FallbackChain] = &[CHAIN];

fn globals(selection: &Selection<'_>) -> Vec<Global> {
    vec![Global::flag("FD_BY_FUNCTION", selection.hooks_functions())]
}
