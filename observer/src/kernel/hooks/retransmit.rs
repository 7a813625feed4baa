//! Retransmissions.

use observer_common::SIGNAL_RETRANSMIT;

use super::spec::{FallbackChain, SKB, SOCK, chain, signal_name, tp_btf, variant};

/// Every chain of the signal.
pub const CHAINS: &[FallbackChain] = &[chain(
    signal_name(SIGNAL_RETRANSMIT),
    &[variant(
        // The self-test would have to lose segments.
        &[tp_btf("retransmit_tp_btf", "tcp_retransmit_skb", &[SOCK, SKB]).without_self_test()],
        &[SIGNAL_RETRANSMIT],
    )],
)];
