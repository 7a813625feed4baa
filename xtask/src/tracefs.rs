//! Mounts tracefs where it is missing.

use std::fs;

use crate::shell;

const PATH: &str = "/sys/kernel/tracing";

/// Tracepoints are looked up by name in tracefs, which minimal systems and containers
/// do not mount. A failure is a note and no error: the other hooks work without it,
/// and `observer check` names those that do not.
pub fn ensure() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if mounted(&mounts, PATH, "tracefs") {
        return;
    }
    eprintln!("note: tracefs is not mounted at {PATH}; mounting it for the tracepoints");
    let result = shell::as_root("mount").and_then(|mut mount| {
        let advice = "mount it by hand, or go on without tracepoints";
        shell::run(mount.args(["-t", "tracefs", "tracefs", PATH]), advice)
    });
    if let Err(error) = result {
        eprintln!("note: {error:#}");
    }
}

/// Whether `mounts`, in the format of /proc/mounts, has `kind` at `path`.
fn mounted(mounts: &str, path: &str, kind: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(path) && fields.next() == Some(kind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_matched_by_path_and_kind() {
        let mounts = "\
sysfs /sys sysfs rw 0 0
tracefs /sys/kernel/tracing tracefs rw,relatime 0 0
tmpfs /mnt/tracefs tmpfs rw 0 0
";
        assert!(mounted(mounts, "/sys/kernel/tracing", "tracefs"));
        assert!(!mounted(mounts, "/mnt/tracefs", "tracefs"));
        assert!(!mounted(mounts, "/sys/kernel", "tracefs"));
        assert!(!mounted("", "/sys/kernel/tracing", "tracefs"));
    }
}
