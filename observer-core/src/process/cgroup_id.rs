//! Maps a cgroup v2 id, as the kernel programs record it, to the unit: for processes that exited
//! before the daemon read their /proc/PID/cgroup.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ffi::OsString,
    fs, io,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::{DirEntryExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{ProcError, ProcRoot, Unit, cgroup};

/// The most ids remembered as not to be found; when full, all are forgotten, which costs
/// one walk each at worst.
const MAX_MISSING: usize = 4096;

/// Limits of a walk over the cgroup tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkLimits {
    /// Maximum number of directories per walk, those nearest to the root first.
    pub directories: usize,
    /// The least time between two walks.
    pub interval: Duration,
}

impl Default for WalkLimits {
    fn default() -> Self {
        Self {
            directories: 16_384,
            interval: Duration::from_secs(5),
        }
    }
}

struct Known {
    unit: Unit,
    walk: u64,
}

/// Resolves cgroup v2 ids.
///
/// The id that `bpf_get_current_cgroup_id` returns is the inode number of the cgroup's directory
/// (`kernfs_ino` on 64-bit kernels) and is not reused within a boot. So a mapping stays valid after
/// the directory was removed, and an id that a walk did not find will never be found. A cgroup that
/// existed only between two walks stays unknown.
pub struct CgroupResolver {
    mount: PathBuf,
    limits: WalkLimits,
    known: HashMap<u64, Known>,
    missing: HashSet<u64>,
    walks: u64,
    walked_at: Option<Instant>,
    truncated: bool,
}

impl CgroupResolver {
    /// A resolver over the cgroup2 file system mounted at `mount`. Nothing is read yet.
    #[must_use]
    pub fn new(mount: PathBuf, limits: WalkLimits) -> Self {
        Self {
            mount,
            limits,
            known: HashMap::new(),
            missing: HashSet::new(),
            walks: 0,
            walked_at: None,
            truncated: false,
        }
    }

    /// A resolver over the cgroup2 mount that /proc/self/mountinfo names; `None` when there
    /// is none.
    ///
    /// # Errors
    ///
    /// As [`ProcRoot::read_global`].
    pub fn find(root: &ProcRoot, limits: WalkLimits) -> Result<Option<Self>, ProcError> {
        let mountinfo = root.read_global("self/mountinfo")?;
        Ok(cgroup2_mount(&mountinfo).map(|mount| Self::new(mount, limits)))
    }

    /// The unit of cgroup `id`, from the cache or from a walk over the tree if one is due at `now`.
    /// `None` if the cgroup was removed, or no walk was due yet.
    pub fn resolve(&mut self, id: u64, now: Instant) -> Option<&Unit> {
        if !self.known.contains_key(&id) {
            if id == 0 || self.missing.contains(&id) || !self.walk_is_due(now) {
                return None;
            }
            self.walk(now);
            if !self.known.contains_key(&id) {
                if self.missing.len() >= MAX_MISSING {
                    self.missing.clear();
                }
                self.missing.insert(id);
            }
        }
        self.known.get(&id).map(|known| &known.unit)
    }

    /// Walks the tree now, whether or not that is due; to be called once at the start, so
    /// that cgroups which end soon are known.
    pub fn walk(&mut self, now: Instant) {
        self.walked_at = Some(now);
        self.walks += 1;
        self.truncated = false;
        let Ok(root) = fs::metadata(&self.mount) else {
            return;
        };
        self.learn(root.ino(), Path::new(""));

        let mut left = self.limits.directories;
        let mut queue = VecDeque::from([PathBuf::new()]);
        while let Some(parent) = queue.pop_front() {
            for (name, id) in children(&self.mount.join(&parent)) {
                if left == 0 {
                    self.truncated = true;
                    break;
                }
                left -= 1;
                let path = parent.join(name);
                self.learn(id, &path);
                queue.push_back(path);
            }
            if self.truncated {
                break;
            }
        }
        self.forget();
    }

    /// Ids in the cache, including those of removed cgroups.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether the cache is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Whether the last walk found more directories than its limit.
    #[must_use]
    pub const fn truncated(&self) -> bool {
        self.truncated
    }

    fn walk_is_due(&self, now: Instant) -> bool {
        self.walked_at
            .is_none_or(|last| now.saturating_duration_since(last) >= self.limits.interval)
    }

    fn learn(&mut self, id: u64, path: &Path) {
        let walk = self.walks;
        self.known
            .entry(id)
            .and_modify(|known| known.walk = walk)
            .or_insert_with(|| Known {
                unit: cgroup::unit_from_path(path.as_os_str().as_bytes()),
                walk,
            });
    }

    /// Drops removed cgroups once they are more than the limit of a walk.
    fn forget(&mut self) {
        if self.known.len() > 2 * self.limits.directories.max(1) {
            let walk = self.walks;
            self.known.retain(|_, known| known.walk == walk);
        }
    }
}

/// The directories below `path` with their inode numbers, which readdir(3) returns for
/// kernfs without a stat of each. A directory removed meanwhile has none.
fn children(path: &Path) -> Vec<(OsString, u64)> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::debug!(path = %path.display(), %error, "cannot list cgroup");
            }
            return Vec::new();
        }
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| (entry.file_name(), entry.ino()))
        .collect()
}

/// The mount point of the cgroup v2 file system, from the text of /proc/PID/mountinfo
/// (proc_pid_mountinfo(5)). A mount of the whole hierarchy is preferred to one of a part.
#[must_use]
pub fn cgroup2_mount(mountinfo: &[u8]) -> Option<PathBuf> {
    let mut partial = None;
    for line in mountinfo.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b' ');
        let (Some(root), Some(mount)) = (fields.nth(3), fields.next()) else {
            continue;
        };
        // Mount options, then optional fields up to a lone hyphen.
        if fields.by_ref().skip(1).all(|field| field != b"-") || fields.next() != Some(b"cgroup2") {
            continue;
        }
        let path = PathBuf::from(OsString::from_vec(unescape(mount)));
        if root == b"/" {
            return Some(path);
        }
        partial.get_or_insert(path);
    }
    partial
}

/// Undoes `mangle_path` of fs/seq_file.c: space, tab, newline and backslash are written as
/// a backslash and three octal digits.
fn unescape(mut bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    while let Some((&first, rest)) = bytes.split_first() {
        bytes = rest;
        let octal = match rest {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if first == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        if octal.is_some() {
            bytes = &rest[3..];
        }
        plain.push(octal.unwrap_or(first));
    }
    plain
}

#[cfg(test)]
#[path = "cgroup_id_tests.rs"]
mod tests;
