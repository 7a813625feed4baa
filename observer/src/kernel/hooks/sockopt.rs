//! Failed setsockopt() calls.
//!
//! No kretprobes: a call waits for the socket's lock and for the caller's memory, and a kretprobe
//! has a limited number of calls that it can follow at the same time.

use observer_common::SIGNAL_SETSOCKOPT;

use super::spec::{
    AttachType, FallbackChain, Global, MapSize, ProgramSpec, SYSTEM_CALLS_ONLY, Selection, chain,
    function, signal_name, syscall_exit, variant,
};

const DO_SETSOCKOPT: &str = "do_sock_setsockopt";
const DO_SETSOCKOPT_ARGS: &[&str] = &["struct socket *", "bool", "int", "int"];
const SYS_SETSOCKOPT_ARGS: &[&str] = &["int", "int", "int"];

const EXIT: ProgramSpec = syscall_exit(
    "setsockopt_exit_tracepoint",
    "syscalls:sys_exit_setsockopt",
    "sys_exit_setsockopt",
);

/// Failed calls.
pub const CHAIN: FallbackChain = chain(
    signal_name(SIGNAL_SETSOCKOPT),
    &[
        variant(
            &[
                function(
                    "setsockopt_fexit",
                    AttachType::Fexit,
                    DO_SETSOCKOPT,
                    DO_SETSOCKOPT_ARGS,
                ),
                // Calls that do not reach a socket.
                EXIT,
            ],
            &[SIGNAL_SETSOCKOPT],
        ),
        variant(
            &[function(
                "sys_setsockopt_fexit",
                AttachType::Fexit,
                "__sys_setsockopt",
                SYS_SETSOCKOPT_ARGS,
            )],
            &[SIGNAL_SETSOCKOPT],
        ),
        variant(&[EXIT], &[SIGNAL_SETSOCKOPT]).remark(SYSTEM_CALLS_ONLY),
    ],
)
.globals(globals)
.map_sizes(map_sizes);

/// Every chain of the signal.
pub const CHAINS: &[FallbackChain] = &[CHAIN];

fn globals(selection: &Selection<'_>) -> Vec<Global> {
    // `__sys_setsockopt` is called without a socket, too.
    let reaches_socket = selection.hooks_function(DO_SETSOCKOPT);
    vec![Global::flag("SETSOCKOPT_BY_FUNCTION", reaches_socket)]
}

fn map_sizes(selection: &Selection<'_>) -> Vec<MapSize> {
    vec![("SOCKOPT_FAILURES", selection.options.max_sockopt_failures)]
}
