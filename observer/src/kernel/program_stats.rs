//! Statistics of each attached program from /proc/self/fdinfo (`bpf_prog_show_fdinfo`).

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _, RawFd},
    sync::Mutex,
};

use aya::Ebpf;

use observer_core::{contract::ProgramRuns, sync::lock};

/// Statistics of programs, as of the last reading.
pub struct ProgramStats {
    /// Descriptors, which are valid for as long as the object is loaded.
    programs: Vec<(&'static str, RawFd)>,
    runs: Mutex<Vec<ProgramRuns>>,
    missed: Mutex<Vec<(&'static str, u64)>>,
}

impl ProgramStats {
    /// For the loaded programs among `names`, and for `others`.
    pub fn new(
        ebpf: &Ebpf,
        names: impl Iterator<Item = &'static str>,
        others: impl Iterator<Item = (&'static str, RawFd)>,
    ) -> Self {
        let fd = |name| {
            let fd = ebpf.program(name)?.fd().ok()?;
            Some((name, fd.as_fd().as_raw_fd()))
        };
        let this = Self {
            programs: names.filter_map(fd).chain(others).collect(),
            runs: Mutex::default(),
            missed: Mutex::default(),
        };
        this.read();
        this
    }

    /// Reads the statistics of each program: a file for each.
    pub fn read(&self) {
        let (mut runs, mut missed) = (Vec::new(), Vec::new());
        for &(program, fd) in &self.programs {
            let Ok(info) = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")) else {
                continue;
            };
            runs.extend(program_runs(program, &info));
            missed.extend(field(&info, "recursion_misses").map(|count| (program, count)));
        }
        // The kernel shows zeros while it does not keep statistics.
        if runs.iter().all(|program| program.runs == 0) {
            runs.clear();
        }
        *lock(&self.runs) = runs;
        *lock(&self.missed) = missed;
    }

    /// Run-time statistics; empty while the kernel does not keep them.
    pub fn runs(&self) -> Vec<ProgramRuns> {
        lock(&self.runs).clone()
    }

    /// Runs that the kernel skipped because the program was running on that CPU already
    /// (`recursion_misses`, since 5.12).
    pub fn missed(&self) -> Vec<(&'static str, u64)> {
        lock(&self.missed).clone()
    }
}

fn program_runs(program: &'static str, fdinfo: &str) -> Option<ProgramRuns> {
    Some(ProgramRuns {
        program,
        runs: field(fdinfo, "run_cnt")?,
        run_time_ns: field(fdinfo, "run_time_ns")?,
    })
}

fn field(fdinfo: &str, name: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key == name).then(|| value.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_statistics_are_read_from_fdinfo() {
        let text =
            "pos:\t0\nprog_type:\t26\nrun_time_ns:\t1234\nrun_cnt:\t7\nrecursion_misses:\t0\n";
        assert_eq!(
            program_runs("state_tp_btf", text),
            Some(ProgramRuns {
                program: "state_tp_btf",
                runs: 7,
                run_time_ns: 1234
            })
        );
        assert_eq!(program_runs("state_tp_btf", "pos:\t0\n"), None);
    }
}
