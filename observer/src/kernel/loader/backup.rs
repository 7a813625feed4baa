//! Backup programs, which handle events for which the kernel skipped another program.

use aya::{
    Btf, Ebpf,
    programs::{BtfTracePoint, ProgramError},
};
use tracing::{info, warn};

use super::attach::describe;
use crate::kernel::hooks::state::BACKUP_PROGRAMS;

/// Loads the backup programs. An error is logged; the rest works without them.
pub fn load(ebpf: &mut Ebpf, btf: &Btf) {
    for backup in BACKUP_PROGRAMS {
        let loaded =
            program(ebpf, backup.name).and_then(|program| program.load(backup.tracepoint, btf));
        if let Err(error) = loaded {
            info!(
                name = backup.name,
                error = describe(&error),
                "cannot load a backup program; events on which the kernel skips a program are lost"
            );
        }
    }
}

/// Attaches the backup programs, which [`load`] has loaded. Logs and returns whether that succeeded.
pub fn attach(ebpf: &mut Ebpf) -> bool {
    let attached = BACKUP_PROGRAMS
        .iter()
        .try_for_each(|backup| program(ebpf, backup.name)?.attach().map(drop));
    match &attached {
        Ok(()) => info!("the kernel skips programs that are running; attached backup programs"),
        Err(error) => warn!(
            error = describe(error),
            "cannot attach the backup programs; events on which the kernel skips a program are lost"
        ),
    }
    attached.is_ok()
}

/// Whether the kernel skipped a program that has a backup program, given the number of skipped runs of each program in
/// `missed`.
pub fn is_needed(missed: &[(&'static str, u64)]) -> bool {
    missed.iter().any(|(name, runs)| {
        *runs > 0
            && BACKUP_PROGRAMS
                .iter()
                .any(|backup| backup.of.contains(name))
    })
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut BtfTracePoint, ProgramError> {
    ebpf.program_mut(name)
        .ok_or(ProgramError::NotLoaded)?
        .try_into()
}
