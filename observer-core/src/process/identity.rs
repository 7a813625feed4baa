//! Whether a pid in /proc is the process that the kernel programs saw, and who that is.

use std::sync::OnceLock;

use nix::unistd::{SysconfVar, sysconf};
use observer_common::ProcessKey;

use super::{ProcError, ProcRoot, Unit, cgroup};

/// Identity of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Thread-group id in the initial pid namespace.
    pub pid: u32,
    /// Start of the process, `task_struct.start_boottime`, in nanoseconds since boot: that
    /// of the key it was looked up by.
    pub start_boottime_ns: u64,
    /// Name of the thread-group leader, at most 15 bytes (`TASK_COMM_LEN`) for a user
    /// process. Arbitrary bytes without NUL.
    pub comm: Vec<u8>,
    /// Systemd unit or container; see [`cgroup::unit_from_bytes`].
    pub unit: Unit,
}

/// The fields of /proc/PID/stat that are of use here; proc_pid_stat(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Field 3: state of the thread-group leader, `b'R'`, `b'S'`, `b'Z'`...
    pub state: u8,
    /// Field 20: number of threads, a leader that has exited and not been reaped included.
    pub threads: u64,
    /// Field 22: start time in clock ticks since boot.
    pub start_ticks: u64,
}

impl Stat {
    /// Parses the text of /proc/PID/stat (`do_task_stat` in fs/proc/array.c). Field 2, the
    /// comm, may hold any byte, a parenthesis and a newline included, so fields are counted
    /// from the last `)`: none of those after the comm can contain one.
    ///
    /// # Errors
    ///
    /// [`ProcError::Missing`] and [`ProcError::NotANumber`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ProcError> {
        const FILE: &str = "stat";
        let end = bytes
            .iter()
            .rposition(|&byte| byte == b')')
            .ok_or_else(|| ProcError::missing(FILE, "comm"))?;
        let mut fields = bytes[end + 1..]
            .split(u8::is_ascii_whitespace)
            .filter(|field| !field.is_empty());
        let state = fields
            .next()
            .ok_or_else(|| ProcError::missing(FILE, "state"))?;
        let mut number = |skip: usize, name: &str| {
            let field = fields
                .nth(skip)
                .ok_or_else(|| ProcError::missing(FILE, name))?;
            parse_u64(field).ok_or_else(|| ProcError::not_a_number(FILE, name, field))
        };
        // Fields 4 to 19 and field 21 are skipped.
        let threads = number(16, "num_threads")?;
        let start_ticks = number(1, "starttime")?;
        Ok(Self {
            state: state[0],
            threads,
            start_ticks,
        })
    }

    /// Reads it; `None` if the process has ended.
    ///
    /// # Errors
    ///
    /// As [`ProcRoot::read`] and [`Self::parse`].
    pub fn read(root: &ProcRoot, pid: u32) -> Result<Option<Self>, ProcError> {
        root.read(pid, "stat")?
            .map(|bytes| Self::parse(&bytes))
            .transpose()
    }

    /// Whether this is the process that `key` names, and not another that got its pid.
    #[must_use]
    pub fn is(&self, key: &ProcessKey) -> bool {
        self.start_ticks == start_ticks(key)
    }

    /// Whether all threads have exited and only the exit status is left. If the leader exits before
    /// its threads (pthread_exit(3) in main), the process continues.
    #[must_use]
    pub fn has_exited(&self) -> bool {
        match self.state {
            b'Z' => self.threads <= 1,
            b'X' | b'x' => true,
            _ => false,
        }
    }
}

pub(crate) fn parse_u64(bytes: &[u8]) -> Option<u64> {
    // `u64::from_str` takes a leading plus sign, which the kernel never writes.
    if bytes.first() == Some(&b'+') {
        return None;
    }
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// Clock ticks per second in /proc, `USER_HZ`: 100 on every architecture this runs on.
fn ticks_per_second() -> u64 {
    static TICKS: OnceLock<u64> = OnceLock::new();
    *TICKS.get_or_init(|| {
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten();
        ticks
            .and_then(|ticks| u64::try_from(ticks).ok())
            .filter(|&ticks| ticks > 0)
            .unwrap_or(100)
    })
}

/// The start time of `key` in the unit of /proc/PID/stat, rounded down as by
/// `nsec_to_clock_t` in kernel/time/time.c.
#[must_use]
pub fn start_ticks(key: &ProcessKey) -> u64 {
    let ticks = u128::from(key.start_boottime_ns) * u128::from(ticks_per_second()) / 1_000_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// Reads the identity of `key`: `None` if that process has ended, even if its pid was reused. A zombie still has an
/// identity.
///
/// # Errors
///
/// As [`ProcRoot::read`] and [`Stat::parse`].
pub fn identify(root: &ProcRoot, key: &ProcessKey) -> Result<Option<Identity>, ProcError> {
    let Some(comm) = root.read(key.tgid, "comm")? else {
        return Ok(None);
    };
    let Some(cgroup) = root.read(key.tgid, "cgroup")? else {
        return Ok(None);
    };
    // The start time is compared last: if the process still has the pid now, it also had it when the files above were read.
    match Stat::read(root, key.tgid)? {
        Some(stat) if stat.is(key) => {}
        _ => return Ok(None),
    }
    Ok(Some(Identity {
        pid: key.tgid,
        start_boottime_ns: key.start_boottime_ns,
        comm: without_newline(comm),
        unit: cgroup::unit_from_bytes(&cgroup),
    }))
}

/// Whether a process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It has exited.
    Gone,
    /// It runs; its current comm, if that was read.
    Alive(Option<Vec<u8>>),
}

/// Whether the process still runs, and its current comm: usually one read of /proc/PID/stat. A
/// zombie does not run; it has closed all its sockets.
///
/// If stat cannot be read or parsed for another reason than the end of the process, the process
/// counts as running: otherwise the caller would consider it ended if the caller itself runs out of
/// descriptors. With `hidepid=2` and without CAP_SYS_PTRACE, other users' processes appear ended.
#[must_use]
pub fn liveness(root: &ProcRoot, key: &ProcessKey) -> Liveness {
    let bytes = match root.read(key.tgid, "stat") {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Liveness::Gone,
        Err(_) => return Liveness::Alive(None),
    };
    match Stat::parse(&bytes) {
        Ok(stat) if stat.is(key) && !stat.has_exited() => {}
        Ok(_) => return Liveness::Gone,
        Err(_) => return Liveness::Alive(None),
    }
    let comm = comm_in(&bytes).map(<[u8]>::to_vec);
    // stat has a newline and a backslash escaped by a backslash (`proc_task_name` in
    // fs/proc/array.c).
    if comm.as_ref().is_none_or(|comm| comm.contains(&b'\\')) {
        let identity = identify(root, key).ok().flatten();
        return Liveness::Alive(identity.map(|identity| identity.comm));
    }
    Liveness::Alive(comm)
}

/// Field 2 of the text of /proc/PID/stat, without its parentheses.
fn comm_in(stat: &[u8]) -> Option<&[u8]> {
    let start = stat.iter().position(|&byte| byte == b'(')? + 1;
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    stat.get(start..end)
}

fn without_newline(mut comm: Vec<u8>) -> Vec<u8> {
    if comm.last() == Some(&b'\n') {
        comm.pop();
    }
    comm
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
