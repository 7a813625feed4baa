//! One program and its hook: what is known to stand in the way, and attaching it.

use std::{fs, io, path::Path};

use aya::{
    Ebpf,
    programs::{BtfTracePoint, FEntry, FExit, Iter, KProbe, ProgramError, TracePoint},
};
use tracing::{debug, info, warn};

use super::Kernel;
use crate::contract::Rung;
use crate::kernel::{
    ladder::{Attach, ProgramSpec},
    programs::{TWINS, check_args},
};

/// Where the kernel offers kprobes to `perf_event_open` (`CONFIG_KPROBE_EVENTS`).
const KPROBES: &str = "/sys/bus/event_source/devices/kprobe";

impl Kernel {
    /// What is known to stand in the way of `program` before it is tried.
    pub(in crate::kernel) fn obstacle(&self, program: &ProgramSpec) -> Option<String> {
        match program.attach {
            Attach::TpBtf { tracepoint, args } => match self.args.get(tracepoint) {
                None => Some(format!("this kernel has no tracepoint {tracepoint}")),
                Some(found) => check_args(found, args).err(),
            },
            Attach::Function {
                rung,
                function,
                args,
            } => {
                let by_name = matches!(rung, Rung::Kprobe | Rung::Kretprobe);
                if by_name && !Path::new(KPROBES).exists() {
                    return Some("this kernel has no kprobes (CONFIG_KPROBE_EVENTS)".to_owned());
                }
                match self.args.get(function) {
                    // Static functions are not in the BTF of every kernel.
                    None if by_name && is_symbol(function) => None,
                    None => Some(format!("this kernel has no function {function}")),
                    Some(found) => check_args(found, args).err(),
                }
            }
            Attach::SyscallExit { event } => {
                let Some(tracefs) = &self.tracefs else {
                    return Some(
                        "tracefs is not mounted; mount -t tracefs tracefs /sys/kernel/tracing"
                            .to_owned(),
                    );
                };
                let format = tracefs.join("events/syscalls").join(event).join("format");
                match fs::metadata(&format) {
                    Ok(_) => None,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Some(format!(
                        "this kernel has no event syscalls:{event} (CONFIG_FTRACE_SYSCALLS)"
                    )),
                    Err(error) => Some(format!("cannot read {}: {error}", format.display())),
                }
            }
            Attach::IterMapElem { needs } => self.layout.lacks(needs),
            Attach::IterTaskFile | Attach::Shared { .. } => None,
        }
    }

    /// Loads and attaches `programs` in order. Returns those that the kernel refused; the
    /// rest need not be attached then.
    pub(in crate::kernel) fn attach_planned(
        &self,
        ebpf: &mut Ebpf,
        programs: &[&'static ProgramSpec],
    ) -> Vec<(&'static str, ProgramError)> {
        let mut refusals = Vec::new();
        // Kernels that refuse one hook on a function often refuse all of them. They come
        // first, so that little has been done in vain.
        let (functions, others): (Vec<_>, Vec<_>) = programs
            .iter()
            .partition(|program| matches!(program.attach, Attach::Function { .. }));
        for group in [functions, others] {
            for program in group {
                if let Err(error) = self.load_program(ebpf, program) {
                    refusals.push((program.name, error));
                }
            }
            if !refusals.is_empty() {
                return refusals;
            }
        }
        for program in programs {
            if let Err(error) = attach(ebpf, program) {
                refusals.push((program.name, error));
            }
        }
        refusals
    }

    fn load_program(&self, ebpf: &mut Ebpf, program: &ProgramSpec) -> Result<(), ProgramError> {
        let handle = ebpf
            .program_mut(program.name)
            .ok_or(ProgramError::NotLoaded)?;
        match program.attach {
            Attach::TpBtf { tracepoint, .. } => {
                <&mut BtfTracePoint>::try_from(handle)?.load(tracepoint, &self.btf)
            }
            Attach::SyscallExit { .. } => <&mut TracePoint>::try_from(handle)?.load(),
            Attach::IterTaskFile | Attach::IterMapElem { .. } => {
                <&mut Iter>::try_from(handle)?.load(program.hook, &self.btf)
            }
            Attach::Function { rung, function, .. } => match rung {
                Rung::Fentry => <&mut FEntry>::try_from(handle)?.load(function, &self.btf),
                Rung::Fexit => <&mut FExit>::try_from(handle)?.load(function, &self.btf),
                _ => <&mut KProbe>::try_from(handle)?.load(),
            },
            Attach::Shared { .. } => Ok(()),
        }
    }
}

fn attach(ebpf: &mut Ebpf, program: &ProgramSpec) -> Result<(), ProgramError> {
    let handle = ebpf
        .program_mut(program.name)
        .ok_or(ProgramError::NotLoaded)?;
    match program.attach {
        Attach::TpBtf { .. } => <&mut BtfTracePoint>::try_from(handle)?.attach().map(drop),
        Attach::SyscallExit { event } => <&mut TracePoint>::try_from(handle)?
            .attach("syscalls", event)
            .map(drop),
        Attach::Function { rung, function, .. } => match rung {
            Rung::Fentry => <&mut FEntry>::try_from(handle)?.attach().map(drop),
            Rung::Fexit => <&mut FExit>::try_from(handle)?.attach().map(drop),
            _ => <&mut KProbe>::try_from(handle)?
                .attach(function, 0)
                .map(drop),
        },
        // Attached each time it is read; loading it was the test.
        Attach::IterTaskFile | Attach::IterMapElem { .. } | Attach::Shared { .. } => Ok(()),
    }
}

/// Whether the kernel has a function of that name, in its BTF or not.
fn is_symbol(function: &str) -> bool {
    let Ok(symbols) = fs::read("/proc/kallsyms") else {
        // Trying will tell.
        return true;
    };
    symbols
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(u8::is_ascii_whitespace).nth(2))
        .any(|name| name == function.as_bytes())
}

pub(in crate::kernel) fn twin<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut BtfTracePoint, ProgramError> {
    ebpf.program_mut(name)
        .ok_or(ProgramError::NotLoaded)?
        .try_into()
}

/// Attaches the programs that make up for skipped runs, which [`Kernel::load`] has loaded.
/// Whether that worked is logged and returned.
pub(in crate::kernel) fn attach_twins(ebpf: &mut Ebpf) -> bool {
    let attached = TWINS
        .iter()
        .try_for_each(|(name, _)| twin(ebpf, name)?.attach().map(drop));
    match &attached {
        Ok(()) => info!("the kernel skips runs of busy programs; twins make up for them"),
        Err(error) => warn!(error = describe(error), "skipped runs are not made up for"),
    }
    attached.is_ok()
}

/// An error of loading or attaching, with the last words of the verifier.
pub(in crate::kernel) fn describe(error: &ProgramError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    if let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    {
        let log = verifier_log.to_string();
        let words: Vec<_> = log
            .lines()
            .filter(|line| {
                !line.trim().is_empty()
                    && !line.starts_with("processed ")
                    && !line.starts_with("stack depth")
                    && !line.starts_with("verification time")
            })
            .collect();
        text = format!("the kernel refused the program: {io_error}");
        if let Some(last) = words.last() {
            text = format!("{text} ({last})");
        }
        debug!(log, "verifier");
    }
    text
}
