//! The load table: every program, the hook it wants and the signal it serves.

use observer_common::{
    SIGNAL_ACCEPT, SIGNAL_CONNECT, SIGNAL_FD, SIGNAL_NAMES, SIGNAL_RESET_RECEIVED,
    SIGNAL_RESET_SENT, SIGNAL_RETRANSMIT, SIGNAL_SETSOCKOPT, SIGNAL_STATE,
};

use super::verdict::Rung;

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// To a BTF-typed tracepoint. `args` lists the argument types it was written for; a
    /// kernel may have more of them, never others.
    TpBtf {
        /// Name of the tracepoint.
        tracepoint: &'static str,
        /// Leading arguments, as `KernelBtf::tracepoint_args` renders them.
        args: &'static [&'static str],
    },
    /// To a system call's return, `syscalls:sys_exit_CALL`.
    SyscallExit {
        /// `sys_exit_CALL`.
        event: &'static str,
    },
    /// A BPF iterator over open files.
    IterTaskFile,
}

/// One program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramSpec {
    /// Name in the object.
    pub name: &'static str,
    /// Signal it serves, as shown.
    pub signal: &'static str,
    /// Its `SIGNAL_` number, if it serves one that is counted.
    pub number: Option<u32>,
    /// The hook, as shown.
    pub hook: &'static str,
    /// How it is attached.
    pub attach: Attach,
    /// Whether the daemon can do its main job without it.
    pub required: bool,
}

impl ProgramSpec {
    /// The rung of the ladder it stands on.
    #[must_use]
    pub fn rung(&self) -> Rung {
        match self.attach {
            Attach::TpBtf { .. } => Rung::TpBtf,
            Attach::SyscallExit { .. } => Rung::Tracepoint,
            Attach::IterTaskFile => Rung::Iter,
        }
    }
}

const fn tp_btf(
    name: &'static str,
    signal: u32,
    tracepoint: &'static str,
    args: &'static [&'static str],
    required: bool,
) -> ProgramSpec {
    ProgramSpec {
        name,
        signal: SIGNAL_NAMES[signal as usize],
        number: Some(signal),
        hook: tracepoint,
        attach: Attach::TpBtf { tracepoint, args },
        required,
    }
}

const fn syscall_exit(
    name: &'static str,
    signal: u32,
    hook: &'static str,
    event: &'static str,
) -> ProgramSpec {
    ProgramSpec {
        name,
        signal: SIGNAL_NAMES[signal as usize],
        number: Some(signal),
        hook,
        attach: Attach::SyscallExit { event },
        required: false,
    }
}

/// The program whose absence changes how failed connects are counted.
pub const CONNECT_EXIT: &str = "connect_exit_tracepoint";

const SOCK: &str = "struct sock *";

/// Every program, in the order in which they are attached. The end of a socket comes
/// before its beginning, so that no socket is born that is not seen to die.
pub const PROGRAMS: &[ProgramSpec] = &[
    ProgramSpec {
        name: "destroy_tp_btf",
        signal: "destroy",
        number: None,
        hook: "tcp_destroy_sock",
        attach: Attach::TpBtf {
            tracepoint: "tcp_destroy_sock",
            args: &[SOCK],
        },
        required: true,
    },
    tp_btf(
        "state_tp_btf",
        SIGNAL_STATE,
        "inet_sock_set_state",
        &[SOCK, "int", "int"],
        true,
    ),
    syscall_exit(
        CONNECT_EXIT,
        SIGNAL_CONNECT,
        "syscalls:sys_exit_connect",
        "sys_exit_connect",
    ),
    syscall_exit(
        "accept_exit_tracepoint",
        SIGNAL_ACCEPT,
        "syscalls:sys_exit_accept",
        "sys_exit_accept",
    ),
    syscall_exit(
        "accept4_exit_tracepoint",
        SIGNAL_ACCEPT,
        "syscalls:sys_exit_accept4",
        "sys_exit_accept4",
    ),
    syscall_exit(
        "socket_exit_tracepoint",
        SIGNAL_FD,
        "syscalls:sys_exit_socket",
        "sys_exit_socket",
    ),
    tp_btf(
        "reset_sent_tp_btf",
        SIGNAL_RESET_SENT,
        "tcp_send_reset",
        &[SOCK, "struct sk_buff *"],
        false,
    ),
    tp_btf(
        "reset_received_tp_btf",
        SIGNAL_RESET_RECEIVED,
        "tcp_receive_reset",
        &[SOCK],
        false,
    ),
    tp_btf(
        "retransmit_tp_btf",
        SIGNAL_RETRANSMIT,
        "tcp_retransmit_skb",
        &[SOCK, "struct sk_buff *"],
        false,
    ),
    syscall_exit(
        "setsockopt_exit_tracepoint",
        SIGNAL_SETSOCKOPT,
        "syscalls:sys_exit_setsockopt",
        "sys_exit_setsockopt",
    ),
    ProgramSpec {
        name: "resync_iter",
        signal: "sockets",
        number: None,
        hook: "task_file",
        attach: Attach::IterTaskFile,
        required: false,
    },
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

/// Whether the arguments that the kernel's tracepoint has begin with those a program was
/// written for.
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
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn program_names_are_unique() {
        let names: HashSet<_> = PROGRAMS.iter().map(|program| program.name).collect();
        assert_eq!(names.len(), PROGRAMS.len());
    }

    #[test]
    fn preempted_runs_go_by_release() {
        assert!(runs_are_preempted("7.3.4+deb13-cloud-amd64"));
        assert!(runs_are_preempted("7.0"));
        assert!(!runs_are_preempted("6.18.44-fc"));
        assert!(!runs_are_preempted(""));
        assert!(!runs_are_preempted("next-20261121"));
    }

    #[test]
    fn more_arguments_are_accepted_and_others_are_not() {
        let of = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
        let three = of(&["struct sock *", "struct sk_buff *", "enum sk_rst_reason"]);
        assert_eq!(
            check_args(&three, &["struct sock *", "struct sk_buff *"]),
            Ok(())
        );
        let error = check_args(&of(&["struct sk_buff *"]), &["struct sock *"]).unwrap_err();
        assert_eq!(
            error,
            "its arguments are (struct sk_buff *) and begin not with (struct sock *)"
        );
        assert!(check_args(&of(&["int"]), &["int", "int"]).is_err());
    }
}
