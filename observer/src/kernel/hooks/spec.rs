//! The types that describe hooks, and const functions that build them.

use observer_common::SIGNAL_NAMES;

pub use observer_core::contract::AttachType;

use crate::kernel::{
    facts::{Facts, skips::Skips},
    options::LoadOptions,
};

pub const SOCK: &str = "struct sock *";
pub const SKB: &str = "struct sk_buff *";
pub const DEATH_ROW: &str = "struct inet_timewait_death_row *";

/// Remark on calls that tracepoints on the return of system calls miss.
pub const SYSTEM_CALLS_ONLY: &str = "64-bit system calls only, not io_uring";

/// How a program is attached.
#[derive(Clone, Copy, Debug)]
pub enum Attach {
    /// To a BTF-typed tracepoint. `args` lists the argument types it was written for; a
    /// kernel may have more of them, never others.
    TpBtf {
        /// Name of the tracepoint.
        tracepoint: &'static str,
        /// Leading arguments, as `KernelBtf::tracepoint_args` renders them.
        args: &'static [&'static str],
    },
    /// To a classic tracepoint, if the requirement is met.
    Tracepoint {
        /// `sock`, `tcp`.
        category: &'static str,
        /// Name of the tracepoint.
        event: &'static str,
        /// Fields that the program reads, and their offsets in the event.
        fields: &'static [(&'static str, u64)],
        /// When it is preferable to the typed tracepoint.
        requirement: Requirement,
    },
    /// To a system call's return, `syscalls:sys_exit_CALL`.
    SyscallExit {
        /// `sys_exit_CALL`.
        event: &'static str,
    },
    /// To a kernel function. `args` lists the leading argument types it was written for, as
    /// `KernelBtf::func_args` renders them.
    Function {
        /// Fentry, fexit, kprobe or kretprobe.
        attach_type: AttachType,
        /// Name of the function.
        function: &'static str,
        /// Leading arguments.
        args: &'static [&'static str],
    },
    /// A BPF iterator over open files.
    IterTaskFile,
    /// A BPF iterator over the elements of a map.
    IterMapElem {
        /// Name of the map.
        map: &'static str,
        /// Fields, by their globals, without which it would write zeros.
        needs: &'static [&'static str],
    },
    /// Shared: the program of this name is attached for another signal and also counts this one.
    Shared {
        /// How it is attached.
        attach_type: AttachType,
        /// Requirement for the second signal.
        requirement: Option<Requirement>,
    },
}

/// A requirement that not every kernel meets.
#[derive(Clone, Copy, Debug)]
pub struct Requirement {
    /// Whether the kernel meets it.
    pub is_met: fn(&Facts) -> bool,
    /// Text in `observer check` if it is not met. Without full stop.
    pub otherwise: &'static str,
}

/// One program.
#[derive(Clone, Copy, Debug)]
pub struct ProgramSpec {
    /// Name in the object.
    pub name: &'static str,
    /// The hook, as shown.
    pub hook: &'static str,
    /// How it is attached.
    pub attach: Attach,
    /// Whether the self-test makes it run, if it is on a function.
    pub self_tested: bool,
}

impl ProgramSpec {
    /// The type of hook.
    #[must_use]
    pub const fn attach_type(&self) -> AttachType {
        match self.attach {
            Attach::TpBtf { .. } => AttachType::TpBtf,
            Attach::Tracepoint { .. } | Attach::SyscallExit { .. } => AttachType::Tracepoint,
            Attach::Function { attach_type, .. } | Attach::Shared { attach_type, .. } => {
                attach_type
            }
            Attach::IterTaskFile | Attach::IterMapElem { .. } => AttachType::Iter,
        }
    }

    /// Whether it is attached to a kernel function.
    #[must_use]
    pub fn hooks_function(&self) -> bool {
        matches!(self.attach, Attach::Function { .. })
    }

    /// Whether it is attached for another signal.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self.attach, Attach::Shared { .. })
    }

    /// The same program, which the self-test does not make run.
    pub const fn without_self_test(mut self) -> Self {
        self.self_tested = false;
        self
    }
}

/// A variant to observe a signal: programs that are only useful together.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// Attached in this order.
    pub programs: &'static [ProgramSpec],
    /// `SIGNAL_` numbers that the variant counts.
    pub counts: &'static [u32],
    /// A remark on the variant, shown with its verdicts. Empty for none.
    pub remark: &'static str,
}

impl Variant {
    /// Whether kernel functions are hooked.
    #[must_use]
    pub fn hooks_functions(&self) -> bool {
        self.programs.iter().any(ProgramSpec::hooks_function)
    }

    /// The same variant with a remark.
    pub const fn remark(mut self, remark: &'static str) -> Self {
        self.remark = remark;
        self
    }
}

/// A signal and its variants, one of which is selected.
#[derive(Clone, Copy, Debug)]
pub struct FallbackChain {
    /// Label value.
    pub signal: &'static str,
    /// Whether the daemon requires the signal.
    pub required: bool,
    /// Best first.
    pub variants: &'static [Variant],
    /// The read-only globals of the signal's programs, and of other programs, that depend on the selection.
    pub globals: fn(&Selection<'_>) -> Vec<Global>,
    /// Sizes of the signal's maps, where they are not fixed.
    pub map_sizes: fn(&Selection<'_>) -> Vec<MapSize>,
}

impl FallbackChain {
    /// The same chain, without which nothing can be observed.
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// The same chain, which sets globals.
    pub const fn globals(mut self, globals: fn(&Selection<'_>) -> Vec<Global>) -> Self {
        self.globals = globals;
        self
    }

    /// The same chain, which sets the sizes of maps.
    pub const fn map_sizes(mut self, map_sizes: fn(&Selection<'_>) -> Vec<MapSize>) -> Self {
        self.map_sizes = map_sizes;
        self
    }
}

/// What the globals and map sizes of a fallback chain depend on.
pub struct Selection<'a> {
    /// The running kernel.
    pub facts: &'a Facts,
    /// The daemon's settings.
    pub options: &'a LoadOptions,
    /// The selected variant, `None` if none can be attached.
    pub variant: Option<&'a Variant>,
}

impl Selection<'_> {
    /// Whether the selected variant hooks kernel functions.
    pub fn hooks_functions(&self) -> bool {
        self.variant.is_some_and(Variant::hooks_functions)
    }
}

/// A read-only global of the programs. The verifier sees its value as a constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    /// Name in the object.
    pub name: &'static str,
    /// Its bytes, as many as the programs declare.
    pub value: Vec<u8>,
}

impl Global {
    /// A `u32`.
    pub fn u32(name: &'static str, value: u32) -> Self {
        Self {
            name,
            value: value.to_ne_bytes().to_vec(),
        }
    }

    /// A `u64`.
    pub fn u64(name: &'static str, value: u64) -> Self {
        Self {
            name,
            value: value.to_ne_bytes().to_vec(),
        }
    }

    /// A `u32` that is 1 when `value` is true, else 0.
    pub fn flag(name: &'static str, value: bool) -> Self {
        Self::u32(name, u32::from(value))
    }
}

/// The name of a map and its number of entries.
pub type MapSize = (&'static str, u32);

/// Maximum number of entries of one process in a map with `entries`. The rest is reserved for others.
pub const fn share_of_one(entries: u32) -> u32 {
    entries - entries / 8
}

/// Maximum number of entries without a process in a map with `entries`. With [`share_of_one`], it leaves a sixteenth.
pub const fn share_of_none(entries: u32) -> u32 {
    entries / 16
}

/// The label value of a `SIGNAL_` number.
pub const fn signal_name(signal: u32) -> &'static str {
    SIGNAL_NAMES[signal as usize]
}

const fn program(name: &'static str, hook: &'static str, attach: Attach) -> ProgramSpec {
    ProgramSpec {
        name,
        hook,
        attach,
        self_tested: true,
    }
}

/// A program on a BTF-typed tracepoint.
pub const fn tp_btf(
    name: &'static str,
    tracepoint: &'static str,
    args: &'static [&'static str],
) -> ProgramSpec {
    program(name, tracepoint, Attach::TpBtf { tracepoint, args })
}

/// The kernel skips programs on typed tracepoints when tasks preempt each other in them.
pub const TYPED_IS_SKIPPED: Requirement = Requirement {
    is_met: |facts| facts.skips == Skips::Tasks,
    otherwise: "before 7.0 the kernel does not preempt tp_btf, which costs less",
};

/// A program on a classic tracepoint, for kernels that skip programs on the typed one because of
/// other tasks. `hook` is `CATEGORY:EVENT`.
pub const fn tracepoint(
    name: &'static str,
    hook: &'static str,
    category: &'static str,
    event: &'static str,
    fields: &'static [(&'static str, u64)],
) -> ProgramSpec {
    let attach = Attach::Tracepoint {
        category,
        event,
        fields,
        requirement: TYPED_IS_SKIPPED,
    };
    program(name, hook, attach)
}

/// A program on the return of a system call: `hook` is `syscalls:sys_exit_CALL`, `event`
/// `sys_exit_CALL`.
pub const fn syscall_exit(
    name: &'static str,
    hook: &'static str,
    event: &'static str,
) -> ProgramSpec {
    program(name, hook, Attach::SyscallExit { event })
}

/// A program on a kernel function.
pub const fn function(
    name: &'static str,
    attach_type: AttachType,
    function: &'static str,
    args: &'static [&'static str],
) -> ProgramSpec {
    let attach = Attach::Function {
        attach_type,
        function,
        args,
    };
    program(name, function, attach)
}

/// A program of another signal that also counts this one.
pub const fn shared(of: ProgramSpec) -> ProgramSpec {
    let attach = Attach::Shared {
        attach_type: of.attach_type(),
        requirement: None,
    };
    program(of.name, of.hook, attach)
}

/// A program of another signal that also counts this one, if the kernel meets `requirement`.
pub const fn shared_if(of: ProgramSpec, requirement: Requirement) -> ProgramSpec {
    let attach = Attach::Shared {
        attach_type: of.attach_type(),
        requirement: Some(requirement),
    };
    program(of.name, of.hook, attach)
}

/// An iterator over open files.
pub const fn iter_task_file(name: &'static str) -> ProgramSpec {
    program(name, "task_file", Attach::IterTaskFile)
}

/// An iterator over the elements of a map.
pub const fn iter_map_elem(
    name: &'static str,
    map: &'static str,
    needs: &'static [&'static str],
) -> ProgramSpec {
    program(name, "bpf_map_elem", Attach::IterMapElem { map, needs })
}

/// A variant that counts the signals `counts`.
pub const fn variant(programs: &'static [ProgramSpec], counts: &'static [u32]) -> Variant {
    Variant {
        programs,
        counts,
        remark: "",
    }
}

/// A fallback chain that is not required and sets no globals.
pub const fn chain(signal: &'static str, variants: &'static [Variant]) -> FallbackChain {
    FallbackChain {
        signal,
        required: false,
        variants,
        globals: no_globals,
        map_sizes: no_map_sizes,
    }
}

fn no_globals(_: &Selection<'_>) -> Vec<Global> {
    Vec::new()
}

fn no_map_sizes(_: &Selection<'_>) -> Vec<MapSize> {
    Vec::new()
}

/// Whether the arguments that the kernel's tracepoint or function has begin with those a
/// program was written for.
///
/// # Errors
///
/// The difference, as a sentence without full stop.
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

#[cfg(test)]
mod tests {
    use super::*;

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
