//! The beginning and the end of TIME_WAIT.

use observer_common::{SIGNAL_TIME_WAIT, SIGNAL_TIME_WAIT_END};

use super::{
    spec::{
        AttachType, DEATH_ROW, FallbackChain, Global, MapSize, SOCK, Selection, chain, function,
        shared, signal_name, variant,
    },
    state,
};

const ALLOC_ARGS: &[&str] = &[SOCK, DEATH_ROW, "int"];

/// Entries of a map that no program uses with the selected variant; it cannot be left out.
const UNUSED: u32 = 64;
/// Accounts for each slot. A process that leaves sockets in TIME_WAIT keeps its account for a
/// minute after its end, so there must be more accounts than slots.
const ACCOUNTS_PER_SLOT: u32 = 16;
/// Network namespaces whose sockets in TIME_WAIT are counted.
const NETNS: u32 = 4096;

/// Sockets that enter and leave TIME_WAIT.
pub const CHAIN: FallbackChain = chain(
    signal_name(SIGNAL_TIME_WAIT),
    &[
        variant(
            &[
                function(
                    "time_wait_end_fentry",
                    AttachType::Fentry,
                    "tcp_twsk_destructor",
                    &[SOCK],
                ),
                function(
                    "time_wait_begin_fexit",
                    AttachType::Fexit,
                    "inet_twsk_alloc",
                    ALLOC_ARGS,
                ),
            ],
            &[SIGNAL_TIME_WAIT, SIGNAL_TIME_WAIT_END],
        ),
        variant(
            &[
                function(
                    "time_wait_end_kprobe",
                    AttachType::Kprobe,
                    "tcp_twsk_destructor",
                    &[SOCK],
                ),
                function(
                    "time_wait_begin_kprobe",
                    AttachType::Kprobe,
                    "inet_twsk_alloc",
                    ALLOC_ARGS,
                ),
                function(
                    "time_wait_begin_kretprobe",
                    AttachType::Kretprobe,
                    "inet_twsk_alloc",
                    ALLOC_ARGS,
                ),
            ],
            &[SIGNAL_TIME_WAIT, SIGNAL_TIME_WAIT_END],
        ),
        variant(&[shared(state::TRANSITION)], &[SIGNAL_TIME_WAIT]).remark(
            "inferred from the state a connection ends in; its end is assumed after 60 seconds",
        ),
    ],
)
.globals(globals)
.map_sizes(map_sizes);

/// Every chain of the signal.
pub const CHAINS: &[FallbackChain] = &[CHAIN];

/// Whether both ends of TIME_WAIT are seen, so that neither has to be inferred.
fn is_exact(selection: &Selection<'_>) -> bool {
    selection.hooks_functions()
}

fn globals(selection: &Selection<'_>) -> Vec<Global> {
    vec![
        Global::flag("TIME_WAIT_EXACT", is_exact(selection)),
        Global::u32("TIME_WAIT_OWNERS_MASK", owners(selection) - 1),
    ]
}

fn map_sizes(selection: &Selection<'_>) -> Vec<MapSize> {
    let options = selection.options;
    let [sockets, accounts, netns] = if is_exact(selection) {
        let accounts = options.slots.saturating_mul(ACCOUNTS_PER_SLOT);
        [options.max_connections, accounts.min(1 << 20), NETNS]
    } else {
        [UNUSED; 3]
    };
    vec![
        ("TIME_WAITS", sockets),
        ("ACCOUNTS", accounts),
        ("FREE_ACCOUNTS", accounts),
        ("NETNS_TIME_WAITS", netns),
        ("TIME_WAIT_OWNERS", owners(selection)),
    ]
}

/// Elements of the array of inferred TIME_WAIT sockets, a power of two.
fn owners(selection: &Selection<'_>) -> u32 {
    if is_exact(selection) {
        UNUSED
    } else {
        let limit = selection.options.max_connections.max(1);
        (1 << limit.ilog2()).min(65_536)
    }
}
