//! Listening sockets: requests dropped because the accept queue was full, and values read from the sockets.

use observer_common::SIGNAL_LISTEN_OVERFLOW;
use observer_core::contract::POLLED_LISTEN;

use super::spec::{
    AttachType, FallbackChain, Global, MapSize, ProgramSpec, SKB, SOCK, Selection, chain, function,
    iter_map_elem, share_of_one, shared, signal_name, variant,
};

const CONN_REQUEST_ARGS: &[&str] = &[
    "struct request_sock_ops *",
    "struct tcp_request_sock_ops *",
    SOCK,
    SKB,
];
const SYN_RECV_SOCK_ARGS: &[&str] = &[SOCK, SKB];

/// The iterator over listening sockets.
pub const ITER: ProgramSpec = iter_map_elem(
    "listeners_iter",
    "LISTENERS",
    &["OFF_SK_DROPS", "OFF_SK_BACKLOG", "OFF_SK_MAX_BACKLOG"],
);

/// Requests dropped because the accept queue was full.
const OVERFLOW: FallbackChain = chain(
    signal_name(SIGNAL_LISTEN_OVERFLOW),
    &[
        variant(
            &[
                function(
                    "conn_request_fentry",
                    AttachType::Fentry,
                    "tcp_conn_request",
                    CONN_REQUEST_ARGS,
                ),
                function(
                    "handshake_v4_fentry",
                    AttachType::Fentry,
                    "tcp_v4_syn_recv_sock",
                    SYN_RECV_SOCK_ARGS,
                ),
                function(
                    "handshake_v6_fentry",
                    AttachType::Fentry,
                    "tcp_v6_syn_recv_sock",
                    SYN_RECV_SOCK_ARGS,
                ),
            ],
            &[SIGNAL_LISTEN_OVERFLOW],
        ),
        variant(
            &[
                function(
                    "conn_request_kprobe",
                    AttachType::Kprobe,
                    "tcp_conn_request",
                    CONN_REQUEST_ARGS,
                ),
                function(
                    "handshake_v4_kprobe",
                    AttachType::Kprobe,
                    "tcp_v4_syn_recv_sock",
                    SYN_RECV_SOCK_ARGS,
                ),
                function(
                    "handshake_v6_kprobe",
                    AttachType::Kprobe,
                    "tcp_v6_syn_recv_sock",
                    SYN_RECV_SOCK_ARGS,
                ),
            ],
            &[SIGNAL_LISTEN_OVERFLOW],
        ),
        variant(&[shared(ITER)], &[])
            .remark("inferred from the drops of each listener and the kernel's total of overflows"),
    ],
);

/// Values read from listening sockets.
const SOCKETS: FallbackChain = chain(POLLED_LISTEN, &[variant(&[ITER], &[])])
    .map_sizes(map_sizes)
    .globals(globals);

/// Every chain of the signals.
pub const CHAINS: &[FallbackChain] = &[OVERFLOW, SOCKETS];

/// Maximum number of tracked listening sockets for `max_connections` sockets, including those that
/// ended since they were last read.
pub fn max_listeners(max_connections: u32) -> u32 {
    max_connections.min(4096)
}

fn globals(selection: &Selection<'_>) -> Vec<Global> {
    let listeners = max_listeners(selection.options.max_connections);
    vec![Global::u64(
        "LISTENERS_SHARE",
        u64::from(share_of_one(listeners)),
    )]
}

fn map_sizes(selection: &Selection<'_>) -> Vec<MapSize> {
    let listeners = max_listeners(selection.options.max_connections);
    vec![("LISTENERS", listeners)]
}
