//! Counts the open descriptors of a process by kind.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ffi::{CString, OsString},
    fs::{self, File},
    io::{self, BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use observer_common::{CLOSE_WAIT, LISTEN, state_name};

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
    /// connected or that the peer has reset, or one of a protocol that is not known here.
    IdleSocket,
    /// A socket of another family or protocol: the table that lists it, or would after bind().
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

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdPeer {
    /// Its address.
    pub address: IpAddr,
    /// The port connected to: the peer's, or the process's own if the peer is a client.
    pub port: u16,
    /// Whether the peer is a client: the local port is that of a listening socket.
    pub is_client: bool,
}

/// Numbers of descriptors by kind, of the [`LOOKED_AT`] newest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FdKinds {
    counts: BTreeMap<FdKind, u64>,
    /// Of TCP sockets in other states than CLOSE_WAIT.
    peers: BTreeMap<FdPeer, u64>,
}

impl FdKinds {
    /// From counts.
    #[must_use]
    pub fn new(counts: impl IntoIterator<Item = (FdKind, u64)>) -> Self {
        Self {
            counts: counts.into_iter().collect(),
            peers: BTreeMap::new(),
        }
    }

    /// The same with the peers of connections.
    #[must_use]
    pub fn with_peers(self, peers: impl IntoIterator<Item = (FdPeer, u64)>) -> Self {
        let peers = peers.into_iter().collect();
        Self { peers, ..self }
    }

    /// Looks at the descriptors of `pid`. The caller checks that the pid was not reused.
    ///
    /// # Errors
    ///
    /// When /proc/PID/fd cannot be read: the process has ended, or CAP_SYS_PTRACE is missing.
    pub fn read(root: &ProcRoot, pid: u32) -> io::Result<Self> {
        let mut process = root.process(pid);
        let mut directory = process.join("fd");
        let mut links = newest(&directory)?;
        // An exited leader has let go of the table that its threads still use.
        if links.is_empty()
            && let Some(thread) = other_thread(&process, pid)
        {
            process.extend(["task", &thread]);
            directory = process.join("fd");
            links = newest(&directory)?;
        }
        let mut kinds = Self::default();
        let mut sockets = HashMap::new();
        for (number, link) in links {
            let kind = match target(link.as_os_str().as_bytes()) {
                Target::Kind(kind) => kind,
                Target::Socket(inode) if sockets.insert(inode, number).is_none() => continue,
                Target::Socket(_) => FdKind::Duplicate,
            };
            *kinds.counts.entry(kind).or_default() += 1;
        }
        if !sockets.is_empty() {
            let known = Tables::read(&process, &sockets);
            for (inode, number) in sockets {
                let kind = known.kinds.get(&inode).cloned();
                let protocol = || protocol(&directory.join(number.to_string()));
                let kind = kind.or_else(|| protocol().map(FdKind::Socket));
                let kind = kind.unwrap_or(FdKind::IdleSocket);
                if let FdKind::Tcp(state) = kind
                    && state != state_name(CLOSE_WAIT).unwrap_or_default()
                    && let Some(peer) = known.peers.get(&inode)
                {
                    *kinds.peers.entry(*peer).or_default() += 1;
                }
                *kinds.counts.entry(kind).or_default() += 1;
            }
        }
        Ok(kinds)
    }

    /// What there is more of than at an earlier look; `None` if that one did not see all descriptors, so that more is a
    /// matter of which are the newest. Peers are left out, because they change.
    #[must_use]
    pub fn since(&self, before: &Self) -> Option<Self> {
        if before.count(|_| true) >= LOOKED_AT as u64 {
            return None;
        }
        let more = self.counts.iter().map(|(kind, count)| {
            let before = before.counts.get(kind).copied().unwrap_or_default();
            (kind.clone(), count.saturating_sub(before))
        });
        let more = Self::new(more.filter(|(_, count)| *count > 0));
        (!more.is_empty()).then_some(more)
    }

    /// The number of TCP sockets in other states than CLOSE_WAIT whose peer is a client.
    #[must_use]
    pub fn of_clients(&self) -> u64 {
        let of_clients = self.peers.iter().filter(|(peer, _)| peer.is_client);
        of_clients.map(|(_, count)| count).sum()
    }

    /// Kinds and their numbers, most first.
    #[must_use]
    pub fn most_first(&self) -> Vec<(&FdKind, u64)> {
        let counts = self.counts.iter();
        let mut all: Vec<_> = counts.map(|(kind, count)| (kind, *count)).collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all
    }

    /// The peers of TCP sockets in other states than CLOSE_WAIT, with the number of sockets, most first.
    #[must_use]
    pub fn peers(&self) -> Vec<(FdPeer, u64)> {
        let peers = self.peers.iter();
        let mut all: Vec<_> = peers.map(|(peer, count)| (*peer, *count)).collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The number of descriptors of kinds that `select` selects.
    pub fn count(&self, select: impl Fn(&FdKind) -> bool) -> u64 {
        let selected = self.counts.iter().filter(|(kind, _)| select(kind));
        selected.map(|(_, count)| count).sum()
    }
}

/// The descriptors with the highest numbers, and their link targets.
fn newest(directory: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let number = |name: OsString| name.to_str()?.parse::<u32>().ok();
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        numbers.extend(number(entry?.file_name()));
    }
    numbers.sort_unstable();
    let newest = numbers.iter().rev().take(LOOKED_AT);
    // One may have been closed meanwhile.
    let link = |number: &u32| fs::read_link(directory.join(number.to_string())).ok();
    let links = newest.filter_map(|number| Some((*number, link(number)?)));
    Ok(links.collect())
}

/// What sockets are in none of their tables before bind(), by the names of their protocols in the kernel, and those tables.
const PROTOCOLS: [(&[u8], &str); 8] = [
    (b"NETLINK", "netlink"),
    (b"UDP", "udp"),
    (b"UDPv6", "udp6"),
    (b"UNIX", "unix"),
    (b"UNIX-STREAM", "unix"),
    (b"PACKET", "packet"),
    (b"RAW", "raw"),
    (b"RAWv6", "raw6"),
];

/// The protocol of the socket of a descriptor, unless it is TCP or another one (`sockfs_xattr_get`).
fn protocol(descriptor: &Path) -> Option<&'static str> {
    let path = CString::new(descriptor.as_os_str().as_bytes()).ok()?;
    let mut name = [0_u8; 32];
    // SAFETY: both names end with a NUL, and the kernel writes at most the length of the buffer.
    let length = unsafe {
        libc::getxattr(
            path.as_ptr(),
            c"system.sockprotoname".as_ptr(),
            name.as_mut_ptr().cast(),
            name.len(),
        )
    };
    let name = name.get(..usize::try_from(length).ok()?)?;
    let name = name.split(|byte| *byte == 0).next()?;
    let known = PROTOCOLS.iter().find(|(it, _)| *it == name);
    known.map(|(_, table)| *table)
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
struct Tables {
    kinds: HashMap<u64, FdKind>,
    /// Of TCP sockets.
    peers: HashMap<u64, FdPeer>,
}

/// An end of a connection as in /proc/net/tcp (`get_tcp4_sock`, `get_tcp6_sock`): words of the address in the
/// processor's order, and the port.
fn end(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = address.get(8 * at..8 * (at + 1))?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    };
    let address = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.as_flattened().try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some((address, port))
}

/// The other end of the connection in a line of /proc/net/tcp. `listening` are the ports of listening sockets, whose
/// lines come first.
fn peer(line: &str, listening: &HashSet<u16>) -> Option<FdPeer> {
    let mut columns = line.split_ascii_whitespace().skip(1);
    let (_, local) = end(columns.next()?)?;
    let (address, port) = end(columns.next()?)?;
    let is_client = listening.contains(&local);
    (port != 0).then_some(FdPeer {
        address,
        port: if is_client { local } else { port },
        is_client,
    })
}

impl Tables {
    /// The kinds of some sockets of the process at `process`, by inode number, from the tables of its network namespace.
    fn read(process: &Path, wanted: &HashMap<u64, u32>) -> Self {
        let (mut kinds, mut peers) = (HashMap::new(), HashMap::new());
        let mut listening = HashSet::new();
        for (table, inode_at, state_at) in TABLES {
            let path = process.join("net").join(table);
            let read = each_line(&path, |line| {
                let column = |at| line.split_ascii_whitespace().nth(at);
                let state = state_at.and_then(|at| u8::from_str_radix(column(at)?, 16).ok());
                if state == Some(LISTEN) {
                    let local = column(1).and_then(end);
                    listening.extend(local.map(|(_, port)| port));
                }
                let inode = column(inode_at).and_then(|inode| inode.parse().ok());
                let Some(inode) = inode.filter(|inode| wanted.contains_key(inode)) else {
                    return;
                };
                if state.is_some() {
                    peers.extend(peer(line, &listening).map(|peer| (inode, peer)));
                }
                let state = state.and_then(state_name);
                let kind = state.map_or(FdKind::Socket(table), FdKind::Tcp);
                kinds.insert(inode, kind);
            });
            if let Err(error) = read
                && !is_gone(&error)
            {
                // A kernel without the protocol has no such table.
                tracing::debug!(%error, path = %path.display(), "cannot read a table of sockets");
            }
            if kinds.len() == wanted.len() {
                break;
            }
        }
        Self { kinds, peers }
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
