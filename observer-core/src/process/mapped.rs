//! Files whose code a process has mapped, of those that may contain a TLS library.

use std::{
    collections::{BTreeSet, HashSet},
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use super::ProcRoot;

/// Maximum number of bytes read from /proc/PID/maps: a line has about a hundred, and the libraries
/// of a process come before most later mappings.
const MAX_MAPS: u64 = 4 << 20;
/// The most files of one process.
const MAX_FILES: usize = 8;
/// File systems whose server may not answer: opening, reading or stat(2) of a file there may block indefinitely.
const REMOTE: [&str; 13] = [
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "gfs2", "gpfs", "lustre", "nfs", "nfs4",
    "ocfs2", "smb3",
];
/// The suffix that the kernel appends to the path of an unlinked file (`d_path`).
const DELETED: &[u8] = b" (deleted)";

/// Major and minor number.
type Device = (u32, u32);

/// A file that a process has mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedFile {
    /// Its path in the process's mount namespace; `None` for the executable.
    pub library: Option<PathBuf>,
    /// Inode number.
    pub inode: u64,
    /// Whether it is a library that has been deleted or replaced, and cannot be opened.
    pub deleted: bool,
}

impl MappedFile {
    /// The path to open it: through /proc/PID/root, because the process may have another root.
    #[must_use]
    pub fn path(&self, root: &ProcRoot, pid: u32) -> PathBuf {
        let process = root.process(pid);
        match &self.library {
            // An absolute path would replace the folder.
            Some(library) => process
                .join("root")
                .join(library.strip_prefix("/").unwrap_or(library)),
            None => process.join("exe"),
        }
    }
}

/// The executable of `pid`, and the libraries that are called like OpenSSL's or GnuTLS's, without those on remote file
/// systems. Looks at no file but those in /proc. The caller checks that the pid was not reused.
///
/// # Errors
///
/// When /proc/PID/maps cannot be read: the process has ended, or CAP_SYS_PTRACE is missing.
pub fn mapped_files(root: &ProcRoot, pid: u32) -> io::Result<Vec<MappedFile>> {
    let process = root.process(pid);
    let executable = fs::read_link(process.join("exe"))?;
    let maps = File::open(process.join("maps"))?;
    let mut maps = BufReader::with_capacity(1 << 16, maps.take(MAX_MAPS));
    let mut found: Vec<(Device, MappedFile)> = Vec::new();
    let mut line = Vec::new();
    while found.len() < MAX_FILES && maps.read_until(b'\n', &mut line)? > 0 {
        if let Some(file) = mapped(line.trim_ascii_end(), &executable)
            && !found.contains(&file)
        {
            found.push(file);
        }
        line.clear();
    }
    // Devices of a number of their own are local disks.
    let mut remote = HashSet::new();
    if found.iter().any(|(device, _)| device.0 == 0) {
        let mountinfo = root.read(pid, "mountinfo").map_err(io::Error::other)?;
        remote = remote_devices(&mountinfo.ok_or(io::ErrorKind::NotFound)?);
    }
    found.retain(|(device, _)| !remote.contains(device));
    Ok(found.into_iter().map(|(_, file)| file).collect())
}

/// OpenSSL's and GnuTLS's libraries where distributions install them, as this process would map them. Not those in
/// /usr/local, which may be on a file system of another host.
#[must_use]
pub fn system_libraries() -> Vec<MappedFile> {
    let folder = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    let usr_lib = Path::new("/usr/lib");
    let mut folders = vec![usr_lib.to_owned(), PathBuf::from("/usr/lib64")];
    // Debian's, one for each architecture.
    let of_architectures = folder(usr_lib).map(|entry| entry.path());
    folders.extend(
        of_architectures.filter(|path| path.as_os_str().as_bytes().ends_with(b"-linux-gnu")),
    );
    let entries = folders.iter().flat_map(|path| folder(path));
    let named = entries.filter(|entry| is_tls_library(entry.file_name().as_bytes()));
    // `libssl.so` is a link to `libssl.so.3`.
    let files: BTreeSet<_> = named
        .filter_map(|entry| entry.path().canonicalize().ok())
        .collect();
    let files = files.into_iter().filter_map(|path| {
        Some(MappedFile {
            inode: path.metadata().ok()?.ino(),
            library: Some(path),
            deleted: false,
        })
    });
    files.collect()
}

/// The file of a line of /proc/PID/maps (`show_map_vma` in fs/proc/task_mmu.c) and its device, if it is one of those and
/// its code is mapped: `START-END PERMISSIONS OFFSET DEVICE INODE PATH`. A path with a newline in it is escaped and is
/// not found.
fn mapped(line: &[u8], executable: &Path) -> Option<(Device, MappedFile)> {
    let at = line.iter().position(|byte| *byte == b'/')?;
    let (fields, path) = line.split_at(at);
    let mut fields = fields
        .split(|byte| *byte == b' ')
        .filter(|field| !field.is_empty());
    let permissions = fields.nth(1)?;
    let device = device(fields.nth(1)?, 16)?;
    let inode = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    if permissions.get(2) != Some(&b'x') {
        return None;
    }
    let file = |library: Option<&[u8]>, deleted| MappedFile {
        library: library.map(|path| Path::new(OsStr::from_bytes(path)).to_owned()),
        inode,
        deleted,
    };
    if path == executable.as_os_str().as_bytes() {
        return Some((device, file(None, false)));
    }
    let name = path.rsplit(|byte| *byte == b'/').next()?;
    let remaining = name.strip_suffix(DELETED);
    is_tls_library(remaining.unwrap_or(name))
        .then(|| (device, file(Some(path), remaining.is_some())))
}

/// `MAJOR:MINOR`, in hexadecimal digits in maps and in decimal ones in mountinfo.
fn device(text: &[u8], radix: u32) -> Option<Device> {
    let (major, minor) = std::str::from_utf8(text).ok()?.split_once(':')?;
    let number = |digits| u32::from_str_radix(digits, radix).ok();
    Some((number(major)?, number(minor)?))
}

/// The devices of remote file systems in a mountinfo: `ID PARENT DEVICE ROOT PLACE OPTIONS [FIELD...] - TYPE ...`. On some
/// local file systems (btrfs) the devices of files are others.
fn remote_devices(mountinfo: &[u8]) -> HashSet<Device> {
    let lines = mountinfo.split(|byte| *byte == b'\n');
    let devices = lines.filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let device = device(fields.nth(2)?, 10)?;
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        let kind = std::str::from_utf8(kind).ok()?;
        let is_remote = REMOTE.contains(&kind) || kind.starts_with("fuse");
        is_remote.then_some(device)
    });
    devices.collect()
}

/// Whether a library is called like those with TLS: `libssl.so.3`, `libgnutls.so.30`, and in a Python wheel
/// `libssl-8bd944e8.so.3`.
fn is_tls_library(name: &[u8]) -> bool {
    let rest = [&b"libssl"[..], b"libgnutls", b"libboringssl"]
        .iter()
        .find_map(|prefix| name.strip_prefix(*prefix));
    let Some(rest) = rest else { return false };
    let end = rest.windows(3).position(|it| it == b".so");
    end.is_some_and(|end| {
        let version = rest[..end].iter().chain(&rest[end + 3..]);
        version
            .into_iter()
            .all(|byte| byte.is_ascii_hexdigit() || b"-._".contains(byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_known_by_their_names() {
        for name in [
            "libssl.so.3",
            "libssl.so.1.1",
            "libssl-8bd944e8.so.3",
            "libssl3.so",
            "libgnutls.so.30.34.3",
        ] {
            assert!(is_tls_library(name.as_bytes()), "{name}");
        }
        for name in ["libsslcommon.so", "libc.so.6", "libssl.a", "ssl.so"] {
            assert!(!is_tls_library(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_line_has_the_path_last() {
        let executable = Path::new("/opt/my app/server");
        let line =
            b"7f1c12200000-7f1c12260000 r-xp 00020000 fe:1a 1234567  /opt/my app/libssl.so.3";
        let (device, file) = mapped(line, executable).unwrap();
        assert_eq!(device, (0xfe, 0x1a));
        let library = Path::new("/opt/my app/libssl.so.3");
        assert_eq!(file.library.as_deref(), Some(library));
        assert_eq!((file.inode, file.deleted), (1_234_567, false));
        let path = file.path(&ProcRoot::default(), 42);
        assert_eq!(path, Path::new("/proc/42/root/opt/my app/libssl.so.3"));
        let line = b"7f1c-7f1d r-xp 0 fe:01 12 /usr/lib/libssl.so.3 (deleted)";
        assert!(mapped(line, executable).unwrap().1.deleted);
        let line = b"7f1c-7f1d r-xp 0 fe:01 12 /opt/my app/server";
        let (_, file) = mapped(line, executable).unwrap();
        assert_eq!(file.library, None);
        assert_eq!(
            file.path(&ProcRoot::default(), 42),
            Path::new("/proc/42/exe")
        );
        for line in [
            &b""[..],
            b"/",
            b"7f1c-7f1d r--p 0 fe:01 12 /usr/lib/libssl.so.3",
            b"7f1c-7f1d r-xp 0 fe:01 no /usr/lib/libssl.so.3",
            b"7f1c-7f1d r-xp 0 fe 12 /usr/lib/libssl.so.3",
            b"7f1c-7f1d r-xp 0 fe:01 12 /usr/lib/libc.so.6",
            b"7f1c-7f1d r-xp 00000000 00:00 0 [vdso]",
        ] {
            assert_eq!(mapped(line, executable), None);
        }
    }

    #[test]
    fn remote_file_systems_are_left_out() {
        let mounts = b"22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n\
            30 22 0:26 / /mnt rw shared:9 master:2 - nfs4 server:/export rw\n\
            31 22 0:27 / /home/a/remote rw,nosuid - fuse.sshfs a@b: rw\n\
            32 22 0:28 / /run rw - tmpfs tmpfs rw\n\
            broken\n33 22 0:29 - nfs";
        let remote = remote_devices(mounts);
        assert_eq!(remote, [(0, 26), (0, 27), (0, 29)].into());
    }

    #[test]
    fn this_process_has_an_executable() {
        let files = mapped_files(&ProcRoot::default(), std::process::id()).unwrap();
        let mut executables = files.iter().filter(|it| it.library.is_none());
        let executable = executables.next().expect("the executable is mapped");
        assert_eq!(executables.next(), None);
        let path = executable.path(&ProcRoot::default(), std::process::id());
        assert!(path.exists());
    }
}
