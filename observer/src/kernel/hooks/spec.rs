//! What the hook ladder is made of: for each signal the ways to observe it, best first.

use crate::contract::Rung;

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
    /// To a kernel function, by the means that `rung` names: fentry, fexit, kprobe or
    /// kretprobe. `args` lists the leading argument types it was written for, as
    /// `KernelBtf::func_args` renders them.
    Function {
        /// The means.
        rung: Rung,
        /// Name of the function.
        function: &'static str,
        /// Leading arguments.
        args: &'static [&'static str],
    },
    /// A BPF iterator over open files.
    IterTaskFile,
    /// A BPF iterator over the elements of a map. Attached to the map when it is read.
    IterMapElem {
        /// Fields, by their globals, without which it would write zeros.
        needs: &'static [&'static str],
    },
    /// Not at all: the program of this name serves another signal and this one too.
    Shared {
        /// How it is attached.
        rung: Rung,
        /// What it takes besides.
        needs: Needs,
    },
}

/// What a shared program needs in order to serve the second signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// A `tcp_send_reset` that fires without a socket too: since 6.10, when it got its third
    /// argument.
    ResetReason,
}

/// One program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramSpec {
    /// Name in the object.
    pub name: &'static str,
    /// The hook, as shown.
    pub hook: &'static str,
    /// How it is attached.
    pub attach: Attach,
}

impl ProgramSpec {
    /// The kind of hook.
    #[must_use]
    pub fn rung(&self) -> Rung {
        match self.attach {
            Attach::TpBtf { .. } => Rung::TpBtf,
            Attach::SyscallExit { .. } => Rung::Tracepoint,
            Attach::Function { rung, .. } | Attach::Shared { rung, .. } => rung,
            Attach::IterTaskFile | Attach::IterMapElem { .. } => Rung::Iter,
        }
    }
}

/// One way to observe a signal: programs that only serve together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Attached in this order.
    pub programs: &'static [ProgramSpec],
    /// `SIGNAL_` numbers that are counted this way.
    pub counts: &'static [u32],
    /// What is to be said of this way, shown with its verdicts. Empty for nothing.
    pub remark: &'static str,
}

impl Step {
    /// Whether kernel functions are hooked.
    #[must_use]
    pub fn hooks_functions(&self) -> bool {
        self.programs
            .iter()
            .any(|program| matches!(program.attach, Attach::Function { .. }))
    }
}

/// A signal and the ways to observe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ladder {
    /// Label value.
    pub signal: &'static str,
    /// Whether the daemon can do its main job without it.
    pub required: bool,
    /// Best first.
    pub steps: &'static [Step],
}
