//! Accepted connections.
//!
//! No kretprobe: `inet_csk_accept` waits for a connection, and a kretprobe has a limited number of
//! calls that it can follow at the same time.

use observer_common::SIGNAL_ACCEPT;

use super::{
    fd,
    spec::{
        AttachType, FallbackChain, Global, SOCK, SYSTEM_CALLS_ONLY, Selection, chain, function,
        signal_name, variant,
    },
};

/// Every chain of the signal.
pub const CHAINS: &[FallbackChain] = &[CHAIN];

/// Accepted connections.
pub const CHAIN: FallbackChain = chain(
    signal_name(SIGNAL_ACCEPT),
    &[
        variant(
            &[
                function(
                    "accept_again_fexit",
                    AttachType::Fexit,
                    "inet_csk_accept",
                    &[SOCK],
                ),
                function(
                    "accept_fexit",
                    AttachType::Fexit,
                    "inet_csk_accept",
                    &[SOCK],
                ),
            ],
            &[SIGNAL_ACCEPT],
        ),
        variant(&[fd::ACCEPT_EXIT, fd::ACCEPT4_EXIT], &[SIGNAL_ACCEPT]).remark(SYSTEM_CALLS_ONLY),
    ],
)
.globals(globals);

fn globals(selection: &Selection<'_>) -> Vec<Global> {
    vec![Global::flag(
        "ACCEPT_BY_FUNCTION",
        selection.hooks_functions(),
    )]
}
