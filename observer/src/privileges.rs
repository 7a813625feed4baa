//! The daemon's privileges: checked before attaching, dropped afterwards.
//!
//! Capabilities, the no-new-privileges bit and the bounding set belong to a *thread*; new threads
//! inherit them. [`drop_capabilities`] therefore has to run on the main thread, after attaching and
//! **before the tokio runtime starts its workers**: build the runtime by hand after it, instead of
//! with `#[tokio::main]`. Afterwards it checks all threads of the process and fails if one has more
//! capabilities.

use std::{collections::HashSet, fmt, fs, io};

use caps::{CapSet, Capability};
use nix::{
    sys::{
        prctl,
        resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit},
    },
    unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid},
};
use serde::Serialize;

/// Kept after attaching. CAP_PERFMON is not among them: the verifier and `perf_event_open` check it
/// only when a program is loaded and attached.
pub const KEEP: [Capability; 3] = [
    // Without it, kernels before 5.19 refuse the whole of bpf(2), map look-ups and new
    // iterator instances included, where kernel.unprivileged_bpf_disabled is on ("bpf:
    // refine kernel.unprivileged_bpf_disabled behaviour" limited that to creating things).
    Capability::CAP_BPF,
    // readlink() of other users' /proc/PID/fd/N and reading /proc/PID/ns/net are ptrace
    // access checks (`ptrace_may_access`).
    Capability::CAP_SYS_PTRACE,
    // /proc/PID/fd is a directory of mode 0500 that belongs to the process's user.
    Capability::CAP_DAC_READ_SEARCH,
];

/// A capability that the daemon uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CapabilityStatus {
    /// `CAP_BPF`
    pub name: &'static str,
    /// In the effective set.
    pub held: bool,
    /// The daemon cannot run without it.
    pub required: bool,
    /// What it is for.
    pub purpose: &'static str,
}

/// Missing privileges, or errors in dropping them.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegesError {
    /// Missing capabilities.
    #[error("{}", missing_text(.0))]
    Missing(Vec<&'static str>),
    /// The thread's capabilities cannot be read.
    #[error("cannot read this thread's capabilities")]
    Read(#[source] caps::errors::CapsError),
    /// The kernel refused to drop them.
    #[error("cannot drop capabilities from the {set} set")]
    Drop {
        /// Which set.
        set: &'static str,
        /// Why.
        source: caps::errors::CapsError,
    },
    /// The no-new-privileges bit was refused.
    #[error("cannot set no_new_privs")]
    NoNewPrivs(#[source] nix::Error),
    /// The other threads cannot be listed.
    #[error("cannot read /proc/self/task")]
    Threads(#[source] io::Error),
    /// Older threads still have more capabilities.
    #[error("threads {0:?} still have capabilities")]
    LeftOut(Vec<i32>),
    /// The user of the setting `user` does not exist.
    #[error("there is no user {0}")]
    NoSuchUser(String),
    /// The uid or gid of that user is -1.
    #[error("{0} cannot be a user: the id {max} is no user's", max = u32::MAX)]
    NoUser(String),
    /// /etc/passwd cannot be read.
    #[error("cannot look up the user {name}")]
    LookUp {
        /// The user.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused to change the user.
    #[error("cannot become the user {name}; that takes CAP_SETUID and CAP_SETGID")]
    Become {
        /// The user.
        name: String,
        /// Why.
        source: nix::Error,
    },
}

fn missing_text(missing: &[&str]) -> String {
    // setcap and systemd need the full list, not only the missing capabilities.
    let [bpf, setcap] = if missing.contains(&"CAP_SYS_ADMIN") {
        ["CAP_SYS_ADMIN", "cap_sys_admin"]
    } else {
        ["CAP_BPF CAP_PERFMON", "cap_bpf,cap_perfmon"]
    };
    let program = std::env::current_exe()
        .map_or_else(|_| "observer".to_owned(), |path| path.display().to_string());
    format!(
        "missing capabilities: {list}\n\
         give them in one of three ways:\n  \
         as root:     sudo observer ...\n  \
         by systemd:  AmbientCapabilities={bpf} CAP_SYS_PTRACE CAP_DAC_READ_SEARCH\n  \
         by file:     setcap {setcap},cap_sys_ptrace,cap_dac_read_search+ep {program}",
        list = missing.join(", "),
    )
}

/// The relevant capabilities, and whether this thread has them. Being root is not sufficient: root
/// in a container usually has none of them.
///
/// # Errors
///
/// When the kernel does not return them.
pub fn capabilities() -> Result<Vec<CapabilityStatus>, PrivilegesError> {
    let held = caps::read(None, CapSet::Effective).map_err(PrivilegesError::Read)?;
    // By the kernel's features and not by its version, because distributions backport.
    let has_cap_bpf = caps::runtime::thread_all_supported().contains(&Capability::CAP_BPF);
    Ok(assess(&held, has_cap_bpf))
}

fn assess(held: &HashSet<Capability>, has_cap_bpf: bool) -> Vec<CapabilityStatus> {
    // `bpf_capable()` and `perfmon_capable()` take CAP_SYS_ADMIN for either.
    let admin = held.contains(&Capability::CAP_SYS_ADMIN);
    let has = |capability| held.contains(&capability);
    let row = |name, held, required, purpose| CapabilityStatus {
        name,
        held,
        required,
        purpose,
    };
    let mut rows = Vec::new();
    if has_cap_bpf {
        let bpf = admin || has(Capability::CAP_BPF);
        let perfmon = admin || has(Capability::CAP_PERFMON);
        rows.push(row(
            "CAP_BPF",
            bpf,
            true,
            "load programs, create and read maps",
        ));
        rows.push(row(
            "CAP_PERFMON",
            perfmon,
            true,
            "attach programs that read kernel memory",
        ));
    } else {
        rows.push(row(
            "CAP_SYS_ADMIN",
            admin,
            true,
            "load and attach programs (before 5.8)",
        ));
    }
    let ptrace = has(Capability::CAP_SYS_PTRACE);
    rows.push(row(
        "CAP_SYS_PTRACE",
        ptrace,
        false,
        "see whose descriptors are sockets",
    ));
    let search = has(Capability::CAP_DAC_READ_SEARCH) || has(Capability::CAP_DAC_OVERRIDE);
    let purpose = "list other users' descriptors, read tracefs";
    rows.push(row("CAP_DAC_READ_SEARCH", search, false, purpose));
    rows
}

/// Checks that this thread, root or not, has the required capabilities.
///
/// # Errors
///
/// When a capability is missing; the message names it and how to grant it.
pub fn is_root_or_capable() -> Result<(), PrivilegesError> {
    require(&capabilities()?)
}

fn require(capabilities: &[CapabilityStatus]) -> Result<(), PrivilegesError> {
    let missing: Vec<_> = capabilities
        .iter()
        .filter(|c| c.required && !c.held)
        .map(|c| c.name)
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(PrivilegesError::Missing(missing))
    }
}

/// The default user of a daemon that is started as root.
pub const DEFAULT_USER: &str = "observer";

/// The local users. getpwnam() would query other databases as well, but loads libraries for that,
/// which crashes a program that is linked statically with glibc.
const USERS: &str = "/etc/passwd";

/// The local groups.
const GROUPS: &str = "/etc/group";

/// The id of a group, given by name or by itself; `None` if there is no such group.
///
/// # Errors
///
/// When the groups cannot be read.
pub fn group_id(group: &str) -> io::Result<Option<u32>> {
    if let Ok(id) = group.parse() {
        return Ok(Some(id));
    }
    let groups = fs::read_to_string(GROUPS)?;
    Ok(groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        fields.next().filter(|name| *name == group)?;
        fields.nth(1)?.parse().ok()
    }))
}

/// The name of a group.
pub fn group_name(id: u32) -> Option<String> {
    let groups = fs::read_to_string(GROUPS).ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let its: u32 = fields.nth(1)?.parse().ok()?;
        (its == id).then(|| name.to_owned())
    })
}

/// A user to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    name: String,
    uid: Uid,
    gid: Gid,
}

impl Account {
    /// The user that the setting `user` names, by name or uid. Without it, [`DEFAULT_USER`] if this
    /// process is root and there is one. `None`: do not change the user.
    ///
    /// # Errors
    ///
    /// When there is no such user. A uid needs no entry in the user database.
    pub fn find(setting: Option<&str>) -> Result<Option<Self>, PrivilegesError> {
        let look_up = |name: &str| {
            let users = fs::read_to_string(USERS).map_err(|source| PrivilegesError::LookUp {
                name: name.to_owned(),
                source,
            })?;
            Ok(users.lines().find_map(|line| Self::parse(name, line)))
        };
        let Some(name) = setting else {
            // The daemon starts even if the user database cannot be read.
            let default = || look_up(DEFAULT_USER).ok().flatten();
            return Ok(geteuid().is_root().then(default).flatten());
        };
        if let Some(account) = look_up(name)? {
            return account.checked().map(Some);
        }
        let Ok(id) = name.parse() else {
            return Err(PrivilegesError::NoSuchUser(name.to_owned()));
        };
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        let name = name.to_owned();
        Self { name, uid, gid }.checked().map(Some)
    }

    /// For setresuid() and setresgid(), -1 is "do not change".
    fn checked(self) -> Result<Self, PrivilegesError> {
        let unchanged = u32::MAX;
        match self.uid.as_raw() == unchanged || self.gid.as_raw() == unchanged {
            true => Err(PrivilegesError::NoUser(self.name)),
            false => Ok(self),
        }
    }

    /// Its user id.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid.as_raw()
    }

    /// The id of its primary group.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.gid.as_raw()
    }

    /// The user `name`, if that is the one of this line of passwd(5).
    fn parse(name: &str, line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let found = fields.next().filter(|it| *it == name)?.to_owned();
        let mut ids = fields.skip(1).map(|id| id.parse().ok());
        let (uid, gid) = (ids.next()??, ids.next()??);
        Some(Self {
            name: found,
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
        })
    }

    /// Changes the ids of all threads and drops supplementary groups. Keeps the permitted capabilities of this thread.
    fn switch(&self) -> Result<(), PrivilegesError> {
        let Self { name, uid, gid } = self;
        let change = || {
            prctl::set_keepcaps(true)?;
            setgroups(&[])?;
            setresgid(*gid, *gid, *gid)?;
            setresuid(*uid, *uid, *uid)
        };
        change().map_err(|source| PrivilegesError::Become {
            name: name.clone(),
            source,
        })
    }
}

/// The result of [`drop_capabilities`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The remaining effective and permitted capabilities, by name and sorted.
    pub kept: Vec<String>,
    /// Whether the bounding set was reduced, too; that needs CAP_SETPCAP. Without it, no_new_privs prevents gaining
    /// capabilities.
    pub bounding: bool,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kept.is_empty() {
            f.write_str("kept none")?;
        } else {
            write!(f, "kept {}", self.kept.join(", "))?;
        }
        if !self.bounding {
            f.write_str("; the bounding set is unchanged, because that needs CAP_SETPCAP")?;
        }
        Ok(())
    }
}

/// Becomes `account`, drops every capability except `keep`, for this thread and those it will
/// start, and sets no_new_privs, so that programs executed later cannot regain them. The kept
/// capabilities are only in the effective and permitted sets.
///
/// # Errors
///
/// When the kernel refuses, or when older threads have more; the thread may then have dropped some of them.
pub fn drop_capabilities(
    keep: &[Capability],
    account: Option<&Account>,
) -> Result<Dropped, PrivilegesError> {
    let failed = |set| move |source| PrivilegesError::Drop { set, source };
    let permitted = caps::read(None, CapSet::Permitted).map_err(PrivilegesError::Read)?;
    let kept: HashSet<Capability> = permitted
        .intersection(&keep.iter().copied().collect())
        .copied()
        .collect();

    // The bounding set first, because changing it needs CAP_SETPCAP.
    let has_setpcap = caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)
        .map_err(PrivilegesError::Read)?;
    if has_setpcap {
        for capability in caps::runtime::thread_all_supported().difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability).map_err(failed("bounding"))?;
        }
    }
    if caps::runtime::ambient_set_supported().is_ok() {
        caps::clear(None, CapSet::Ambient).map_err(failed("ambient"))?;
    }
    prctl::set_no_new_privs().map_err(PrivilegesError::NoNewPrivs)?;
    if let Some(account) = account {
        account.switch()?;
    }
    // Effective before permitted, because it must be a subset at each step.
    caps::set(None, CapSet::Effective, &kept).map_err(failed("effective"))?;
    caps::set(None, CapSet::Permitted, &kept).map_err(failed("permitted"))?;
    caps::clear(None, CapSet::Inheritable).map_err(failed("inheritable"))?;

    let mut names: Vec<String> = kept.iter().map(ToString::to_string).collect();
    names.sort();
    let mask = kept
        .iter()
        .fold(0, |mask, capability| mask | capability.bitmask());
    let left_out = threads_beyond(mask).map_err(PrivilegesError::Threads)?;
    if !left_out.is_empty() {
        return Err(PrivilegesError::LeftOut(left_out));
    }
    Ok(Dropped {
        kept: names,
        bounding: has_setpcap,
    })
}

/// Threads of this process with permitted capabilities outside `mask`, by thread id.
fn threads_beyond(mask: u64) -> io::Result<Vec<i32>> {
    let mut beyond = Vec::new();
    for entry in fs::read_dir("/proc/self/task")? {
        let entry = entry?;
        let Some(thread) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // Ignore threads that have ended.
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else {
            continue;
        };
        if status_mask(&status, "CapPrm").is_none_or(|permitted| permitted & !mask != 0) {
            beyond.push(thread);
        }
    }
    beyond.sort_unstable();
    Ok(beyond)
}

fn status_mask(status: &str, field: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Raises the limit on locked memory as far as possible. BPF maps count against it before 5.11
/// only, so a failure is logged and not fatal.
pub fn raise_memlock() {
    let unlimited = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let Err(error) = unlimited else { return };
    let raised = getrlimit(Resource::RLIMIT_MEMLOCK)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard));
    tracing::debug!(%error, to_hard_limit = raised.is_ok(), "cannot lift the limit on locked memory");
}

#[cfg(test)]
#[path = "privileges_tests.rs"]
mod tests;
