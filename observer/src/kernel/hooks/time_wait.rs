//! Start and end of TIME_WAIT.

use observer_common::{SIGNAL_TIME_WAIT, SIGNAL_TIME_WAIT_END, SIGNAL_TIME_WAIT_OVERFLOW};

use super::{
    ports,
    spec::{
        AttachType, DEATH_ROW, FallbackChain, Global, MapSize, Requirement, SOCK, Selection, chain,
        function, shared, shared_if, signal_name, variant,
    },
    state,
};
use crate::kernel::facts::fields::HASHINFO;

const ALLOC_ARGS: &[&str] = &[SOCK, DEATH_ROW, "int"];

/// Numbers of sockets in TIME_WAIT, for each slot. A process that leaves sockets in TIME_WAIT keeps
/// its own for a minute after its end, so there must be more than slots.
const COUNTS_PER_SLOT: u32 = 16;
/// Network namespaces whose sockets in TIME_WAIT are counted, and whose ports are read. Each has a
/// connection.
const MAX_NETNS: u32 = 4096;

const END: &str = "time_wait_end_fentry";
const BEGIN: &str = "time_wait_begin_fexit";

/// Programs of which each run is one event, and their signals.
pub const LOST_WHEN_SKIPPED: [(&str, u32); 2] =
    [(END, SIGNAL_TIME_WAIT_END), (BEGIN, SIGNAL_TIME_WAIT)];

/// Without function hooks, timewait sockets are looked up in the kernel's table of connections.
const TABLE_OF_CONNECTIONS: Requirement = Requirement {
    is_met: |facts| {
        let fields = [
            HASHINFO,
            "OFF_HASHINFO_EHASH",
            "OFF_HASHINFO_MASK",
            "OFF_SKC_HASH",
            "OFF_SKC_NODE",
            "OFF_SKC_NET",
            "OFF_TW_SUBSTATE",
        ];
        facts.fields.lacks(&fields).is_none()
    },
    otherwise: "timewait sockets cannot be looked up in this kernel's table of connections",
};

/// Sockets that enter and leave TIME_WAIT.
const CHAIN: FallbackChain = chain(
    signal_name(SIGNAL_TIME_WAIT),
    &[
        variant(
            &[
                function(END, AttachType::Fentry, "tcp_twsk_destructor", &[SOCK]),
                function(BEGIN, AttachType::Fexit, "inet_twsk_alloc", ALLOC_ARGS),
            ],
            &[
                SIGNAL_TIME_WAIT,
                SIGNAL_TIME_WAIT_END,
                SIGNAL_TIME_WAIT_OVERFLOW,
            ],
        ),
        variant(
            &[
                shared_if(state::TRANSITION, TABLE_OF_CONNECTIONS),
                shared(ports::TIME_WAITS_ITER),
            ],
            &[SIGNAL_TIME_WAIT, SIGNAL_TIME_WAIT_END],
        )
        .remark("no overflows; ends of TIME_WAIT are counted at each walk over ports"),
    ],
)
.globals(globals)
.map_sizes(map_sizes);

/// Every chain of the signal.
pub const CHAINS: &[FallbackChain] = &[CHAIN];

fn globals(selection: &Selection<'_>) -> Vec<Global> {
    let lookup = selection.variant.is_some() && !selection.hooks_functions();
    vec![Global::flag("TIME_WAIT_LOOKUP", lookup)]
}

fn map_sizes(selection: &Selection<'_>) -> Vec<MapSize> {
    let options = selection.options;
    let counts = options.slots.saturating_mul(COUNTS_PER_SLOT).min(1 << 20);
    let netns = options.max_connections.min(MAX_NETNS);
    vec![
        ("TIME_WAITS", options.max_connections),
        ("TIME_WAIT_COUNTS", counts),
        ("FREE_TIME_WAIT_COUNTS", counts),
        ("NETNS_TIME_WAITS", netns),
        ("NAMESPACES", netns),
    ]
}
