//! RSTs sent and received.

use observer_common::{SIGNAL_RESET_RECEIVED, SIGNAL_RESET_SENT};

use super::spec::{
    AttachType, FallbackChain, Global, ProgramSpec, Requirement, SKB, SOCK, Selection,
    TYPED_IS_SKIPPED, chain, function, iter_map_elem, shared_if, signal_name, tp_btf, tracepoint,
    variant,
};
use crate::kernel::facts::Facts;

const SENT_TRACEPOINT: &str = "tcp_send_reset";

const SENT_PROGRAM: ProgramSpec = tp_btf("reset_sent_tp_btf", SENT_TRACEPOINT, &[SOCK, SKB]);

/// The same on the classic tracepoint.
const SENT_CLASSIC: ProgramSpec = tracepoint(
    "reset_sent_tracepoint",
    "tcp:tcp_send_reset",
    "tcp",
    SENT_TRACEPOINT,
    &[("skbaddr", 8), ("skaddr", 16), ("reason", 28)],
);

/// In the version that added the third argument, the reason, the tracepoint began to fire without a socket.
pub const FIRES_WITHOUT_SOCKET: Requirement = Requirement {
    is_met: has_reason,
    otherwise: "before 6.10 it does not fire without a socket",
};

/// RSTs that a socket sends.
const SENT: FallbackChain = chain(
    signal_name(SIGNAL_RESET_SENT),
    &[
        variant(&[SENT_CLASSIC], &[SIGNAL_RESET_SENT]),
        variant(&[SENT_PROGRAM], &[SIGNAL_RESET_SENT]),
    ],
)
.globals(globals);

/// The iterator over the sources of those segments.
pub const SOURCES_ITER: ProgramSpec = iter_map_elem(
    "sources_iter",
    "SOURCES",
    &["OFF_SKB_HEAD", "OFF_SKB_NETWORK", "OFF_SKB_TRANSPORT"],
);

/// RSTs that answer a segment for which there is no socket.
const NO_SOCKET: FallbackChain = chain(
    "reset_sent_no_socket",
    &[
        variant(
            &[shared_if(SENT_CLASSIC, TYPED_IS_SKIPPED), SOURCES_ITER],
            &[],
        ),
        variant(
            &[shared_if(SENT_PROGRAM, FIRES_WITHOUT_SOCKET), SOURCES_ITER],
            &[],
        ),
        variant(
            &[
                function(
                    "reset_v4_fentry",
                    AttachType::Fentry,
                    "tcp_v4_send_reset",
                    &[SOCK, SKB],
                ),
                function(
                    "reset_v6_fentry",
                    AttachType::Fentry,
                    "tcp_v6_send_reset",
                    &[SOCK, SKB],
                ),
                SOURCES_ITER,
            ],
            &[],
        ),
        variant(
            &[
                function(
                    "reset_v4_kprobe",
                    AttachType::Kprobe,
                    "tcp_v4_send_reset",
                    &[SOCK, SKB],
                ),
                function(
                    "reset_v6_kprobe",
                    AttachType::Kprobe,
                    "tcp_v6_send_reset",
                    &[SOCK, SKB],
                ),
                SOURCES_ITER,
            ],
            &[],
        ),
    ],
);

const RECEIVED_PROGRAM: ProgramSpec = tp_btf("reset_received_tp_btf", "tcp_receive_reset", &[SOCK]);

/// The same on the classic tracepoint.
const RECEIVED_CLASSIC: ProgramSpec = tracepoint(
    "reset_received_tracepoint",
    "tcp:tcp_receive_reset",
    "tcp",
    "tcp_receive_reset",
    &[("skaddr", 8)],
);

/// The signals of programs of which each run is one event and that have no backup program: skipped runs are lost events.
pub const LOST_WHEN_SKIPPED: [(&str, u32); 4] = [
    (SENT_PROGRAM.name, SIGNAL_RESET_SENT),
    (SENT_CLASSIC.name, SIGNAL_RESET_SENT),
    (RECEIVED_PROGRAM.name, SIGNAL_RESET_RECEIVED),
    (RECEIVED_CLASSIC.name, SIGNAL_RESET_RECEIVED),
];

/// Received RSTs.
const RECEIVED: FallbackChain = chain(
    signal_name(SIGNAL_RESET_RECEIVED),
    &[
        variant(&[RECEIVED_CLASSIC], &[SIGNAL_RESET_RECEIVED]),
        variant(&[RECEIVED_PROGRAM], &[SIGNAL_RESET_RECEIVED]),
    ],
);

/// Every chain of the signals.
pub const CHAINS: &[FallbackChain] = &[SENT, NO_SOCKET, RECEIVED];

/// Whether `tcp_send_reset` has a reason (since 6.10).
fn has_reason(facts: &Facts) -> bool {
    facts.arg_count(SENT_TRACEPOINT) >= 3 && !facts.reset_reasons.is_empty()
}

fn globals(selection: &Selection<'_>) -> Vec<Global> {
    let facts = selection.facts;
    let not_specified = facts.reset_reason("NOT_SPECIFIED").unwrap_or(0);
    let tcp_state = facts.reset_reason("TCP_STATE").unwrap_or(u32::MAX);
    vec![
        Global::flag("RESET_HAS_REASON", has_reason(facts)),
        Global::u32("REASON_NOT_SPECIFIED", not_specified),
        Global::u32("REASON_TCP_STATE", tcp_state),
    ]
}
