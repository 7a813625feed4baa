//! Failed setsockopt() calls.
//!
//! No kretprobe: `__sys_setsockopt` waits for the socket's lock, and a kretprobe has a limited
//! number of calls that it can follow at the same time.

use observer_common::SIGNAL_SETSOCKOPT;

use super::spec::{
    AttachType, FallbackChain, MapSize, SYSTEM_CALLS_ONLY, Selection, chain, function, signal_name,
    syscall_exit, variant,
};

/// Failed calls.
pub const CHAIN: FallbackChain = chain(
    signal_name(SIGNAL_SETSOCKOPT),
    &[
        variant(
            &[function(
                "setsockopt_fexit",
                AttachType::Fexit,
                "__sys_setsockopt",
                &["int", "int", "int"],
            )],
            &[SIGNAL_SETSOCKOPT],
        ),
        variant(
            &[syscall_exit(
                "setsockopt_exit_tracepoint",
                "syscalls:sys_exit_setsockopt",
                "sys_exit_setsockopt",
            )],
            &[SIGNAL_SETSOCKOPT],
        )
        .remark(SYSTEM_CALLS_ONLY),
    ],
)
.map_sizes(map_sizes);

/// Every chain of the signal.
pub const CHAINS: &[FallbackChain] = &[CHAIN];

fn map_sizes(selection: &Selection<'_>) -> Vec<MapSize> {
    vec![("SOCKOPT_FAILURES", selection.options.max_sockopt_failures)]
}
