//! The ladders whose outcome other programs are told when they are loaded.

use observer_common::{
    SIGNAL_ACCEPT, SIGNAL_BIND, SIGNAL_CONNECT, SIGNAL_PORTS, SIGNAL_SETSOCKOPT, SIGNAL_TIME_WAIT,
    SIGNAL_TIME_WAIT_END,
};

use super::words::*;
use crate::contract::Rung;
use crate::kernel::ladder::{Ladder, ProgramSpec};

pub const ACCEPT_EXIT: ProgramSpec = syscall_exit(
    "accept_exit_tracepoint",
    "syscalls:sys_exit_accept",
    "sys_exit_accept",
);
pub const ACCEPT4_EXIT: ProgramSpec = syscall_exit(
    "accept4_exit_tracepoint",
    "syscalls:sys_exit_accept4",
    "sys_exit_accept4",
);
pub const CONNECT_EXIT: ProgramSpec = syscall_exit(
    "connect_exit_tracepoint",
    "syscalls:sys_exit_connect",
    "sys_exit_connect",
);
pub const BIND_EXIT: ProgramSpec = syscall_exit(
    "bind_exit_tracepoint",
    "syscalls:sys_exit_bind",
    "sys_exit_bind",
);
pub const LISTEN_EXIT: ProgramSpec = syscall_exit(
    "listen_exit_tracepoint",
    "syscalls:sys_exit_listen",
    "sys_exit_listen",
);
pub const SETSOCKOPT_EXIT: ProgramSpec = syscall_exit(
    "setsockopt_exit_tracepoint",
    "syscalls:sys_exit_setsockopt",
    "sys_exit_setsockopt",
);

pub const TWSK_ALLOC: &[&str] = &[SOCK, DEATH_ROW, "int"];
pub const HASH_CONNECT: &[&str] = &[DEATH_ROW, SOCK];
pub const GET_PORT: &[&str] = &[SOCK, "short unsigned int"];
pub const SYS_BIND: &[&str] = &["int", "struct sockaddr *", "int"];
pub const SYS_LISTEN: &[&str] = &["int", "int"];
pub const IO_REQUEST: &[&str] = &["struct io_kiocb *"];
pub const DO_SETSOCKOPT: &[&str] = &["struct socket *", "bool", "int", "int"];
pub const SYS_SETSOCKOPT: &[&str] = &["int", "int", "int"];

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
            &[
                function(
                    "accept_again_fexit",
                    Rung::Fexit,
                    "inet_csk_accept",
                    &[SOCK],
                ),
                function("accept_fexit", Rung::Fexit, "inet_csk_accept", &[SOCK]),
            ],
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

/// The ladder of bind()'s searches for a local port.
pub const PORTS_BIND: &Ladder = &ladder(
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
            &[BIND_EXIT, LISTEN_EXIT],
            &[SIGNAL_PORTS],
            "64-bit system calls only, not io_uring",
        ),
    ],
);

const BIND_FEXIT: ProgramSpec = function("bind_fexit", Rung::Fexit, "__sys_bind", SYS_BIND);
const LISTEN_FEXIT: ProgramSpec = function("listen_fexit", Rung::Fexit, "__sys_listen", SYS_LISTEN);

/// The ladder of failed bind calls. No kretprobes: `__sys_bind` waits for the socket's lock.
pub const BIND: &Ladder = &ladder(
    name_of(SIGNAL_BIND),
    &[
        step(
            &[
                BIND_FEXIT,
                function("io_bind_fexit", Rung::Fexit, "io_bind", IO_REQUEST),
            ],
            &[SIGNAL_BIND],
        ),
        // Before 6.11, io_uring has no bind().
        step(&[BIND_FEXIT], &[SIGNAL_BIND]),
        remarked(
            &[BIND_EXIT],
            &[SIGNAL_BIND],
            "64-bit system calls only, not io_uring",
        ),
    ],
);

/// The ladder of failed listen calls.
pub const LISTEN: &Ladder = &ladder(
    name_of(SIGNAL_BIND),
    &[
        step(
            &[
                LISTEN_FEXIT,
                function("io_listen_fexit", Rung::Fexit, "io_listen", IO_REQUEST),
            ],
            &[SIGNAL_BIND],
        ),
        step(&[LISTEN_FEXIT], &[SIGNAL_BIND]),
        remarked(
            &[LISTEN_EXIT],
            &[SIGNAL_BIND],
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
