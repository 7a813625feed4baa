//! What the kernel tells about a program in /proc/self/fdinfo.

use crate::contract::ProgramRuns;

/// Reads a program's run-time statistics from its fdinfo (`bpf_prog_show_fdinfo`).
pub(in crate::kernel) fn program_runs(program: &'static str, fdinfo: &str) -> Option<ProgramRuns> {
    Some(ProgramRuns {
        program,
        runs: field(fdinfo, "run_cnt")?,
        run_time_ns: field(fdinfo, "run_time_ns")?,
    })
}

/// A number of a fdinfo.
pub(in crate::kernel) fn field(fdinfo: &str, name: &str) -> Option<u64> {
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
