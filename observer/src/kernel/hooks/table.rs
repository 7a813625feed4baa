//! The table of signals, in the order of attachment.

use super::{
    accept, bind, connect, fd, fd_passing, listen, open_files, ports, reset, retransmit, sockopt,
    spec::{FallbackChain, ProgramSpec},
    state, time_wait, udp,
};

/// The fallback chains of each signal, in the order in which their programs are attached. The hook
/// on the end of a socket is attached before the one on its start, so that no end is missed.
const SIGNALS: &[&[FallbackChain]] = &[
    state::DESTROY_CHAINS,
    time_wait::CHAINS,
    state::CHAINS,
    connect::CHAINS,
    ports::SEARCH_CHAINS,
    bind::CHAINS,
    fd::CHAINS,
    accept::CHAINS,
    fd_passing::CHAINS,
    reset::CHAINS,
    retransmit::CHAINS,
    sockopt::CHAINS,
    listen::CHAINS,
    ports::IN_USE_CHAINS,
    open_files::CHAINS,
    udp::CHAINS,
];

/// Every fallback chain.
pub fn chains() -> impl Iterator<Item = &'static FallbackChain> {
    SIGNALS.iter().copied().flatten()
}

/// Every program of every variant; one that is used by several signals occurs several times.
pub fn programs() -> impl Iterator<Item = &'static ProgramSpec> {
    chains()
        .flat_map(|chain| chain.variants)
        .flat_map(|variant| variant.programs)
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
