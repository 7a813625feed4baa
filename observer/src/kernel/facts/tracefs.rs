//! tracefs, through which classic tracepoints are found.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tracing::{info, warn};

const MOUNT_POINT: &str = "/sys/kernel/tracing";

/// A mount of tracefs, which ends when this is dropped.
#[derive(Debug)]
pub struct Mounted(());

impl Mounted {
    /// Lets the mount stay.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // MNT_DETACH, because another program may use it.
        if let Err(error) = umount2(MOUNT_POINT, MntFlags::MNT_DETACH) {
            warn!(%error, "cannot unmount {MOUNT_POINT}");
        }
    }
}

/// Mounts tracefs if it is not. Classic tracepoints are found through it; systemd mounts it on first
/// use, but a bare system or container may not have it.
#[must_use = "it is unmounted when this is dropped"]
pub fn mount_tracefs() -> Option<Mounted> {
    if find_tracefs().is_some() {
        return None;
    }
    let mounted = mount(
        Some("tracefs"),
        MOUNT_POINT,
        Some("tracefs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV,
        None::<&str>,
    );
    match mounted {
        Ok(()) => {
            info!("mounted tracefs on {MOUNT_POINT}");
            Some(Mounted(()))
        }
        Err(error) => {
            warn!(%error, "tracefs is not mounted and cannot be");
            None
        }
    }
}

/// The offset of `field` in the text of a tracepoint's `format` file.
#[must_use]
pub fn field_offset(format: &str, field: &str) -> Option<u64> {
    format.lines().find_map(|line| {
        let line = line.trim().strip_prefix("field:")?;
        let (declaration, rest) = line.split_once(';')?;
        let name = declaration.rsplit([' ', '*']).next()?;
        if name != field {
            return None;
        }
        let offset = rest.trim().strip_prefix("offset:")?;
        offset.split(';').next()?.trim().parse().ok()
    })
}

/// Where tracefs is mounted.
#[must_use]
pub fn find_tracefs() -> Option<PathBuf> {
    ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.join("events").is_dir())
}

/// Where `syscalls:sys_exit_*` events keep the return value: at 16, except where the common part
/// is longer (6.1 with PREEMPT_RT).
pub fn syscall_return_offset(tracefs: Option<&Path>) -> u64 {
    const USUAL: u64 = 16;
    tracefs
        .and_then(|dir| {
            fs::read_to_string(dir.join("events/syscalls/sys_exit_connect/format")).ok()
        })
        .and_then(|format| field_offset(&format, "ret"))
        .unwrap_or(USUAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: &str = "name: sys_exit_connect\nID: 1\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \tfield:int __syscall_nr;\toffset:8;\tsize:4;\tsigned:1;\n\
        \tfield:long ret;\toffset:24;\tsize:8;\tsigned:1;\n";

    #[test]
    fn the_return_value_is_found_where_the_format_says() {
        assert_eq!(field_offset(FORMAT, "ret"), Some(24));
        assert_eq!(field_offset(FORMAT, "__syscall_nr"), Some(8));
        assert_eq!(field_offset(FORMAT, "reticule"), None);
        assert_eq!(field_offset("field:long ret; offset:x;", "ret"), None);
        assert_eq!(field_offset("", "ret"), None);
    }
}
