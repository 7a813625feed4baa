//! Counts the open descriptors of a process by kind.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ffi::OsString,
    fs::{self, File},
    io::{self, BufRead as _, BufReader},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use observer_common::state_name;

use super::{ProcRoot, fds::other_thread, is_gone};
use crate::text::sanitize;

/// Maximum number of descriptors that are read: those with the highest numbers. The kernel assigns
/// the lowest free number, so leaked descriptors have high ones.
pub const LOOKED_AT: usize = 256;

/// Maximum number of characters of a directory.
const DIRECTORY: usize = 64;

/// The kind of a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FdKind {
    /// A TCP socket, by the name of its state.
    Tcp(&'static str),
    /// A socket that is in none of the tables of its network namespace: a TCP socket that was never
    /// connected or that the peer has reset, or one of a protocol without such a table.
    IdleSocket,
    /// A socket of another family or protocol: the table that lists it.
    Socket(&'static str),
    /// A further descriptor of a socket: dup().
    Duplicate,
    /// An end of a pipe.
    Pipe,
    /// A file, by its directory.
    File {
        /// The directory, escaped.
        directory: String,
        /// Whether the file has been deleted.
        deleted: bool,
    },
    /// An anonymous inode, by its name: `eventfd`, `eventpoll`, `timerfd`...
    Anonymous(String),
}

impl FdKind {
    /// In words.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Tcp(state) => format!("TCP sockets in {state}"),
            Self::IdleSocket => "sockets without a connection".to_owned(),
            Self::Socket(table) => format!("{table} sockets"),
            Self::Duplicate => "further descriptors of the same sockets (dup())".to_owned(),
            Self::Pipe => "pipes".to_owned(),
            Self::File { directory, deleted } => {
                let deleted = if *deleted { "deleted " } else { "" };
                format!("{deleted}files in {directory}")
            }
            Self::Anonymous(name) => name.clone(),
        }
    }
}

/// Numbers of descriptors by kind, of the [`LOOKED_AT`] newest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FdKinds(BTreeMap<FdKind, u64>);

impl FdKinds {
    /// From counts.
    #[must_use]
    pub fn new(counts: impl IntoIterator<Item = (FdKind, u64)>) -> Self {
        Self(counts.into_iter().collect())
    }

    /// Looks at the descriptors of `pid`. The caller checks that the pid was not reused.
    ///
    /// # Errors
    ///
    /// When /proc/PID/fd cannot be read: the process has ended, or CAP_SYS_PTRACE is missing.
    pub fn read(root: &ProcRoot, pid: u32) -> io::Result<Self> {
        let mut process = root.process(pid);
        let mut links = newest(&process.join("fd"))?;
        // An exited leader has let go of the table that its threads still use.
        if links.is_empty()
            && let Some(thread) = other_thread(&process, pid)
        {
            process.extend(["task", &thread]);
            links = newest(&process.join("fd"))?;
        }
        let mut kinds = Self::default();
        let mut sockets = HashSet::new();
        for link in links {
            let kind = match target(link.as_os_str().as_bytes()) {
                Target::Kind(kind) => kind,
                Target::Socket(inode) if sockets.insert(inode) => continue,
                Target::Socket(_) => FdKind::Duplicate,
            };
            *kinds.0.entry(kind).or_default() += 1;
        }
        if !sockets.is_empty() {
            let known = Tables::read(&process, &sockets);
            for inode in sockets {
                let kind = known.0.get(&inode).cloned().unwrap_or(FdKind::IdleSocket);
                *kinds.0.entry(kind).or_default() += 1;
            }
        }
        Ok(kinds)
    }

    /// Kinds and their numbers, most first.
    #[must_use]
    pub fn most_first(&self) -> Vec<(&FdKind, u64)> {
        let mut all: Vec<_> = self.0.iter().map(|(kind, count)| (kind, *count)).collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of descriptors of kinds that `select` selects.
    pub fn count(&self, select: impl Fn(&FdKind) -> bool) -> u64 {
        let selected = self.0.iter().filter(|(kind, _)| select(kind));
        selected.map(|(_, count)| count).sum()
    }
}

/// Link targets of the descriptors with the highest numbers.
fn newest(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let number = |name: OsString| name.to_str()?.parse::<u32>().ok();
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        numbers.extend(number(entry?.file_name()));
    }
    numbers.sort_unstable();
    let newest = numbers.iter().rev().take(LOOKED_AT);
    // One may have been closed meanwhile.
    let links = newest.filter_map(|number| fs::read_link(directory.join(number.to_string())).ok());
    Ok(links.collect())
}

enum Target {
    Kind(FdKind),
    Socket(u64),
}

/// From the text of the link (`d_path`, and `dynamic_dname` of files without a path).
fn target(link: &[u8]) -> Target {
    let link = String::from_utf8_lossy(link);
    if let Some(inode) = link.strip_prefix("socket:[")
        && let Ok(inode) = inode.trim_end_matches(']').parse()
    {
        return Target::Socket(inode);
    }
    if link.starts_with("pipe:[") {
        return Target::Kind(FdKind::Pipe);
    }
    // `memfd_create` gives it a path.
    if link.starts_with("/memfd:") {
        return Target::Kind(FdKind::Anonymous("memfd".to_owned()));
    }
    if let Some(name) = link.strip_prefix("anon_inode:") {
        let name = name.trim_start_matches('[').trim_end_matches(']');
        return Target::Kind(FdKind::Anonymous(sanitize(name)));
    }
    let path = link.strip_suffix(" (deleted)");
    let deleted = path.is_some();
    let path = path.unwrap_or(&link);
    let Some((directory, _)) = path.rsplit_once('/') else {
        return Target::Kind(FdKind::Anonymous(sanitize(path)));
    };
    let mut directory = sanitize(if directory.is_empty() { "/" } else { directory });
    if let Some((end, _)) = directory.char_indices().nth(DIRECTORY) {
        directory.truncate(end);
        directory.push('…');
    }
    Target::Kind(FdKind::File { directory, deleted })
}

/// Tables in /proc/PID/net, and the columns of a socket's inode number and of its state.
const TABLES: [(&str, usize, Option<usize>); 10] = [
    ("tcp", 9, Some(3)),
    ("tcp6", 9, Some(3)),
    ("udp", 9, None),
    ("udp6", 9, None),
    ("unix", 6, None),
    ("raw", 9, None),
    ("raw6", 9, None),
    ("icmp", 9, None),
    ("packet", 8, None),
    ("netlink", 9, None),
];

/// Sockets by inode number.
struct Tables(HashMap<u64, FdKind>);

impl Tables {
    /// The kinds of some sockets of the process at `process`, from the tables of its network namespace.
    fn read(process: &Path, wanted: &HashSet<u64>) -> Self {
        let mut known = HashMap::new();
        for (table, inode_at, state_at) in TABLES {
            let path = process.join("net").join(table);
            let read = each_line(&path, |line| {
                let inode = line.split_ascii_whitespace().nth(inode_at);
                let Some(inode) = inode.and_then(|inode| inode.parse().ok()) else {
                    return;
                };
                if !wanted.contains(&inode) {
                    return;
                }
                let state = state_at.and_then(|at| {
                    let state = line.split_ascii_whitespace().nth(at)?;
                    state_name(u8::from_str_radix(state, 16).ok()?)
                });
                let kind = state.map_or(FdKind::Socket(table), FdKind::Tcp);
                known.insert(inode, kind);
            });
            if let Err(error) = read
                && !is_gone(&error)
            {
                // A kernel without the protocol has no such table.
                tracing::debug!(%error, path = %path.display(), "cannot read a table of sockets");
            }
            if known.len() == wanted.len() {
                break;
            }
        }
        Self(known)
    }
}

/// A table may have any number of lines.
fn each_line(path: &Path, mut visit: impl FnMut(&str)) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(64 << 10, File::open(path)?);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        // Names of Unix sockets are any bytes; they come last.
        visit(&String::from_utf8_lossy(&line));
        line.clear();
    }
    Ok(())
}

#[cfg(test)]
#[path = "fd_kinds_tests.rs"]
mod tests;
