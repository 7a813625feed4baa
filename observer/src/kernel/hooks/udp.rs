//! Datagrams that UDP sockets dropped, read by the walk over open files.

use observer_common::SIGNAL_UDP_DROPS;

use super::{
    open_files,
    spec::{
        FallbackChain, Global, MapSize, Requirement, Selection, chain, share_of_one, shared_if,
        signal_name, variant,
    },
};
use crate::kernel::facts::{Facts, fields::DROPS};

const COUNTS_ARE_KNOWN: Requirement = Requirement {
    is_met: |facts: &Facts| facts.fields.lacks(&DROPS).is_none(),
    otherwise: "the kernel lacks sock.sk_drops, numa_drop_counters or inode.i_ino",
};

/// Every chain of the signal.
pub const CHAINS: &[FallbackChain] = &[chain(
    signal_name(SIGNAL_UDP_DROPS),
    &[variant(
        &[shared_if(open_files::ITER, COUNTS_ARE_KNOWN)],
        &[SIGNAL_UDP_DROPS],
    )
    .remark("only drops of sockets that are open at a walk over open files")],
)
.map_sizes(map_sizes)
.globals(globals)];

/// Maximum number of UDP sockets with drops for `max_connections` TCP sockets.
pub fn max_udp_sockets(max_connections: u32) -> u32 {
    max_connections.min(8192)
}

fn globals(selection: &Selection<'_>) -> Vec<Global> {
    let sockets = max_udp_sockets(selection.options.max_connections);
    vec![Global::u32("UDP_SOCKETS_SHARE", share_of_one(sockets))]
}

fn map_sizes(selection: &Selection<'_>) -> Vec<MapSize> {
    let sockets = max_udp_sockets(selection.options.max_connections);
    vec![("UDP_SOCKETS", sockets)]
}
