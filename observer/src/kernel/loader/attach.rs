//! Loading and attaching programs.

use std::collections::HashSet;

use aya::{
    Btf, Ebpf,
    programs::{BtfTracePoint, FEntry, FExit, Iter, KProbe, ProgramError, TracePoint},
};
use tracing::debug;

use super::plan::Plan;
use crate::kernel::hooks::spec::{Attach, AttachType, ProgramSpec};

/// Loads the programs of `plan` that `wanted` selects. What the kernel refuses is taken out of the
/// plan, and what the plan selects instead is loaded, until nothing is refused. Returns whether
/// anything was.
pub fn load_all(
    ebpf: &mut Ebpf,
    btf: &Btf,
    plan: &mut Plan,
    wanted: fn(&ProgramSpec) -> bool,
) -> bool {
    let mut loaded = HashSet::new();
    let mut any_refused = false;
    loop {
        let mut refused = false;
        for program in plan.programs() {
            if !wanted(program) || !loaded.insert(program.name) {
                continue;
            }
            if let Err(error) = load(ebpf, btf, program) {
                plan.refuse(program, describe(&error));
                refused = true;
            }
        }
        if !refused {
            return any_refused;
        }
        any_refused = true;
    }
}

/// Attaches the programs of `plan` in order; they are loaded. What the kernel refuses is taken out
/// of the plan. Returns whether it refused anything.
pub fn attach_all(ebpf: &mut Ebpf, plan: &mut Plan) -> bool {
    let mut refused = false;
    for program in plan.programs() {
        if let Err(error) = attach(ebpf, program) {
            plan.refuse(program, describe(&error));
            refused = true;
        }
    }
    refused
}

/// Loads one program.
pub fn load(ebpf: &mut Ebpf, btf: &Btf, program: &ProgramSpec) -> Result<(), ProgramError> {
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

/// Attaches one program, which is loaded.
pub fn attach(ebpf: &mut Ebpf, program: &ProgramSpec) -> Result<(), ProgramError> {
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
