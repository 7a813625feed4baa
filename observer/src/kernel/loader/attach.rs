//! Loading and attaching programs.

use std::collections::HashSet;

use aya::{
    Btf, Ebpf,
    programs::{BtfTracePoint, FEntry, FExit, Iter, KProbe, Program, ProgramError, TracePoint},
};
use tracing::{debug, warn};

use super::plan::Plan;
use crate::kernel::{
    hooks::{
        spec::{Attach, AttachType, ProgramSpec},
        table,
    },
    iter::MapIter,
};

/// Loads the programs of `plan` that `wanted` selects and that are not loaded. Removes refused
/// programs from the plan and loads those that the plan selects instead, until the kernel refuses
/// none.
pub fn load_all(
    ebpf: &mut Ebpf,
    btf: &Btf,
    plan: &mut Plan,
    wanted: impl Fn(&ProgramSpec) -> bool,
) {
    let mut refused = true;
    while refused {
        refused = false;
        for program in plan.programs() {
            if !wanted(program) || is_loaded(ebpf, program) {
                continue;
            }
            if let Err(error) = load(ebpf, btf, program) {
                plan.refuse(program, describe(&error));
                refused = true;
            }
        }
    }
}

/// Attaches the programs of `plan` that `wanted` selects and that are not `attached`, in order; they
/// are loaded. Removes refused programs from the plan, and unloads those that the plan does not use.
/// Returns whether a program was refused.
pub fn attach_all(
    ebpf: &mut Ebpf,
    plan: &mut Plan,
    attached: &mut HashSet<&'static str>,
    wanted: fn(&ProgramSpec) -> bool,
) -> bool {
    let mut refused = false;
    for program in plan.programs() {
        if !wanted(program) || !attached.insert(program.name) {
            continue;
        }
        if let Err(error) = attach(ebpf, program) {
            plan.refuse(program, describe(&error));
            refused = true;
        }
    }
    let used: HashSet<_> = plan.programs().iter().map(|program| program.name).collect();
    for program in table::programs() {
        if !used.contains(program.name) && is_loaded(ebpf, program) {
            unload(ebpf, program);
        }
    }
    refused
}

fn is_loaded(ebpf: &Ebpf, program: &ProgramSpec) -> bool {
    let program = ebpf.program(program.name);
    program.is_some_and(|program| program.fd().is_ok())
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
        // What reads an iterator attaches it, after the variants were chosen. So this finds out
        // whether the kernel refuses it.
        Attach::IterTaskFile => {
            let iter = <&mut Iter>::try_from(handle)?;
            let link = iter.attach()?;
            iter.detach(link)
        }
        Attach::IterMapElem { .. } => MapIter::of(ebpf, program).map(drop),
        Attach::Shared { .. } => Ok(()),
    }
}

/// Detaches and unloads a program.
fn unload(ebpf: &mut Ebpf, program: &ProgramSpec) {
    let Some(handle) = ebpf.program_mut(program.name) else {
        return;
    };
    let result = match handle {
        Program::FEntry(program) => program.unload(),
        Program::FExit(program) => program.unload(),
        Program::KProbe(program) => program.unload(),
        Program::TracePoint(program) => program.unload(),
        Program::BtfTracePoint(program) => program.unload(),
        Program::Iter(program) => program.unload(),
        _ => Ok(()),
    };
    if let Err(error) = result {
        warn!(
            program = program.name,
            error = describe(&error),
            "cannot unload a program"
        );
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
