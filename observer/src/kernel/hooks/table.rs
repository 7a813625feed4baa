//! The load table: every signal with the ways to observe it, every program with its hook.

use observer_common::{
    SIGNAL_CONNECT, SIGNAL_FD, SIGNAL_LISTEN_OVERFLOW, SIGNAL_RECEIVED, SIGNAL_RESET_RECEIVED,
    SIGNAL_RESET_SENT, SIGNAL_RETRANSMIT, SIGNAL_STATE,
};

use crate::contract::Rung;
use crate::kernel::{
    ladder::{Attach, Ladder, Needs, ProgramSpec},
    layout::PORT_RANGE,
    listeners, ports,
};

mod told;
mod words;

pub use told::{ACCEPT, BIND, CONNECT, LISTEN, PORTS_BIND, PORTS_CONNECT, SETSOCKOPT, TIME_WAIT};
use told::{ACCEPT_EXIT, ACCEPT4_EXIT};
use words::*;

/// What is read from listening sockets, as shown. Not counted event by event.
pub const POLLED_LISTEN: &str = "listen";
/// What is read about local ports, as shown. Not counted event by event.
pub const POLLED_PORTS: &str = "ports";

const CONN_REQUEST: &[&str] = &[
    "struct request_sock_ops *",
    "struct tcp_request_sock_ops *",
    SOCK,
    SKB,
];
const SYN_RECV_SOCK: &[&str] = &[SOCK, SKB];

const LISTENERS_ITER: ProgramSpec = iter_map_elem(
    listeners::PROGRAM,
    &["OFF_SK_DROPS", "OFF_SK_BACKLOG", "OFF_SK_MAX_BACKLOG"],
);
const CONNECTIONS_ITER: ProgramSpec = iter_map_elem(
    ports::CONNECTIONS,
    &[
        "OFF_ICSK_BIND_HASH",
        "OFF_TB_FASTREUSE",
        "OFF_TB_FASTREUSEPORT",
    ],
);
const NAMESPACES_ITER: ProgramSpec = iter_map_elem(
    ports::NAMESPACES,
    &[
        "OFF_SKC_NET",
        "OFF_NET_INUM",
        "OFF_NET_RESERVED_PORTS",
        PORT_RANGE,
    ],
);

/// Every ladder, in the order in which its programs are attached. The end of a socket comes
/// before its beginning, so that no socket is born that is not seen to die.
pub const LADDERS: &[Ladder] = &[
    Ladder {
        signal: "destroy",
        required: true,
        steps: &[step(
            &[tp_btf("destroy_tp_btf", "tcp_destroy_sock", &[SOCK])],
            &[],
        )],
    },
    *TIME_WAIT,
    Ladder {
        signal: name_of(SIGNAL_STATE),
        required: true,
        steps: &[step(
            &[tp_btf(
                "state_tp_btf",
                "inet_sock_set_state",
                &[SOCK, "int", "int"],
            )],
            // Connects that succeed or fail in the state machine, too.
            &[SIGNAL_STATE, SIGNAL_CONNECT],
        )],
    },
    *CONNECT,
    ladder(
        "connect_owner",
        &[
            step(
                &[function(
                    "connect_fentry",
                    Rung::Fentry,
                    "tcp_connect",
                    &[SOCK],
                )],
                &[],
            ),
            step(
                &[function(
                    "connect_kprobe",
                    Rung::Kprobe,
                    "tcp_connect",
                    &[SOCK],
                )],
                &[],
            ),
            remarked(
                &[shared("state_tp_btf", Rung::TpBtf, "inet_sock_set_state")],
                &[],
                "from the transition to SYN_SENT",
            ),
        ],
    ),
    *PORTS_CONNECT,
    *PORTS_BIND,
    *BIND,
    *LISTEN,
    ladder(name_of(SIGNAL_FD), &[step(&[ACCEPT_EXIT], &[SIGNAL_FD])]),
    ladder(name_of(SIGNAL_FD), &[step(&[ACCEPT4_EXIT], &[SIGNAL_FD])]),
    ladder(
        name_of(SIGNAL_FD),
        &[step(
            &[syscall_exit(
                "socket_exit_tracepoint",
                "syscalls:sys_exit_socket",
                "sys_exit_socket",
            )],
            &[SIGNAL_FD],
        )],
    ),
    *ACCEPT,
    ladder(
        name_of(SIGNAL_RECEIVED),
        &[
            step(
                &[function(
                    "file_received_fentry",
                    Rung::Fentry,
                    "security_file_receive",
                    &["struct file *"],
                )],
                &[SIGNAL_RECEIVED],
            ),
            step(
                &[function(
                    "file_received_kprobe",
                    Rung::Kprobe,
                    "security_file_receive",
                    &["struct file *"],
                )],
                &[SIGNAL_RECEIVED],
            ),
            remarked(
                &[shared("resync_iter", Rung::Iter, "task_file")],
                &[],
                "found by the next resynchronisation",
            ),
        ],
    ),
    ladder(
        name_of(SIGNAL_RESET_SENT),
        &[step(
            &[tp_btf("reset_sent_tp_btf", "tcp_send_reset", &[SOCK, SKB])],
            &[SIGNAL_RESET_SENT],
        )],
    ),
    ladder(
        "reset_sent_no_socket",
        &[
            step(
                &[ProgramSpec {
                    name: "reset_sent_tp_btf",
                    hook: "tcp_send_reset",
                    attach: Attach::Shared {
                        rung: Rung::TpBtf,
                        needs: Needs::ResetReason,
                    },
                }],
                &[],
            ),
            step(
                &[
                    function(
                        "reset_v4_fentry",
                        Rung::Fentry,
                        "tcp_v4_send_reset",
                        &[SOCK, SKB],
                    ),
                    function(
                        "reset_v6_fentry",
                        Rung::Fentry,
                        "tcp_v6_send_reset",
                        &[SOCK, SKB],
                    ),
                ],
                &[],
            ),
            step(
                &[
                    function(
                        "reset_v4_kprobe",
                        Rung::Kprobe,
                        "tcp_v4_send_reset",
                        &[SOCK, SKB],
                    ),
                    function(
                        "reset_v6_kprobe",
                        Rung::Kprobe,
                        "tcp_v6_send_reset",
                        &[SOCK, SKB],
                    ),
                ],
                &[],
            ),
        ],
    ),
    ladder(
        name_of(SIGNAL_RESET_RECEIVED),
        &[step(
            &[tp_btf(
                "reset_received_tp_btf",
                "tcp_receive_reset",
                &[SOCK],
            )],
            &[SIGNAL_RESET_RECEIVED],
        )],
    ),
    ladder(
        name_of(SIGNAL_RETRANSMIT),
        &[step(
            &[tp_btf(
                "retransmit_tp_btf",
                "tcp_retransmit_skb",
                &[SOCK, SKB],
            )],
            &[SIGNAL_RETRANSMIT],
        )],
    ),
    *SETSOCKOPT,
    ladder(
        name_of(SIGNAL_LISTEN_OVERFLOW),
        &[
            step(
                &[
                    function(
                        "conn_request_fentry",
                        Rung::Fentry,
                        "tcp_conn_request",
                        CONN_REQUEST,
                    ),
                    function(
                        "handshake_v4_fentry",
                        Rung::Fentry,
                        "tcp_v4_syn_recv_sock",
                        SYN_RECV_SOCK,
                    ),
                    function(
                        "handshake_v6_fentry",
                        Rung::Fentry,
                        "tcp_v6_syn_recv_sock",
                        SYN_RECV_SOCK,
                    ),
                ],
                &[SIGNAL_LISTEN_OVERFLOW],
            ),
            step(
                &[
                    function(
                        "conn_request_kprobe",
                        Rung::Kprobe,
                        "tcp_conn_request",
                        CONN_REQUEST,
                    ),
                    function(
                        "handshake_v4_kprobe",
                        Rung::Kprobe,
                        "tcp_v4_syn_recv_sock",
                        SYN_RECV_SOCK,
                    ),
                    function(
                        "handshake_v6_kprobe",
                        Rung::Kprobe,
                        "tcp_v6_syn_recv_sock",
                        SYN_RECV_SOCK,
                    ),
                ],
                &[SIGNAL_LISTEN_OVERFLOW],
            ),
            remarked(
                &[shared(listeners::PROGRAM, Rung::Iter, "bpf_map_elem")],
                &[],
                "inferred from the drops of each listener and the kernel's total of overflows",
            ),
        ],
    ),
    ladder(POLLED_LISTEN, &[step(&[LISTENERS_ITER], &[])]),
    ladder(
        POLLED_PORTS,
        &[step(
            &[
                CONNECTIONS_ITER,
                iter_map_elem(ports::TIME_WAITS, &[]),
                iter_map_elem(ports::OWNED_TIME_WAITS, &[]),
                NAMESPACES_ITER,
            ],
            &[],
        )],
    ),
    ladder(
        "sockets",
        &[step(
            &[ProgramSpec {
                name: "resync_iter",
                hook: "task_file",
                attach: Attach::IterTaskFile,
            }],
            &[],
        )],
    ),
];

/// Every program of every step; one that serves several signals comes several times.
pub fn all() -> impl Iterator<Item = &'static ProgramSpec> {
    LADDERS
        .iter()
        .flat_map(|ladder| ladder.steps)
        .flat_map(|step| step.programs)
}

/// Programs that do the work of another one where the kernel skipped it, and their
/// tracepoints. They are loaded at the start (which takes capabilities that are dropped then).
pub const TWINS: &[(&str, &str)] = &[
    ("destroy_again_tp_btf", "tcp_destroy_sock"),
    ("state_again_tp_btf", "inet_sock_set_state"),
];

/// Whether the kernel of this release is known to skip a program that is running on the CPU
/// already (`__bpf_trace_run`, since 6.1; nothing in BTF tells). Then a timer that interrupts
/// the program on transitions hides all transitions of the sockets whose timers are due: twenty
/// delayed ACKs at once, say. Since 7.0 tasks preempt each other there as well: on 7.3, one
/// transition in 25 was skipped in an emulated guest.
#[must_use]
pub fn runs_are_skipped(release: &str) -> bool {
    let mut numbers = release.split(['.', '-', '+']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (6, 1),
        _ => false,
    }
}

/// Whether the arguments that the kernel's tracepoint or function has begin with those a
/// program was written for.
///
/// # Errors
///
/// The difference, in words.
pub fn check_args(found: &[String], expected: &[&str]) -> Result<(), String> {
    if found.len() >= expected.len() && found.iter().zip(expected).all(|(a, b)| a == b) {
        return Ok(());
    }
    Err(format!(
        "its arguments are ({}) and begin not with ({})",
        found.join(", "),
        expected.join(", ")
    ))
}

/// The running architecture's number of connect(2).
pub const CONNECT_NR: u64 = libc::SYS_connect as u64;

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
