//! Whether each hook is attached, and why not: the answer to "why is this metric missing?".

use serde::Serialize;

/// How a program is attached to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachType {
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
    /// Functions of programs and libraries, through breakpoints: a perf event for each.
    Uprobe,
    /// The same with one link for many (6.6 and later).
    UprobeMulti,
}

impl AttachType {
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
            Self::Uprobe => "uprobe",
            Self::UprobeMulti => "uprobe_multi",
        }
    }

    /// The order of what a run costs on the same event: a trampoline, the event's record and arguments, a breakpoint or ftrace.
    pub(super) fn cost(self) -> u8 {
        match self {
            Self::TpBtf | Self::Iter | Self::Fentry | Self::Fexit => 0,
            Self::Tracepoint => 1,
            Self::Kprobe | Self::Kretprobe | Self::Uprobe | Self::UprobeMulti => 2,
        }
    }
}

/// Whether a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Loaded and attached.
    Attached,
    /// The running kernel does not have the hook, or lacks something it needs.
    Unsupported,
    /// A setting forbids it.
    Disabled,
    /// The kernel has the hook and refused the program, or tracefs, which describes the hook, cannot be read.
    Refused,
    /// It was attached, but the self-test's connections did not run it.
    Broken,
    /// Another program of the same variant could not be attached.
    Incomplete,
    /// A preferred variant of the same signal is attached.
    NotNeeded,
}

impl Status {
    /// The label value, and the word in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::Unsupported => "unsupported",
            Self::Disabled => "disabled",
            Self::Refused => "refused",
            Self::Broken => "broken",
            Self::Incomplete => "incomplete",
            Self::NotNeeded => "not needed",
        }
    }

    /// Whether something is in the way of the program itself.
    #[must_use]
    pub const fn is_obstacle(self) -> bool {
        matches!(
            self,
            Self::Unsupported | Self::Disabled | Self::Refused | Self::Broken
        )
    }
}

/// The verdict on one program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The signal, one of [`observer_common::SIGNAL_NAMES`], or `sockets` for the iterator that
    /// finds older sockets and `destroy` for their end.
    pub signal: &'static str,
    /// How the program is attached.
    pub attach_type: AttachType,
    /// The hook's name in the kernel: `inet_sock_set_state`, `syscalls:sys_exit_connect`.
    pub hook: &'static str,
    /// The program's name in the object.
    pub program: &'static str,
    /// Whether it is attached.
    pub status: Status,
    /// The reason if it is not attached, otherwise a remark. Without full stop.
    pub detail: String,
    /// Whether the daemon refuses to start without this signal.
    pub required: bool,
}
