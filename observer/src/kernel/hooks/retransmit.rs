//! Retransmissions.

use observer_common::SIGNAL_RETRANSMIT;

use super::spec::{
    FallbackChain, Global, SKB, SOCK, Selection, chain, signal_name, tp_btf, variant,
};

const TRACEPOINT: &str = "tcp_retransmit_skb";

/// Every chain of the signal.
pub const CHAINS: &[FallbackChain] = &[chain(
    signal_name(SIGNAL_RETRANSMIT),
    &[variant(
        // The self-test would have to lose segments.
        &[tp_btf("retransmit_tp_btf", TRACEPOINT, &[SOCK, SKB]).without_self_test()],
        &[SIGNAL_RETRANSMIT],
    )],
)
.globals(globals)];

fn globals(selection: &Selection<'_>) -> Vec<Global> {
    // Since 6.15, the third one is the error.
    let has_error = selection.facts.arg_count(TRACEPOINT) >= 3;
    vec![Global::flag("RETRANSMIT_HAS_ERROR", has_error)]
}
