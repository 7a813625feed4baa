//! socket() and accept() calls that failed because file descriptors or memory ran out.

use observer_common::SIGNAL_FD;

use super::spec::{FallbackChain, ProgramSpec, chain, signal_name, syscall_exit, variant};

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

/// Every chain of the signal.
pub const CHAINS: &[FallbackChain] = &[
    chain(
        signal_name(SIGNAL_FD),
        &[variant(&[ACCEPT_EXIT], &[SIGNAL_FD])],
    ),
    chain(
        signal_name(SIGNAL_FD),
        &[variant(&[ACCEPT4_EXIT], &[SIGNAL_FD])],
    ),
    chain(
        signal_name(SIGNAL_FD),
        &[variant(&[SOCKET_EXIT], &[SIGNAL_FD])],
    ),
];
