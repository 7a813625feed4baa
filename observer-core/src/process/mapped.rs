//! Files whose code a process has mapped, of those that may contain a TLS library.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::ProcRoot;

/// The most bytes of /proc/PID/maps that are read: a line has some hundred, and the libraries of a process come
/// before most of what it maps later.
const MAX_MAPS: u64 = 4 << 20;
/// The most files of one process.
const MAX_FILES: usize = 8;

/// A file that a process has mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedFile {
    /// Where the process sees it; `None` for its executable.
    pub library: Option<PathBuf>,
    /// Inode number.
    pub inode: u64,
}

impl MappedFile {
    /// Where it can be opened: through the process, whose root may be another.
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

/// The executable of `pid`, and the libraries that are called like OpenSSL's or GnuTLS's. The caller checks that
/// the pid was not reused.
///
/// # Errors
///
/// When /proc/PID/maps cannot be read: the process is gone, or CAP_SYS_PTRACE is missing.
pub fn mapped_files(root: &ProcRoot, pid: u32) -> io::Result<Vec<MappedFile>> {
    let process = root.process(pid);
    let executable = process
        .join("exe")
        .metadata()
        .map(|it| std::os::unix::fs::MetadataExt::ino(&it));
    let mut files: Vec<_> = executable
        .map(|inode| MappedFile {
            library: None,
            inode,
        })
        .into_iter()
        .collect();
    let maps = File::open(process.join("maps"))?;
    let mut maps = BufReader::with_capacity(1 << 16, maps.take(MAX_MAPS));
    let mut line = Vec::new();
    while files.len() < MAX_FILES && maps.read_until(b'\n', &mut line)? > 0 {
        if let Some(file) = library(line.trim_ascii_end())
            && !files.contains(&file)
        {
            files.push(file);
        }
        line.clear();
    }
    Ok(files)
}

/// The library of a line of /proc/PID/maps (`show_map_vma` in fs/proc/task_mmu.c), if it is one whose code is
/// mapped: `START-END PERMISSIONS OFFSET DEVICE INODE PATH`. A path with a newline in it is escaped and is not found.
fn library(line: &[u8]) -> Option<MappedFile> {
    let at = line.iter().position(|byte| *byte == b'/')?;
    let (fields, path) = line.split_at(at);
    let mut fields = fields
        .split(|byte| *byte == b' ')
        .filter(|field| !field.is_empty());
    let permissions = fields.nth(1)?;
    let inode = std::str::from_utf8(fields.nth(2)?).ok()?.parse().ok()?;
    let path = Path::new(OsStr::from_bytes(path));
    let is_code = permissions.get(2) == Some(&b'x');
    // What was deleted (` (deleted)`) cannot be opened by its path.
    (is_code && is_tls_library(path.file_name()?.as_bytes())).then(|| MappedFile {
        library: Some(path.to_owned()),
        inode,
    })
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
        for name in [
            "libsslcommon.so",
            "libc.so.6",
            "libssl.a",
            "libssl.so.3 (deleted)",
            "ssl.so",
        ] {
            assert!(!is_tls_library(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_line_has_the_path_last() {
        let line =
            b"7f1c12200000-7f1c12260000 r-xp 00020000 fe:01 1234567  /opt/my app/libssl.so.3";
        let file = library(line).unwrap();
        assert_eq!(
            file.library.as_deref(),
            Some(Path::new("/opt/my app/libssl.so.3"))
        );
        assert_eq!(file.inode, 1_234_567);
        let path = file.path(&ProcRoot::default(), 42);
        assert_eq!(path, Path::new("/proc/42/root/opt/my app/libssl.so.3"));
        for line in [
            &b""[..],
            b"/",
            b"7f1c-7f1d r--p 0 fe:01 12 /usr/lib/libssl.so.3",
            b"7f1c-7f1d r-xp 0 fe:01 no /usr/lib/libssl.so.3",
            b"7f1c-7f1d r-xp 0 fe:01 12 /usr/lib/libssl.so.3 (deleted)",
            b"7f1c-7f1d r-xp 00000000 00:00 0 [vdso]",
        ] {
            assert_eq!(library(line), None);
        }
    }

    #[test]
    fn this_process_has_an_executable() {
        let files = mapped_files(&ProcRoot::default(), std::process::id()).unwrap();
        assert_eq!(files[0].library, None);
        assert!(
            files[0]
                .path(&ProcRoot::default(), std::process::id())
                .exists()
        );
    }
}
