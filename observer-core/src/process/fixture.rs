//! A directory that looks like /proc to the readers under test.

use std::{fs, path::PathBuf};

use super::ProcRoot;

pub(crate) struct Fixture {
    root: ProcRoot,
    // Removed on drop.
    _directory: tempfile::TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            root: ProcRoot::new(directory.path()),
            _directory: directory,
        }
    }

    pub(crate) fn root(&self) -> &ProcRoot {
        &self.root
    }

    pub(crate) fn write(&self, pid: u32, file: &str, bytes: &[u8]) -> PathBuf {
        let path = self.root.process(pid).join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A stat file with the fields that are read: state, threads and start time.
    pub(crate) fn write_stat(&self, pid: u32, state: char, threads: u32, start_ticks: u64) {
        let stat = format!(
            "{pid} (x) {state} 1 1 1 0 -1 4194304 101 0 0 0 0 0 0 0 20 0 {threads} 0 {start_ticks} \
             3133440 410 18446744073709551615\n"
        );
        self.write(pid, "stat", stat.as_bytes());
    }

    pub(crate) fn remove(&self, pid: u32) {
        fs::remove_dir_all(self.root.process(pid)).unwrap();
    }
}
