//! Local ports: searches that find none, and which ports are in use.

use observer_common::SIGNAL_PORTS;
use observer_core::contract::POLLED_PORTS;

use super::{
    bind, connect,
    spec::{
        AttachType, DEATH_ROW, FallbackChain, Global, ProgramSpec, SOCK, SYSTEM_CALLS_ONLY,
        Selection, chain, function, iter_map_elem, signal_name, variant,
    },
};
use crate::kernel::facts::fields::PORT_RANGE;

const HASH_CONNECT_ARGS: &[&str] = &[DEATH_ROW, SOCK];
const GET_PORT_ARGS: &[&str] = &[SOCK, "short unsigned int"];

/// connect()'s searches for a local port.
const CONNECT_SEARCH: FallbackChain = chain(
    signal_name(SIGNAL_PORTS),
    &[
        variant(
            &[function(
                "hash_connect_fexit",
                AttachType::Fexit,
                "__inet_hash_connect",
                HASH_CONNECT_ARGS,
            )],
            &[SIGNAL_PORTS],
        ),
        variant(
            &[
                function(
                    "hash_connect_kprobe",
                    AttachType::Kprobe,
                    "__inet_hash_connect",
                    HASH_CONNECT_ARGS,
                ),
                function(
                    "hash_connect_kretprobe",
                    AttachType::Kretprobe,
                    "__inet_hash_connect",
                    HASH_CONNECT_ARGS,
                ),
            ],
            &[SIGNAL_PORTS],
        ),
        variant(&[connect::FEXIT], &[SIGNAL_PORTS]),
        variant(&[connect::EXIT], &[SIGNAL_PORTS]).remark(SYSTEM_CALLS_ONLY),
    ],
)
.globals(connect_globals);

/// bind()'s and listen()'s searches for a local port.
const BIND_SEARCH: FallbackChain = chain(
    signal_name(SIGNAL_PORTS),
    &[
        variant(
            &[function(
                "get_port_fexit",
                AttachType::Fexit,
                "inet_csk_get_port",
                GET_PORT_ARGS,
            )],
            &[SIGNAL_PORTS],
        ),
        variant(
            &[
                function(
                    "get_port_kprobe",
                    AttachType::Kprobe,
                    "inet_csk_get_port",
                    GET_PORT_ARGS,
                ),
                function(
                    "get_port_kretprobe",
                    AttachType::Kretprobe,
                    "inet_csk_get_port",
                    GET_PORT_ARGS,
                ),
            ],
            &[SIGNAL_PORTS],
        ),
        variant(&[bind::BIND_EXIT, bind::LISTEN_EXIT], &[SIGNAL_PORTS]).remark(SYSTEM_CALLS_ONLY),
    ],
)
.globals(bind_globals);

/// Searches for a local port.
pub const SEARCH_CHAINS: &[FallbackChain] = &[CONNECT_SEARCH, BIND_SEARCH];

/// The iterator over connections.
pub const CONNECTIONS_ITER: ProgramSpec = iter_map_elem(
    "connections_iter",
    "CONNECTIONS",
    &[
        "OFF_ICSK_BIND_HASH",
        "OFF_TB_FASTREUSE",
        "OFF_TB_FASTREUSEPORT",
    ],
);
/// The iterator over sockets in TIME_WAIT.
pub const TIME_WAITS_ITER: ProgramSpec = iter_map_elem("time_waits_iter", "TIME_WAITS", &[]);
/// The iterator over network namespaces.
pub const NAMESPACES_ITER: ProgramSpec = iter_map_elem(
    "namespaces_iter",
    "NAMESPACES",
    &[
        "OFF_SKC_NET",
        "OFF_NET_INUM",
        "OFF_NET_RESERVED_PORTS",
        PORT_RANGE,
    ],
);

/// Ports in use.
pub const IN_USE_CHAINS: &[FallbackChain] = &[chain(
    POLLED_PORTS,
    &[variant(
        &[CONNECTIONS_ITER, TIME_WAITS_ITER, NAMESPACES_ITER],
        &[],
    )],
)];

fn connect_globals(selection: &Selection<'_>) -> Vec<Global> {
    vec![Global::flag(
        "PORTS_BY_FUNCTION",
        selection.hooks_functions(),
    )]
}

fn bind_globals(selection: &Selection<'_>) -> Vec<Global> {
    vec![Global::flag(
        "PORTS_BIND_BY_FUNCTION",
        selection.hooks_functions(),
    )]
}
