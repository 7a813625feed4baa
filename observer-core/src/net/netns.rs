//! Network namespaces that have a process.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant},
};

use crate::process::{ProcError, ProcRoot, is_gone};

/// A network namespace that a process is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Inode number of /proc/PID/ns/net; the kernel programs record it in 32 bits.
    pub inode: u64,
    /// A process in it: this one if it is, otherwise the lowest pid.
    pub pid: u32,
}

/// All network namespaces that have a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespaces {
    /// The one this process is in, if /proc shows it.
    pub own: Option<u64>,
    /// All, by inode number. A namespace that is only held by a mount (`ip netns add`) or
    /// by an open descriptor is not among them.
    pub found: Vec<Namespace>,
    /// Processes whose namespace could not be read because CAP_SYS_PTRACE is missing.
    pub denied: usize,
}

/// Reads every process once, with one stat(2) each, so call it rarely. Threads that left the
/// namespace of their process are ignored.
///
/// # Errors
///
/// [`ProcError::Read`] when the root cannot be listed.
pub fn enumerate(root: &ProcRoot) -> Result<Namespaces, ProcError> {
    let own = inode(&root.path().join("self")).ok().zip(
        fs::read_link(root.path().join("self"))
            .ok()
            .and_then(|pid| pid.to_str()?.parse().ok()),
    );
    let mut found = BTreeMap::new();
    if let Some((inode, pid)) = own {
        found.insert(inode, pid);
    }
    let mut denied = 0;
    let mut pids: Vec<u32> = root.pids()?.collect();
    pids.sort_unstable();
    for pid in pids {
        match inode(&root.process(pid)) {
            Ok(inode) => {
                found.entry(inode).or_insert(pid);
            }
            // It has ended, or is a zombie, which is in no namespace any more.
            Err(error) if is_gone(&error) => {}
            Err(_) => denied += 1,
        }
    }
    let found = found
        .into_iter()
        .map(|(inode, pid)| Namespace { inode, pid })
        .collect();
    Ok(Namespaces {
        own: own.map(|(inode, _)| inode),
        found,
        denied,
    })
}

/// Minimum interval between two searches for a process in each network namespace.
const SEARCH: Duration = Duration::from_secs(10);

/// A process in each network namespace, through which its files in /proc are read.
#[derive(Debug)]
pub struct Representatives {
    root: ProcRoot,
    pids: HashMap<u32, u32>,
    searched: Option<Instant>,
}

impl Representatives {
    /// None yet.
    #[must_use]
    pub fn new(root: ProcRoot) -> Self {
        Self {
            root,
            pids: HashMap::new(),
            searched: None,
        }
    }

    /// The /proc to read.
    #[must_use]
    pub fn root(&self) -> &ProcRoot {
        &self.root
    }

    /// A process in the network namespace `netns`. Tries `hint` first, then the process found
    /// before; then reads all processes, unless that was done within the last 10 s.
    pub fn process_in(&mut self, netns: u32, hint: Option<u32>, now: Instant) -> Option<u32> {
        let root = &self.root;
        let is_in = |pid: &u32| of_process(root, *pid) == Some(netns);
        let known = hint.into_iter().chain(self.pids.get(&netns).copied());
        if let Some(pid) = known.into_iter().find(is_in) {
            return Some(pid);
        }
        let searched = self.searched;
        if searched.is_some_and(|at| now.saturating_duration_since(at) < SEARCH) {
            return None;
        }
        self.searched = Some(now);
        self.pids = enumerate(&self.root)
            .ok()?
            .found
            .iter()
            .map(|found| (found.inode as u32, found.pid))
            .collect();
        self.pids.get(&netns).copied()
    }
}

/// The network namespace of a process, as the kernel programs record it; `None` if it has ended or CAP_SYS_PTRACE is
/// missing.
#[must_use]
pub fn of_process(root: &ProcRoot, pid: u32) -> Option<u32> {
    inode(&root.process(pid)).ok().map(|inode| inode as u32)
}

fn inode(process: &std::path::Path) -> io::Result<u64> {
    // Follows the link, whose target is the namespace itself.
    fs::metadata(process.join("ns/net")).map(|meta| meta.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fixture::Fixture;

    #[test]
    fn one_process_stands_for_each_namespace() {
        let proc = Fixture::new();
        let first = proc.write(9, "ns/net", b"");
        let second = proc.write(20, "ns/net", b"");
        proc.write(5, "comm", b"");
        for (pid, namespace) in [(7, &first), (30, &second)] {
            let link = proc.write(pid, "ns/dir", b"").with_file_name("net");
            fs::hard_link(namespace, link).unwrap();
        }
        let namespaces = enumerate(proc.root()).unwrap();
        let mut pids: Vec<_> = namespaces.found.iter().map(|found| found.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [7, 20]);
        assert_eq!((namespaces.own, namespaces.denied), (None, 0));

        std::os::unix::fs::symlink("30", proc.root().path().join("self")).unwrap();
        let namespaces = enumerate(proc.root()).unwrap();
        let own = fs::metadata(&second).unwrap().ino();
        assert_eq!(namespaces.own, Some(own));
        assert!(namespaces.found.contains(&Namespace {
            inode: own,
            pid: 30
        }));
    }

    #[test]
    fn a_process_that_is_gone_is_replaced_after_a_while() {
        let proc = Fixture::new();
        let namespace = proc.write(9, "ns/net", b"");
        let netns = fs::metadata(&namespace).unwrap().ino() as u32;
        let link = proc.write(20, "ns/dir", b"").with_file_name("net");
        fs::hard_link(&namespace, link).unwrap();
        let mut processes = Representatives::new(proc.root().clone());
        let start = Instant::now();
        assert_eq!(processes.process_in(netns, None, start), Some(9));
        assert_eq!(processes.process_in(netns, Some(20), start), Some(20));
        fs::remove_file(namespace).unwrap();
        assert_eq!(processes.process_in(netns, None, start), None);
        let later = start + SEARCH;
        assert_eq!(processes.process_in(netns, None, later), Some(20));
    }

    #[test]
    fn the_own_namespace_is_found() {
        let namespaces = enumerate(&ProcRoot::default()).unwrap();
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert_eq!(namespaces.own, Some(own));
        assert!(namespaces.found.contains(&Namespace {
            inode: own,
            pid: std::process::id()
        }));
    }
}
