//! The files that are probed, and those in which there is nothing to probe.
//!
//! A local user chooses which files a process maps and what is in them. So a file is looked at before it is opened,
//! and probed by the descriptor by which it was read; what matters of it is read, up to a limit, and not mapped, because
//! a mapping of a file that is truncated raises SIGBUS; the number of files has limits; and what is written to is not probed any more (`guard`).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File, Metadata, OpenOptions},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::sys::{
    resource::{Resource, getrlimit},
    statfs::{OVERLAYFS_SUPER_MAGIC, fstatfs},
};
use observer_common::TLS_LIBRARIES;
use observer_core::{
    binaries::{self, Bytes as _, Misfit, OnDisk, Tls},
    process::mapped::MappedFile,
};
use tracing::{debug, info, warn};

use super::{Uprobes, guard::Watch};

/// The most files that are known. Those of users other than root have at most half of them.
const MAX_FILES: usize = 1_024;
/// The most files that are probed, each by up to five descriptors. Likewise.
const MAX_PROBED: usize = 160;
/// The largest file that is looked at. Node has 100 MB.
const MAX_BYTES: u64 = 256 << 20;
/// How much of it is kept in memory meanwhile: headers, symbols, relocations, and the function table of a Go program, which
/// has a third of its bytes.
const MAX_READ: u64 = 96 << 20;
/// How long a file stays probed that no process maps any more, if a process may map it again.
const UNUSED: Duration = Duration::from_secs(300);
/// Where an ELF file begins.
const MAGIC: &[u8] = b"\x7fELF";

/// What identifies the contents of a file, as far as its metadata tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Contents {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Contents {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// A file of a layer that may be mounted at several places (overlayfs): a probe set at one fires at all. It has the same
/// metadata at each, apart from the device. Other files may have the same inode number: of layers on another file
/// system, and a file that was changed in a container (`ovl_copy_up`), which keeps the number, the size and the time
/// of modification if only its owner or mode was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layer {
    contents: Contents,
    /// Time of the last change of the inode.
    changed: (i64, i64),
    /// Of what is in it. Keyed, as users choose that.
    hash: u64,
}

impl Layer {
    fn of(metadata: &Metadata, file: &File, hasher: &RandomState) -> io::Result<Self> {
        let mut hasher = hasher.build_hasher();
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        // Its owner may let it grow meanwhile.
        while offset < metadata.size() {
            let read = file.read_at(&mut buffer, offset)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            hasher.write(&buffer[..read]);
            offset += read as u64;
        }
        Ok(Self {
            contents: Contents {
                device: 0,
                ..Contents::of(metadata)
            },
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            hash: hasher.finish(),
        })
    }
}

struct Known {
    /// `None` if there is nothing to probe, or the file is a layer that is probed at another place.
    probed: Option<Probed>,
    /// Of a user other than root.
    of_user: bool,
    /// Where this program sees it on the disk of the system, if it does: then it may be mapped again at any time.
    of_host: Option<PathBuf>,
    /// When a process was last known to map it.
    used: Instant,
}

struct Probed {
    tls: Option<(&'static str, &'static str)>,
    /// `None` if the file system has no layers.
    layer: Option<Layer>,
    watch: Watch,
}

/// The files that processes map.
pub struct Files {
    uprobes: Uprobes,
    known: HashMap<Contents, Known>,
    hasher: RandomState,
    /// Devices of the system's own programs and libraries. What is probed elsewhere keeps a mount busy.
    system: HashSet<u64>,
    /// Whether no further file is probed.
    closed: bool,
    /// Descriptors of probes that are perf events, one for each instruction, in files of root and of other users: a
    /// program of Go has as many as its functions have RETs, and its author decides on that. None is probed after the
    /// start, so these do not fall.
    descriptors: [usize; 2],
    /// The most. Half of it where a file belongs to a user other than root.
    max_descriptors: usize,
    warned: bool,
    warned_of_watches: bool,
}

impl Files {
    /// None yet. What is written to is detached by [`Guard::run`](super::Guard::run), which the caller runs.
    pub fn new(uprobes: Uprobes) -> Self {
        let system = ["/", "/usr"].map(|path| fs::metadata(path).map(|it| it.dev()));
        Self {
            uprobes,
            known: HashMap::new(),
            hasher: RandomState::new(),
            system: system.into_iter().filter_map(Result::ok).collect(),
            closed: false,
            descriptors: [0; 2],
            // Half is left for all else.
            max_descriptors: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| {
                usize::try_from(soft / 2).unwrap_or(usize::MAX)
            }),
            warned: false,
            warned_of_watches: false,
        }
    }

    /// Whether files can only be probed before privileges are dropped.
    pub fn only_at_start(&self) -> bool {
        self.uprobes.only_at_start()
    }

    /// Has no further file probed.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Looks at a file that a process maps, which can be opened at `path`, and probes it if there is something to
    /// probe and it is not yet probed.
    ///
    /// # Errors
    ///
    /// When it is another file by now, or cannot be looked at.
    pub fn meet(&mut self, path: &Path, mapped: &MappedFile) -> anyhow::Result<Contents> {
        if mapped.deleted {
            return self.meet_deleted(mapped.inode);
        }
        // Opened without effect: a FIFO or a device that the path may lead to by now must not be opened.
        let follow = if mapped.library.is_some() {
            libc::O_NOFOLLOW
        } else {
            0
        };
        let found = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | follow)
            .open(path)?;
        let metadata = found.metadata()?;
        anyhow::ensure!(metadata.is_file(), "not a regular file");
        anyhow::ensure!(
            metadata.ino() == mapped.inode,
            "another file is there by now"
        );
        let contents = Contents::of(&metadata);
        if let Some(known) = self.known.get_mut(&contents) {
            known.used = Instant::now();
            return Ok(contents);
        }
        // It was written to.
        let is_same = |it: &Contents| (it.device, it.inode) == (contents.device, contents.inode);
        self.forget(|it, _| is_same(it));
        let of_user = metadata.uid() != 0;
        if self.closed || !self.has_room(of_user, false) {
            return Ok(contents);
        }
        let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
        // What failed would fail again, at each look at each process that maps it.
        let probed = self
            .probe(&file, &metadata, of_user)
            .inspect_err(|error| {
                let error = format!("{error:#}");
                debug!(path = %path.display(), error, "not probed");
            })
            .unwrap_or_default();
        let seen_at = mapped.library.clone().or_else(|| fs::read_link(path).ok());
        let is_system = self.system.contains(&contents.device);
        let of_host = seen_at.filter(|at| is_system && is_at(at, &contents));
        self.known.insert(
            contents,
            Known {
                probed,
                of_user,
                of_host,
                used: Instant::now(),
            },
        );
        Ok(contents)
    }

    /// A library that was replaced while a process has it mapped stays probed.
    fn meet_deleted(&mut self, inode: u64) -> anyhow::Result<Contents> {
        let mut known = self.known.iter_mut();
        let same = known.find(|(it, known)| it.inode == inode && known.probed.is_some());
        let (contents, known) = same.ok_or_else(|| anyhow::anyhow!("deleted"))?;
        known.used = Instant::now();
        Ok(*contents)
    }

    /// Forgets files, and detaches what is attached to them.
    fn forget(&mut self, condition: impl Fn(&Contents, &Known) -> bool) {
        let mut layers = HashSet::new();
        self.known.retain(|contents, known| {
            let is_kept = !condition(contents, known);
            if !is_kept && known.probed.is_some() {
                layers.insert((contents.inode, contents.bytes));
            }
            is_kept
        });
        // The same layer at another place is to be probed there from now on.
        self.known.retain(|contents, known| {
            known.probed.is_some() || !layers.contains(&(contents.inode, contents.bytes))
        });
    }

    /// Whether another file may be known, or with `probed` may be probed.
    fn has_room(&mut self, of_user: bool, probed: bool) -> bool {
        let limit = if probed { MAX_PROBED } else { MAX_FILES };
        let counted = self
            .known
            .values()
            .filter(|it| !probed || it.probed.is_some());
        let (all, of_users) = counted.fold((0, 0), |(all, of_users), it| {
            (all + 1, of_users + usize::from(it.of_user))
        });
        let fits = all < limit && (!of_user || of_users < limit / 2);
        if !fits && !self.warned {
            self.warned = true;
            warn!(
                limit,
                "too many programs and libraries: TLS handshakes of further ones are not observed"
            );
        }
        fits
    }

    /// Reserves descriptors for probes that are perf events, if there is room.
    fn take_descriptors(&mut self, count: usize, of_user: bool) -> bool {
        let all = self.descriptors.iter().sum::<usize>() + count;
        let of_users = self.descriptors[1] + count;
        let fits =
            all <= self.max_descriptors && (!of_user || of_users <= self.max_descriptors / 2);
        if fits {
            self.descriptors[usize::from(of_user)] += count;
        }
        fits
    }

    fn probe(
        &mut self,
        file: &File,
        metadata: &Metadata,
        of_user: bool,
    ) -> anyhow::Result<Option<Probed>> {
        let contents = Contents::of(metadata);
        anyhow::ensure!(
            contents.bytes <= MAX_BYTES,
            "too large: {} bytes",
            contents.bytes
        );
        // Before it is read. Ends where nothing is probed.
        let watch = self.uprobes.guard().watch(file).inspect_err(|error| {
            if !std::mem::replace(&mut self.warned_of_watches, true) {
                warn!(
                    %error,
                    "files cannot be watched for writes (fs.inotify.max_user_watches): TLS handshakes of some programs \
                     are not observed"
                );
            }
        })?;
        let on_disk = OnDisk::new(file, contents.bytes, MAX_READ);
        if on_disk.range(0, MAGIC.len() as u64) != Some(MAGIC) {
            return Ok(None);
        }
        let misfit = |misfit: &Misfit| debug!(inode = contents.inode, %misfit, "not probed");
        let tls = binaries::tls(&on_disk).inspect_err(misfit).ok().flatten();
        let quic = binaries::quic(&on_disk).inspect_err(misfit).ok().flatten();
        if on_disk.is_beyond_limit() {
            debug!(
                inode = contents.inode,
                "too much of the file would have to be read"
            );
        }
        drop(on_disk);
        if tls.is_none() && quic.is_none() {
            return Ok(None);
        }
        // Snapshots of btrfs have inode numbers in common, too, and are files of their own to probes.
        let has_layers = fstatfs(file)?.filesystem_type() == OVERLAYFS_SUPER_MAGIC;
        let layer = has_layers
            .then(|| Layer::of(metadata, file, &self.hasher))
            .transpose()?;
        let mut probed = self.known.values().filter_map(|it| it.probed.as_ref());
        let is_probed = layer.is_some() && probed.any(|it| it.layer == layer);
        if is_probed || !self.has_room(of_user, true) {
            return Ok(None);
        }
        if self.only_at_start() {
            let descriptors =
                tls.as_ref().map_or(0, Tls::probes) + quic.as_ref().map_or(0, Vec::len);
            if !self.take_descriptors(descriptors, of_user) {
                warn!(
                    inode = contents.inode,
                    descriptors, "not probed: that takes too many descriptors (RLIMIT_NOFILE)"
                );
                return Ok(None);
            }
        }
        // By the descriptor, so that it is the file that was looked at.
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let inode = contents.inode;
        let failed =
            |what| move |error: &std::io::Error| warn!(inode, %error, "cannot probe {what}");
        let mut links = Vec::new();
        let mut names_of_tls = None;
        if let Some(found) = &tls {
            let attached = self.uprobes.attach(&path, found);
            if let Ok(attached) = attached.inspect_err(failed("a TLS library")) {
                links.push(attached);
                names_of_tls = Some(names(found));
            }
        }
        let mut has_quic = false;
        if let Some(found) = &quic {
            let attached = self.uprobes.attach_quic(&path, found);
            if let Ok(attached) = attached.inspect_err(failed("quic-go")) {
                links.push(attached);
                has_quic = true;
            }
        }
        if links.is_empty() || Contents::of(&file.metadata()?) != contents {
            return Ok(None);
        }
        watch.keep(links);
        if let Some((library, how)) = names_of_tls {
            info!(library, how, inode, "observing TLS handshakes");
        }
        if has_quic {
            info!(inode, "observing quic-go");
        }
        Ok(Some(Probed {
            tls: names_of_tls,
            layer,
            watch,
        }))
    }

    /// Forgets files that no process maps any more for a while, unless one may map them again: a probed file keeps its
    /// mount busy, and a deleted one its disk space. `mapped` are those of all running processes.
    pub fn forget_unused(&mut self, mapped: impl Iterator<Item = Contents>) {
        // It could not be probed again, and processes without sockets are not among those that are known.
        if self.closed {
            return;
        }
        let now = Instant::now();
        for file in mapped {
            if let Some(known) = self.known.get_mut(&file) {
                known.used = now;
            }
        }
        self.forget(|contents, known| {
            let is_there = || known.of_host.as_ref().is_some_and(|at| is_at(at, contents));
            known.used.elapsed() >= UNUSED && !(known.probed.is_some() && is_there())
        });
    }

    /// How many files are probed, by library and by how the functions were found.
    pub fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
        let mut counts = BTreeMap::new();
        let probed = self.known.values().filter_map(|it| it.probed.as_ref());
        for probed in probed.filter(|it| it.watch.holds()) {
            if let Some(found) = probed.tls {
                *counts.entry(found).or_default() += 1;
            }
        }
        let counts = counts.into_iter();
        counts
            .map(|((tls, how), count)| (tls, how, count))
            .collect()
    }
}

/// Whether this program sees the file at this path.
fn is_at(path: &Path, contents: &Contents) -> bool {
    path.metadata()
        .is_ok_and(|it| Contents::of(&it) == *contents)
}

fn names(tls: &Tls) -> (&'static str, &'static str) {
    let [openssl, gnutls, go] = TLS_LIBRARIES;
    match tls {
        Tls::OpenSsl { .. } => (openssl, "state_machine"),
        Tls::DoHandshake { .. } => (openssl, "symbol"),
        Tls::GnuTls { .. } => (gnutls, "symbol"),
        Tls::Go { .. } => (go, "pclntab"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Go's own linker writes no build ID, so the contents count.
    #[test]
    fn a_layer_is_known_by_what_is_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"one").unwrap();
        let metadata = path.metadata().unwrap();
        let hasher = RandomState::new();
        let layer = || Layer::of(&metadata, &File::open(&path).unwrap(), &hasher).unwrap();
        let one = layer();
        assert_eq!(one, layer());
        fs::write(&path, b"two").unwrap();
        assert_ne!(one, layer());
        let layer = one;
        // Not by the device, which is that of the mount.
        assert_eq!(layer.contents.device, 0);
        // As a copy of it has another.
        let mut copy = layer.clone();
        copy.changed.1 += 1;
        assert_ne!(layer, copy);
    }
}
