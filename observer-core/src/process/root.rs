//! The mount point of procfs, as a value, so that tests can use a directory instead.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};

/// The most bytes read of one file. The longest that is read is mountinfo, with some
/// hundred bytes per mount.
const MAX_FILE: u64 = 4 << 20;

/// Errors of reading files below /proc.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    /// The file could not be read, for another reason than the end of its process.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A field is not where the kernel puts it.
    #[error("{file}: there is no field {field}")]
    Missing {
        /// The file, without the part of the path that names the process.
        file: &'static str,
        /// The field.
        field: String,
    },
    /// A field is not a number, or out of range.
    #[error("{file}: field {field} is not a number: {value:?}")]
    NotANumber {
        /// The file, without the part of the path that names the process.
        file: &'static str,
        /// The field.
        field: String,
        /// Its text, shortened.
        value: String,
    },
}

impl ProcError {
    pub(crate) fn missing(file: &'static str, field: &str) -> Self {
        Self::Missing {
            file,
            field: field.to_owned(),
        }
    }

    pub(crate) fn not_a_number(file: &'static str, field: &str, value: &[u8]) -> Self {
        let value = &value[..value.len().min(32)];
        Self::NotANumber {
            file,
            field: field.to_owned(),
            value: String::from_utf8_lossy(value).into_owned(),
        }
    }
}

/// Whether an error means that the process has ended: opening a file of a reaped process returns
/// ENOENT, reading one that was opened before returns ESRCH, and opening one in `net` while its
/// network namespace is destroyed returns ENXIO (`seq_open_net`, fs/proc/proc_net.c).
pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENXIO))
}

/// Mount point of procfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcRoot(PathBuf);

impl Default for ProcRoot {
    /// `/proc`.
    fn default() -> Self {
        Self::new("/proc")
    }
}

impl ProcRoot {
    /// A root other than `/proc`: the host's, mounted into a container, or a fixture.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The mount point.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The directory of process `pid`.
    #[must_use]
    pub fn process(&self, pid: u32) -> PathBuf {
        self.0.join(pid.to_string())
    }

    /// Whether this is a procfs, as opposed to a fixture.
    #[must_use]
    pub fn is_procfs(&self) -> bool {
        statfs(&self.0).is_ok_and(|fs| fs.filesystem_type() == PROC_SUPER_MAGIC)
    }

    /// Reads `file` of process `pid`; `None` if the process has ended.
    ///
    /// # Errors
    ///
    /// [`ProcError::Read`]: most often EACCES, or EMFILE of the caller.
    pub fn read(&self, pid: u32, file: &str) -> Result<Option<Vec<u8>>, ProcError> {
        let path = self.process(pid).join(file);
        match read_bounded(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(source) => Err(ProcError::Read { path, source }),
        }
    }

    /// Reads a file that does not belong to a numbered process, such as `self/mountinfo`.
    ///
    /// # Errors
    ///
    /// [`ProcError::Read`].
    pub fn read_global(&self, file: &str) -> Result<Vec<u8>, ProcError> {
        let path = self.0.join(file);
        read_bounded(&path).map_err(|source| ProcError::Read { path, source })
    }

    /// The pids of all processes, in the order of the directory, which is ascending. A
    /// thread's id is not listed (`proc_pid_readdir`).
    ///
    /// # Errors
    ///
    /// [`ProcError::Read`].
    pub fn pids(&self) -> Result<impl Iterator<Item = u32>, ProcError> {
        let entries = std::fs::read_dir(&self.0).map_err(|source| ProcError::Read {
            path: self.0.clone(),
            source,
        })?;
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fixture::Fixture;

    #[test]
    fn a_vanished_process_is_none() {
        let proc = Fixture::new();
        assert!(proc.root().read(7, "comm").unwrap().is_none());
        proc.write(7, "comm", b"x\n");
        assert_eq!(proc.root().read(7, "comm").unwrap().unwrap(), b"x\n");
    }

    #[test]
    fn errors_name_the_file() {
        let proc = Fixture::new();
        proc.write(7, "comm/not-a-file", b"");
        let error = proc.root().read(7, "comm").unwrap_err();
        assert!(error.to_string().ends_with("/7/comm"), "{error}");
    }

    #[test]
    fn only_the_real_thing_is_procfs() {
        assert!(ProcRoot::default().is_procfs());
        assert!(!Fixture::new().root().is_procfs());
    }

    #[test]
    fn pids_are_the_numeric_names() {
        let proc = Fixture::new();
        proc.write(7, "comm", b"");
        proc.write(12, "comm", b"");
        std::fs::create_dir(proc.root().path().join("sys")).unwrap();
        let mut pids: Vec<_> = proc.root().pids().unwrap().collect();
        pids.sort_unstable();
        assert_eq!(pids, [7, 12]);
    }
}
