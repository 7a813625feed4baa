//! Loading and attaching programs.

use aya::{
    Btf, Ebpf,
    programs::{BtfTracePoint, FEntry, FExit, Iter, KProbe, ProgramError, TracePoint},
};
use tracing::debug;

use crate::kernel::hooks::spec::{Attach, AttachType, ProgramSpec};

/// Loads and attaches `programs` in order. Returns those that the kernel refused; the rest need
/// not be attached then.
pub fn load_and_attach(
    ebpf: &mut Ebpf,
    btf: &Btf,
    programs: &[&'static ProgramSpec],
) -> Vec<(&'static str, ProgramError)> {
    let mut refusals = Vec::new();
    // Kernels that refuse one hook on a function often refuse all of them. They are loaded first,
    // so that little is loaded in vain.
    let (functions, others): (Vec<_>, Vec<_>) = programs
        .iter()
        .partition(|program| program.hooks_function());
    for group in [functions, others] {
        for program in group {
            if let Err(error) = load(ebpf, btf, program) {
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

fn load(ebpf: &mut Ebpf, btf: &Btf, program: &ProgramSpec) -> Result<(), ProgramError> {
    let handle = ebpf
        .program_mut(program.name)
        .ok_or(ProgramError::NotLoaded)?;
    match program.attach {
        Attach::TpBtf { tracepoint, .. } => {
            <&mut BtfTracePoint>::try_from(handle)?.load(tracepoint, btf)
        }
        Attach::Tracepoint { .. } | Attach::SyscallExit { .. } => {
            <&mut TracePoint>::try_from(handle)?.load()
        }
        Attach::IterTaskFile | Attach::IterMapElem { .. } => {
            <&mut Iter>::try_from(handle)?.load(program.hook, btf)
        }
        Attach::Function {
            attach_type,
            function,
            ..
        } => match attach_type {
            AttachType::Fentry => <&mut FEntry>::try_from(handle)?.load(function, btf),
            AttachType::Fexit => <&mut FExit>::try_from(handle)?.load(function, btf),
            _ => <&mut KProbe>::try_from(handle)?.load(),
        },
        Attach::Shared { .. } => Ok(()),
    }
}

fn attach(ebpf: &mut Ebpf, program: &ProgramSpec) -> Result<(), ProgramError> {
    let handle = ebpf
        .program_mut(program.name)
        .ok_or(ProgramError::NotLoaded)?;
    match program.attach {
        Attach::TpBtf { .. } => <&mut BtfTracePoint>::try_from(handle)?.attach().map(drop),
        Attach::Tracepoint {
            category, event, ..
        } => <&mut TracePoint>::try_from(handle)?
            .attach(category, event)
            .map(drop),
        Attach::SyscallExit { event } => <&mut TracePoint>::try_from(handle)?
            .attach("syscalls", event)
            .map(drop),
        Attach::Function {
            attach_type,
            function,
            ..
        } => match attach_type {
            AttachType::Fentry => <&mut FEntry>::try_from(handle)?.attach().map(drop),
            AttachType::Fexit => <&mut FExit>::try_from(handle)?.attach().map(drop),
            _ => <&mut KProbe>::try_from(handle)?
                .attach(function, 0)
                .map(drop),
        },
        // Attached each time it is read; loading it was the test.
        Attach::IterTaskFile | Attach::IterMapElem { .. } | Attach::Shared { .. } => Ok(()),
    }
}

/// An error of loading or attaching, with the last line of the verifier's log.
pub fn describe(error: &ProgramError) -> String {
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
        let lines: Vec<_> = log
            .lines()
            .filter(|line| {
                !line.trim().is_empty()
                    && !line.starts_with("processed ")
                    && !line.starts_with("stack depth")
                    && !line.starts_with("verification time")
            })
            .collect();
        text = format!("the kernel refused the program: {io_error}");
        if let Some(last) = lines.last() {
            text = format!("{text} ({last})");
        }
        debug!(log, "verifier");
    }
    text
}
