//! Network namespaces: which are in use, and running code inside one.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    panic, thread,
};

use nix::sched::{CloneFlags, setns};

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
    /// Processes that could not be looked at for want of CAP_SYS_PTRACE.
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

/// Why code could not be run in another namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The process is gone, or was never there.
    #[error("process {pid} is gone")]
    Gone {
        /// Whose namespace it was to be.
        pid: u32,
    },
    /// Permission is missing.
    #[error(
        "no permission to enter the network namespace of process {pid}: needs CAP_SYS_PTRACE \
         to open it and CAP_SYS_ADMIN to enter it"
    )]
    NotPermitted {
        /// Whose namespace.
        pid: u32,
        /// EACCES of open(2) or EPERM of setns(2).
        #[source]
        source: io::Error,
    },
    /// Something else went wrong.
    #[error("cannot enter the network namespace of process {pid}")]
    Enter {
        /// Whose namespace.
        pid: u32,
        /// Of open(2), clone(2) or setns(2).
        #[source]
        source: io::Error,
    },
}

impl NetnsError {
    fn new(pid: u32, source: io::Error) -> Self {
        if is_gone(&source) {
            Self::Gone { pid }
        } else if source.kind() == io::ErrorKind::PermissionDenied {
            Self::NotPermitted { pid, source }
        } else {
            Self::Enter { pid, source }
        }
    }
}

/// Runs `f` in the network namespace of process `pid` and waits for it. If this thread is
/// in that namespace already, `f` runs right here; otherwise in a thread of its own, which
/// enters by setns(2) and ends afterwards, so that no other thread is touched.
///
/// A socket belongs to the namespace it was opened in: one that `f` returns goes on working
/// there, from any thread. It also keeps the namespace from being freed.
///
/// # Errors
///
/// [`NetnsError`]. A panic of `f` is passed on.
pub fn in_netns<T: Send>(
    root: &ProcRoot,
    pid: u32,
    f: impl FnOnce() -> T + Send,
) -> Result<T, NetnsError> {
    let error = |source| NetnsError::new(pid, source);
    let target = File::open(root.process(pid).join("ns/net")).map_err(error)?;
    let inode = target.metadata().map_err(error)?.ino();
    if fs::metadata("/proc/thread-self/ns/net").is_ok_and(|own| own.ino() == inode) {
        return Ok(f());
    }
    thread::scope(|scope| {
        let inside = move || {
            setns(&target, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
            Ok(f())
        };
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, inside)
            .map_err(error)?;
        match thread.join() {
            Ok(result) => result.map_err(error),
            Err(payload) => panic::resume_unwind(payload),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

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

    #[test]
    fn the_own_namespace_needs_no_thread() {
        let here = thread::current().id();
        let there = in_netns(&ProcRoot::default(), std::process::id(), || {
            thread::current().id()
        })
        .unwrap();
        assert_eq!(here, there);
    }

    #[test]
    fn errors_are_told_apart() {
        let proc = Fixture::new();
        let gone = in_netns(proc.root(), 7, || ()).unwrap_err();
        assert_eq!(gone.to_string(), "process 7 is gone");
        proc.write(7, "ns/net", b"");
        // No namespace: EINVAL.
        let enter = in_netns(proc.root(), 7, || ()).unwrap_err();
        assert!(
            matches!(enter, NetnsError::Enter { pid: 7, .. }),
            "{enter:?}"
        );
        let eperm = NetnsError::new(7, io::Error::from_raw_os_error(libc::EPERM));
        assert!(matches!(eperm, NetnsError::NotPermitted { .. }));
    }

    struct Unshared(Child);

    impl Drop for Unshared {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn another_namespace_is_entered_and_left() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root to make a network namespace");
            return;
        }
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let child = Unshared(command.spawn().unwrap());
        let root = ProcRoot::default();
        let pid = child.0.id();
        let own = fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
        let entered = (0..4000).any(|_| {
            thread::sleep(std::time::Duration::from_millis(5));
            let there = in_netns(&root, pid, || {
                fs::metadata("/proc/thread-self/ns/net").unwrap().ino()
            });
            there.is_ok_and(|there| there != own)
        });
        assert!(entered);
        assert_eq!(fs::metadata("/proc/thread-self/ns/net").unwrap().ino(), own);
        assert!(
            enumerate(&root)
                .unwrap()
                .found
                .iter()
                .any(|found| found.pid == pid)
        );
    }
}
