//! Checks whether the daemon sees the same pids and times as the kernel programs: those of the initial namespaces.

use std::{fs, path::Path};

/// Inodes of the initial namespaces, the same on all kernels (`PROC_PID_INIT_INO` and
/// `PROC_TIME_INIT_INO` in include/linux/proc_ns.h).
const INITIAL: [(&str, u32); 2] = [("pid", 0xEFFF_FFFC), ("time", 0xEFFF_FFFA)];

/// Why the daemon cannot work in the namespaces that [`private`] returns, and the remedy.
pub const REMEDY: &str = "every process would count as gone: run the observer in the host's \
     namespaces (docker run --pid=host, hostPID: true)";

/// The namespaces, of pid and time, that this process does not share with the host. A namespace
/// that cannot be read counts as shared: time namespaces exist since 5.6.
#[must_use]
pub fn private(proc: &Path) -> Vec<&'static str> {
    let is_private = |(name, inode): &(&str, u32)| {
        let link = fs::read_link(proc.join("self/ns").join(name));
        link.is_ok_and(|link| link.as_os_str() != format!("{name}:[{inode}]").as_str())
    };
    let private = INITIAL.iter().filter(|it| is_private(it));
    private.map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn namespaces_other_than_the_initial_ones_are_named() {
        let proc = tempfile::tempdir().unwrap();
        assert!(private(proc.path()).is_empty());
        let directory = proc.path().join("self/ns");
        fs::create_dir_all(&directory).unwrap();
        symlink("pid:[4026531836]", directory.join("pid")).unwrap();
        symlink("time:[4026531834]", directory.join("time")).unwrap();
        assert!(private(proc.path()).is_empty());
        fs::remove_file(directory.join("pid")).unwrap();
        symlink("pid:[4026532200]", directory.join("pid")).unwrap();
        assert_eq!(private(proc.path()), ["pid"]);
    }
}
