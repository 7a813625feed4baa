//! Cgroups of the tests.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use observer_core::process::cgroup_id::cgroup2_mount;

/// Directories below the cgroup2 mount; those that were made are removed on drop.
pub struct Cgroups {
    mount: PathBuf,
    made: Vec<PathBuf>,
}

impl Cgroups {
    /// `None` where there is no cgroup v2.
    pub fn new() -> Option<Self> {
        let mountinfo = fs::read("/proc/self/mountinfo").unwrap();
        let mount = cgroup2_mount(&mountinfo)?;
        Some(Self {
            mount,
            made: Vec::new(),
        })
    }

    /// The directory at this path, with those above it.
    pub fn make(&mut self, path: &str) -> PathBuf {
        let mut cgroup = self.mount.clone();
        for name in Path::new(path) {
            cgroup.push(name);
            if !cgroup.exists() {
                fs::create_dir(&cgroup).unwrap();
                self.made.push(cgroup.clone());
            }
        }
        cgroup
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for cgroup in self.made.iter().rev() {
            // A process that is being torn down may still be in it.
            for _ in 0..100 {
                if fs::remove_dir(cgroup).is_ok() {
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}
