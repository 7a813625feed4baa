//! What became of each hook: the answer to "why is this metric missing?".

use serde::Serialize;

/// The kind of kernel hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// A BTF-typed raw tracepoint.
    TpBtf,
    /// A classic tracepoint, found through tracefs.
    Tracepoint,
    /// A BPF iterator.
    Iter,
    /// The entry of a kernel function, through a BPF trampoline.
    Fentry,
    /// Its return, through a BPF trampoline.
    Fexit,
    /// The entry of a kernel function, through a breakpoint or ftrace.
    Kprobe,
    /// Its return, likewise.
    Kretprobe,
}

impl Rung {
    /// The label value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TpBtf => "tp_btf",
            Self::Tracepoint => "tracepoint",
            Self::Iter => "iter",
            Self::Fentry => "fentry",
            Self::Fexit => "fexit",
            Self::Kprobe => "kprobe",
            Self::Kretprobe => "kretprobe",
        }
    }
}

/// What became of one rung of one signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Loaded and attached.
    Attached,
    /// The running kernel does not have the hook, or lacks something it needs.
    Unsupported,
    /// The kernel has the hook and refused the program.
    Refused,
    /// It was attached and did not fire when it should have.
    Broken,
    /// It could serve, but others of its rung could not.
    Incomplete,
    /// A better rung of the same signal serves.
    NotNeeded,
}

/// The verdict on one program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The signal it serves, one of [`observer_common::SIGNAL_NAMES`], or `sockets` for
    /// the iterator that takes in older sockets and `destroy` for their end.
    pub signal: &'static str,
    /// The kind of hook.
    pub rung: Rung,
    /// The hook's name in the kernel: `inet_sock_set_state`, `syscalls:sys_exit_connect`.
    pub hook: &'static str,
    /// The program's name in the object.
    pub program: &'static str,
    /// What became of it.
    pub status: Status,
    /// Why, when it is not attached; a remark otherwise. Without full stop.
    pub detail: String,
    /// Whether the daemon can do its main job without it.
    pub required: bool,
}
