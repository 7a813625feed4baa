//! State transitions, and the end of a socket.

use observer_common::{SIGNAL_CONNECT, SIGNAL_STATE};

use super::spec::{
    FallbackChain, ProgramSpec, SOCK, chain, signal_name, tp_btf, tracepoint, variant,
};

/// The program on every transition.
pub const TRANSITION: ProgramSpec =
    tp_btf("state_tp_btf", "inet_sock_set_state", &[SOCK, "int", "int"]);

/// The same on the classic tracepoint.
const TRANSITION_CLASSIC: ProgramSpec = tracepoint(
    "state_tracepoint",
    "sock:inet_sock_set_state",
    "sock",
    "inet_sock_set_state",
    &[("skaddr", 8), ("oldstate", 16), ("newstate", 20)],
);

/// The program on the end of a socket.
const DESTROY: ProgramSpec = tp_btf("destroy_tp_btf", "tcp_destroy_sock", &[SOCK]);

/// The same on the classic tracepoint.
const DESTROY_CLASSIC: ProgramSpec = tracepoint(
    "destroy_tracepoint",
    "tcp:tcp_destroy_sock",
    "tcp",
    "tcp_destroy_sock",
    &[("skaddr", 8)],
);

/// The end of a socket.
pub const DESTROY_CHAINS: &[FallbackChain] = &[chain(
    "destroy",
    &[variant(&[DESTROY_CLASSIC], &[]), variant(&[DESTROY], &[])],
)
.required()];

/// Transitions. The state machine shows the outcome of most connects, too.
pub const CHAINS: &[FallbackChain] = &[chain(
    signal_name(SIGNAL_STATE),
    &[
        variant(&[TRANSITION_CLASSIC], &[SIGNAL_STATE, SIGNAL_CONNECT]),
        variant(&[TRANSITION], &[SIGNAL_STATE, SIGNAL_CONNECT]),
    ],
)
.required()];

/// A second program on a tracepoint: it handles an event if the kernel skipped the first one,
/// because that was already running on the CPU. It is attached after the first one, classic or
/// typed, so it runs after it: callbacks of a tracepoint run in the order of their registration
/// (`func_add`, kernel/tracepoint.c).
#[derive(Clone, Copy, Debug)]
pub struct BackupProgram {
    /// Name in the object.
    pub name: &'static str,
    /// The tracepoint.
    pub tracepoint: &'static str,
    /// Names of the programs for whose skipped runs it is the backup.
    pub of: [&'static str; 2],
}

/// Every backup program. All are loaded at the start, because loading needs capabilities that are dropped later.
pub const BACKUP_PROGRAMS: [BackupProgram; 2] = [
    BackupProgram {
        name: "destroy_again_tp_btf",
        tracepoint: "tcp_destroy_sock",
        of: [DESTROY.name, DESTROY_CLASSIC.name],
    },
    BackupProgram {
        name: "state_again_tp_btf",
        tracepoint: "inet_sock_set_state",
        of: [TRANSITION.name, TRANSITION_CLASSIC.name],
    },
];
