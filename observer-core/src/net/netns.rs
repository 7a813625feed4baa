//! Network namespaces that have a process.

use std::{collections::BTreeMap, fs, io, os::unix::fs::MetadataExt as _};

use crate::process::{ProcError, ProcRoot, is_gone};

/// A network namespace that a process is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Inode number of /proc/PID/ns/net; what the kernel programs record, in 32 bits.
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

/// Looks at every process once: one stat(2) each, and thus something for a slow timer.
/// Threads that left the namespace of their process are not looked at.
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
