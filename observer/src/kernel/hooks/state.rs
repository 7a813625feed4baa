//! State transitions, and the end of a socket.

use observer_common::{SIGNAL_CONNECT, SIGNAL_STATE};

use super::spec::{FallbackChain, ProgramSpec, SOCK, chain, signal_name, tp_btf, variant};

/// The program on every transition.
pub const TRANSITION: ProgramSpec =
    tp_btf("state_tp_btf", "inet_sock_set_state", &[SOCK, "int", "int"]);

/// The program on the end of a socket.
const DESTROY: ProgramSpec = tp_btf("destroy_tp_btf", "tcp_destroy_sock", &[SOCK]);

/// The end of a socket.
pub const DESTROY_CHAINS: &[FallbackChain] =
    &[chain("destroy", &[variant(&[DESTROY], &[])]).required()];

/// Transitions. The state machine shows the outcome of most connects, too.
pub const CHAINS: &[FallbackChain] = &[chain(
    signal_name(SIGNAL_STATE),
    &[variant(&[TRANSITION], &[SIGNAL_STATE, SIGNAL_CONNECT])],
)
.required()];

/// A second program on a tracepoint: it handles an event if the kernel skipped the first one,
/// because that was already running on the CPU.
#[derive(Clone, Copy, Debug)]
pub struct BackupProgram {
    /// Name in the object.
    pub name: &'static str,
    /// The tracepoint.
    pub tracepoint: &'static str,
    /// Name of the program whose skipped runs it makes up for.
    pub of: &'static str,
}

/// Every backup program. All are loaded at the start, because loading takes capabilities that
/// are dropped afterwards.
pub const BACKUP_PROGRAMS: [BackupProgram; 2] = [
    BackupProgram {
        name: "destroy_again_tp_btf",
        tracepoint: "tcp_destroy_sock",
        of: DESTROY.name,
    },
    BackupProgram {
        name: "state_again_tp_btf",
        tracepoint: "inet_sock_set_state",
        of: TRANSITION.name,
    },
];
