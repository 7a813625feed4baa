//! The load table: every signal with the ways to observe it, every program with its hook.

use observer_common::{
    SIGNAL_ACCEPT, SIGNAL_CONNECT, SIGNAL_FD, SIGNAL_NAMES, SIGNAL_PORTS, SIGNAL_RECEIVED,
    SIGNAL_RESET_RECEIVED, SIGNAL_RESET_SENT, SIGNAL_RETRANSMIT, SIGNAL_SETSOCKOPT, SIGNAL_STATE,
    SIGNAL_TIME_WAIT, SIGNAL_TIME_WAIT_END,
};

use super::{
    ladder::{Attach, Ladder, Needs, ProgramSpec, Step},
    verdict::Rung,
};

const SOCK: &str = "struct sock *";
const SKB: &str = "struct sk_buff *";
const DEATH_ROW: &str = "struct inet_timewait_death_row *";

const fn name_of(signal: u32) -> &'static str {
    SIGNAL_NAMES[signal as usize]
}

const fn tp_btf(
    name: &'static str,
    tracepoint: &'static str,
    args: &'static [&'static str],
) -> ProgramSpec {
    ProgramSpec {
        name,
        hook: tracepoint,
        attach: Attach::TpBtf { tracepoint, args },
    }
}

const fn syscall_exit(name: &'static str, hook: &'static str, event: &'static str) -> ProgramSpec {
    ProgramSpec {
        name,
        hook,
        attach: Attach::SyscallExit { event },
    }
}

const fn function(
    name: &'static str,
    rung: Rung,
    function: &'static str,
    args: &'static [&'static str],
) -> ProgramSpec {
    ProgramSpec {
        name,
        hook: function,
        attach: Attach::Function {
            rung,
            function,
            args,
        },
    }
}

const fn shared(program: &'static str, rung: Rung, hook: &'static str) -> ProgramSpec {
    ProgramSpec {
        name: program,
        hook,
        attach: Attach::Shared {
            program,
            rung,
            needs: Needs::Nothing,
        },
    }
}

const fn step(programs: &'static [ProgramSpec], counts: &'static [u32]) -> Step {
    Step {
        programs,
        counts,
        remark: "",
    }
}

const fn remarked(
    programs: &'static [ProgramSpec],
    counts: &'static [u32],
    remark: &'static str,
) -> Step {
    Step {
        programs,
        counts,
        remark,
    }
}

const fn ladder(signal: &'static str, steps: &'static [Step]) -> Ladder {
    Ladder {
        signal,
        required: false,
        steps,
    }
}

const ACCEPT_EXIT: ProgramSpec = syscall_exit(
    "accept_exit_tracepoint",
    "syscalls:sys_exit_accept",
    "sys_exit_accept",
);
const ACCEPT4_EXIT: ProgramSpec = syscall_exit(
    "accept4_exit_tracepoint",
    "syscalls:sys_exit_accept4",
    "sys_exit_accept4",
);
const CONNECT_EXIT: ProgramSpec = syscall_exit(
    "connect_exit_tracepoint",
    "syscalls:sys_exit_connect",
    "sys_exit_connect",
);
const SETSOCKOPT_EXIT: ProgramSpec = syscall_exit(
    "setsockopt_exit_tracepoint",
    "syscalls:sys_exit_setsockopt",
    "sys_exit_setsockopt",
);

const TWSK_ALLOC: &[&str] = &[SOCK, DEATH_ROW, "int"];
const HASH_CONNECT: &[&str] = &[DEATH_ROW, SOCK];
const GET_PORT: &[&str] = &[SOCK, "short unsigned int"];
const DO_SETSOCKOPT: &[&str] = &["struct socket *", "bool", "int", "int"];
const SYS_SETSOCKOPT: &[&str] = &["int", "int", "int"];

/// The ladder of connection outcomes.
pub const CONNECT: &Ladder = &ladder(
    name_of(SIGNAL_CONNECT),
    &[step(&[CONNECT_EXIT], &[SIGNAL_CONNECT])],
);

/// The ladder of TIME_WAIT.
pub const TIME_WAIT: &Ladder = &ladder(
    name_of(SIGNAL_TIME_WAIT),
    &[
        step(
            &[
                function(
                    "time_wait_end_fentry",
                    Rung::Fentry,
                    "tcp_twsk_destructor",
                    &[SOCK],
                ),
                function(
                    "time_wait_begin_fexit",
                    Rung::Fexit,
                    "inet_twsk_alloc",
                    TWSK_ALLOC,
                ),
            ],
            &[SIGNAL_TIME_WAIT, SIGNAL_TIME_WAIT_END],
        ),
        step(
            &[
                function(
                    "time_wait_end_kprobe",
                    Rung::Kprobe,
                    "tcp_twsk_destructor",
                    &[SOCK],
                ),
                function(
                    "time_wait_begin_kprobe",
                    Rung::Kprobe,
                    "inet_twsk_alloc",
                    TWSK_ALLOC,
                ),
                function(
                    "time_wait_begin_kretprobe",
                    Rung::Kretprobe,
                    "inet_twsk_alloc",
                    TWSK_ALLOC,
                ),
            ],
            &[SIGNAL_TIME_WAIT, SIGNAL_TIME_WAIT_END],
        ),
        remarked(
            &[shared("state_tp_btf", Rung::TpBtf, "inet_sock_set_state")],
            &[SIGNAL_TIME_WAIT],
            "inferred from the state a connection ends in; its end is assumed after 60 seconds",
        ),
    ],
);

/// The ladder of accepted connections.
pub const ACCEPT: &Ladder = &ladder(
    name_of(SIGNAL_ACCEPT),
    &[
        step(
            &[function(
                "accept_fexit",
                Rung::Fexit,
                "inet_csk_accept",
                &[SOCK],
            )],
            &[SIGNAL_ACCEPT],
        ),
        step(
            &[function(
                "accept_kretprobe",
                Rung::Kretprobe,
                "inet_csk_accept",
                &[SOCK],
            )],
            &[SIGNAL_ACCEPT],
        ),
        remarked(
            &[
                shared(ACCEPT_EXIT.name, Rung::Tracepoint, ACCEPT_EXIT.hook),
                shared(ACCEPT4_EXIT.name, Rung::Tracepoint, ACCEPT4_EXIT.hook),
            ],
            &[SIGNAL_ACCEPT],
            "64-bit system calls only, not io_uring",
        ),
    ],
);

/// The ladder of connect()'s searches for a local port.
pub const PORTS_CONNECT: &Ladder = &ladder(
    name_of(SIGNAL_PORTS),
    &[
        step(
            &[function(
                "hash_connect_fexit",
                Rung::Fexit,
                "__inet_hash_connect",
                HASH_CONNECT,
            )],
            &[SIGNAL_PORTS],
        ),
        step(
            &[
                function(
                    "hash_connect_kprobe",
                    Rung::Kprobe,
                    "__inet_hash_connect",
                    HASH_CONNECT,
                ),
                function(
                    "hash_connect_kretprobe",
                    Rung::Kretprobe,
                    "__inet_hash_connect",
                    HASH_CONNECT,
                ),
            ],
            &[SIGNAL_PORTS],
        ),
        remarked(
            &[shared(
                CONNECT_EXIT.name,
                Rung::Tracepoint,
                CONNECT_EXIT.hook,
            )],
            &[SIGNAL_PORTS],
            "64-bit system calls only, not io_uring",
        ),
    ],
);

/// The ladder of failed setsockopt calls.
pub const SETSOCKOPT: &Ladder = &ladder(
    name_of(SIGNAL_SETSOCKOPT),
    &[
        step(
            &[
                function(
                    "setsockopt_fexit",
                    Rung::Fexit,
                    "do_sock_setsockopt",
                    DO_SETSOCKOPT,
                ),
                // Calls that do not reach a socket.
                SETSOCKOPT_EXIT,
            ],
            &[SIGNAL_SETSOCKOPT],
        ),
        step(
            &[function(
                "sys_setsockopt_fexit",
                Rung::Fexit,
                "__sys_setsockopt",
                SYS_SETSOCKOPT,
            )],
            &[SIGNAL_SETSOCKOPT],
        ),
        step(
            &[
                function(
                    "setsockopt_kprobe",
                    Rung::Kprobe,
                    "do_sock_setsockopt",
                    DO_SETSOCKOPT,
                ),
                function(
                    "setsockopt_kretprobe",
                    Rung::Kretprobe,
                    "do_sock_setsockopt",
                    DO_SETSOCKOPT,
                ),
                SETSOCKOPT_EXIT,
            ],
            &[SIGNAL_SETSOCKOPT],
        ),
        step(
            &[
                function(
                    "sys_setsockopt_kprobe",
                    Rung::Kprobe,
                    "__sys_setsockopt",
                    SYS_SETSOCKOPT,
                ),
                function(
                    "sys_setsockopt_kretprobe",
                    Rung::Kretprobe,
                    "__sys_setsockopt",
                    SYS_SETSOCKOPT,
                ),
            ],
            &[SIGNAL_SETSOCKOPT],
        ),
        remarked(
            &[SETSOCKOPT_EXIT],
            &[SIGNAL_SETSOCKOPT],
            "64-bit system calls only, not io_uring",
        ),
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
    ladder(
        name_of(SIGNAL_PORTS),
        &[
            step(
                &[function(
                    "get_port_fexit",
                    Rung::Fexit,
                    "inet_csk_get_port",
                    GET_PORT,
                )],
                &[SIGNAL_PORTS],
            ),
            step(
                &[
                    function(
                        "get_port_kprobe",
                        Rung::Kprobe,
                        "inet_csk_get_port",
                        GET_PORT,
                    ),
                    function(
                        "get_port_kretprobe",
                        Rung::Kretprobe,
                        "inet_csk_get_port",
                        GET_PORT,
                    ),
                ],
                &[SIGNAL_PORTS],
            ),
            remarked(
                &[syscall_exit(
                    "bind_exit_tracepoint",
                    "syscalls:sys_exit_bind",
                    "sys_exit_bind",
                )],
                &[SIGNAL_PORTS],
                "64-bit system calls only, not io_uring",
            ),
        ],
    ),
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
                        program: "reset_sent_tp_btf",
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

/// Programs that do the work of another one where the kernel skipped it, and their
/// tracepoints. They cost each event a look-up, so they are loaded at the start (which takes
/// capabilities that are dropped then) and attached where runs are skipped.
pub const TWINS: &[(&str, &str)] = &[
    ("destroy_again_tp_btf", "tcp_destroy_sock"),
    ("state_again_tp_btf", "inet_sock_set_state"),
];

/// Whether the kernel of this release lets a tracepoint's programs be preempted, so that one
/// task's run makes it skip another's. They run under SRCU instead of with preemption
/// disabled since 7.0; nothing in BTF tells. On 7.3, one transition in 25 was skipped in an
/// emulated guest, on 6.18 one in 50,000.
#[must_use]
pub fn runs_are_preempted(release: &str) -> bool {
    let mut numbers = release.split(['.', '-', '+']).map(str::parse::<u32>);
    matches!(numbers.next(), Some(Ok(major)) if major >= 7)
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
#[path = "programs_tests.rs"]
mod tests;
