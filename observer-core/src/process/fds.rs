//! Number of open file descriptors of a process, and its limits.

use std::{fs, io, path::Path};

use super::{
    ProcError, ProcRoot,
    identity::{Stat, parse_u64},
    root::is_gone,
};

/// How open descriptors are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FdMethod {
    /// One stat(2): since Linux 6.2 (`proc_readfd_count`) the size of /proc/PID/fd is the
    /// number of open descriptors. Needs no privilege.
    DirectorySize,
    /// Counting the entries of /proc/PID/fd. Needs CAP_SYS_PTRACE for other users'
    /// processes, and time in proportion to their number.
    DirectoryEntries,
}

impl FdMethod {
    /// Determines the method of the running kernel, with this process, which certainly has an open descriptor.
    #[must_use]
    pub fn detect(root: &ProcRoot) -> Self {
        // A directory of any other file system has a size too, one that means nothing.
        let held = fs::File::open(root.path());
        let size = fs::metadata(root.path().join("self/fd")).map_or(0, |meta| meta.len());
        if held.is_ok() && size > 0 && root.is_procfs() {
            Self::DirectorySize
        } else {
            Self::DirectoryEntries
        }
    }

    fn count(self, directory: &Path) -> io::Result<u64> {
        match self {
            Self::DirectorySize => fs::metadata(directory).map(|meta| meta.len()),
            Self::DirectoryEntries => {
                fs::read_dir(directory)?.try_fold(0, |count, entry| entry.map(|_| count + 1))
            }
        }
    }
}

/// The result of counting descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenFds {
    /// This many are open.
    Open(u64),
    /// The caller may not look.
    Denied,
    /// The process has ended.
    Gone,
}

/// Counts the open descriptors of the process that `stat` was read from, by name `pid`.
/// The caller checks afterwards that the pid was not reused.
///
/// # Errors
///
/// [`ProcError::Read`], for other reasons than missing permission.
pub fn count_open(
    root: &ProcRoot,
    pid: u32,
    stat: &Stat,
    method: FdMethod,
) -> Result<OpenFds, ProcError> {
    let mut path = root.process(pid);
    if stat.state == b'Z' && stat.threads > 1 {
        // An exited leader has let go of the table that its threads still use.
        match other_thread(&path, pid) {
            Some(thread) => path.extend(["task", &thread]),
            None => return Ok(OpenFds::Gone),
        }
    }
    path.push("fd");
    match method.count(&path) {
        Ok(count) => Ok(OpenFds::Open(count)),
        Err(error) if is_gone(&error) => Ok(OpenFds::Gone),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(OpenFds::Denied),
        Err(source) => Err(ProcError::Read { path, source }),
    }
}

pub(super) fn other_thread(process: &Path, pid: u32) -> Option<String> {
    let leader = pid.to_string();
    fs::read_dir(process.join("task"))
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|thread| *thread != leader)
}

/// The soft and the hard limit on open descriptors, which are one more than the highest descriptor
/// allowed, from the text of /proc/PID/limits (`proc_pid_limits` in fs/proc/base.c).
/// `u64::MAX` when unlimited.
///
/// # Errors
///
/// [`ProcError::Missing`] and [`ProcError::NotANumber`].
pub fn parse_max_open_files(bytes: &[u8]) -> Result<[u64; 2], ProcError> {
    const FILE: &str = "limits";
    const NAME: &str = "Max open files";
    let rest = bytes
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(NAME.as_bytes()))
        .ok_or_else(|| ProcError::missing(FILE, NAME))?;
    let mut fields = rest
        .split(u8::is_ascii_whitespace)
        .filter(|field| !field.is_empty());
    let mut limit = || {
        let field = fields
            .next()
            .ok_or_else(|| ProcError::missing(FILE, NAME))?;
        match field {
            b"unlimited" => Ok(u64::MAX),
            _ => parse_u64(field).ok_or_else(|| ProcError::not_a_number(FILE, NAME, field)),
        }
    };
    Ok([limit()?, limit()?])
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use proptest::prelude::*;

    use super::*;
    use crate::process::fixture::Fixture;

    const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max open files            1024                 524288               files     
Max locked memory         8388608              8388608              bytes     
";

    #[test]
    fn both_limits_are_read() {
        assert_eq!(
            parse_max_open_files(LIMITS.as_bytes()).unwrap(),
            [1024, 524_288]
        );
        let unlimited = LIMITS.replace("1024  ", "unlimited");
        assert_eq!(
            parse_max_open_files(unlimited.as_bytes()).unwrap(),
            [u64::MAX, 524_288]
        );
    }

    #[test]
    fn errors_name_the_field() {
        let missing = parse_max_open_files(b"Limit Soft\n").unwrap_err();
        assert_eq!(
            missing.to_string(),
            "limits: there is no field Max open files"
        );
        let bad = parse_max_open_files(b"Max open files   -1   0 files\n").unwrap_err();
        assert_eq!(
            bad.to_string(),
            "limits: field Max open files is not a number: \"-1\""
        );
    }

    const RUNNING: Stat = Stat {
        state: b'S',
        threads: 1,
        start_ticks: 0,
    };

    #[test]
    fn entries_are_counted() {
        let proc = Fixture::new();
        let root = proc.root();
        let method = FdMethod::detect(root);
        assert_eq!(method, FdMethod::DirectoryEntries);
        assert_eq!(
            count_open(root, 7, &RUNNING, method).unwrap(),
            OpenFds::Gone
        );
        proc.write(7, "fd/0", b"");
        proc.write(7, "fd/3", b"");
        assert_eq!(
            count_open(root, 7, &RUNNING, method).unwrap(),
            OpenFds::Open(2)
        );
    }

    #[test]
    fn an_exited_leader_is_counted_by_a_thread() {
        let proc = Fixture::new();
        proc.write(7, "task/7/comm", b"");
        proc.write(7, "task/9/fd/0", b"");
        let leader = Stat {
            state: b'Z',
            threads: 2,
            start_ticks: 0,
        };
        let open = count_open(proc.root(), 7, &leader, FdMethod::DirectoryEntries).unwrap();
        assert_eq!(open, OpenFds::Open(1));
    }

    struct Cat(Child);

    impl Drop for Cat {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn the_method_of_this_kernel_counts_the_entries_of_a_real_process() {
        let root = ProcRoot::default();
        // By the directory's size since 6.2.
        let method = FdMethod::detect(&root);
        // Not this process, whose descriptors other tests open and close meanwhile.
        let mut command = Command::new("cat");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let cat = Cat(command.spawn().unwrap());
        let count = |method| count_open(&root, cat.0.id(), &RUNNING, method).unwrap();
        // Its dynamic loader may still be opening libraries.
        let agreed = (0..4000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            let counted = count(method);
            // The three standard ones, and what it may have inherited.
            matches!(counted, OpenFds::Open(3..)) && counted == count(FdMethod::DirectoryEntries)
        });
        assert!(agreed, "{method:?}: {:?}", count(method));
    }

    #[test]
    fn the_own_limit_is_known() {
        let bytes = std::fs::read("/proc/self/limits").unwrap();
        let (soft, hard) =
            nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(parse_max_open_files(&bytes).unwrap(), [soft, hard]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = parse_max_open_files(&bytes);
            let _ = parse_max_open_files(&[b"Max open files ".as_slice(), &bytes].concat());
        }
    }
}
