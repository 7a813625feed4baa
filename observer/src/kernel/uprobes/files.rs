//! The files that are probed, and those in which there is nothing to probe.
//!
//! A local user chooses which files a process maps and what is in them. So each file is opened once, looked at and
//! probed by that descriptor; it is read and not mapped, because a mapping of a file that is truncated raises SIGBUS;
//! and there are limits on the number of files.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, Metadata, OpenOptions},
    io::Read as _,
    os::{
        fd::AsRawFd as _,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use observer_common::TLS_LIBRARIES;
use observer_core::binaries::{self, Misfit, Tls};
use tracing::{debug, info, warn};

use super::{Links, Uprobes};

/// The most files that are known. Those of users other than root have at most half of them.
const MAX_FILES: usize = 1_024;
/// The most files that are probed, each by up to four descriptors. Likewise.
const MAX_PROBED: usize = 192;
/// The largest file that is read. Node has 100 MB.
const MAX_BYTES: u64 = 256 << 20;
/// How long a file stays probed that no process maps any more, if a process may map it again.
const UNUSED: Duration = Duration::from_secs(300);

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

/// A file of which the same layer may be mounted at several places (overlayfs): it has the same inode number at each,
/// and a probe set at one fires at all.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layer {
    inode: u64,
    bytes: u64,
    build_id: Vec<u8>,
}

struct Known {
    /// `None` if there is nothing to probe, or the file is a layer that is probed at another place.
    probed: Option<Probed>,
    /// Of a user other than root.
    of_user: bool,
    /// Where this program sees it, if it does: then it may be mapped again at any time.
    of_host: Option<PathBuf>,
    /// When a process was last known to map it.
    used: Instant,
}

struct Probed {
    /// Library and how its functions were found, if the file has one.
    tls: Option<(&'static str, &'static str)>,
    layer: Layer,
    _links: Vec<Links>,
}

/// The files that processes map.
pub struct Files {
    uprobes: Uprobes,
    known: HashMap<Contents, Known>,
    warned: bool,
}

impl Files {
    /// None yet.
    pub fn new(uprobes: Uprobes) -> Self {
        Self {
            uprobes,
            known: HashMap::new(),
            warned: false,
        }
    }

    /// Looks at the file at `path`, which a process maps that has it at `library` and with number `inode`, and probes it if
    /// there is something to probe and it is not yet probed.
    ///
    /// # Errors
    ///
    /// When it cannot be read or probed, or is another file by now.
    pub fn meet(
        &mut self,
        path: &Path,
        library: Option<&Path>,
        inode: u64,
    ) -> anyhow::Result<Contents> {
        // A FIFO or a device that the path may lead to by now must not block.
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)?;
        let metadata = file.metadata()?;
        anyhow::ensure!(metadata.is_file(), "not a regular file");
        anyhow::ensure!(metadata.ino() == inode, "another file is there by now");
        let contents = Contents::of(&metadata);
        if let Some(known) = self.known.get_mut(&contents) {
            known.used = Instant::now();
            return Ok(contents);
        }
        // Probes on contents that were overwritten in place would be at wrong instructions.
        self.known
            .retain(|it, _| (it.device, it.inode) != (contents.device, contents.inode));
        let of_user = metadata.uid() != 0;
        if !self.has_room(of_user, false) {
            return Ok(contents);
        }
        let probed = self.probe(&file, &contents, of_user)?;
        let at = library.map_or_else(|| fs::read_link(path).ok(), |it| Some(it.to_owned()));
        let of_host = at.filter(|at| is_at(at, &contents));
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

    fn probe(
        &mut self,
        file: &File,
        contents: &Contents,
        of_user: bool,
    ) -> anyhow::Result<Option<Probed>> {
        anyhow::ensure!(
            contents.bytes <= MAX_BYTES,
            "too large: {} bytes",
            contents.bytes
        );
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes)?;
        let misfit = |misfit: &Misfit| debug!(inode = contents.inode, %misfit, "not probed");
        let tls = binaries::tls(&bytes).inspect_err(misfit).ok().flatten();
        let quic = binaries::quic(&bytes).inspect_err(misfit).ok().flatten();
        if tls.is_none() && quic.is_none() {
            return Ok(None);
        }
        let layer = Layer {
            inode: contents.inode,
            bytes: contents.bytes,
            build_id: binaries::build_id(&bytes).to_vec(),
        };
        let mut probed = self.known.values().filter_map(|it| it.probed.as_ref());
        if probed.any(|it| it.layer == layer) || !self.has_room(of_user, true) {
            return Ok(None);
        }
        // By the descriptor, so that it is the file that was looked at.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut links = Vec::new();
        if let Some(found) = &tls {
            links.push(self.uprobes.attach(Path::new(&path), found)?);
            let (library, how) = names(found);
            let inode = contents.inode;
            info!(library, how, inode, "observing TLS handshakes");
        }
        if let Some(found) = &quic {
            links.push(self.uprobes.attach_quic(Path::new(&path), found)?);
            info!(inode = contents.inode, "observing quic-go");
        }
        Ok(Some(Probed {
            tls: tls.as_ref().map(names),
            layer,
            _links: links,
        }))
    }

    /// Forgets files that no process maps any more for a while, unless one may map them again: a probed file keeps its
    /// mount busy, and a deleted one its disk space. `mapped` are those of all running processes.
    pub fn forget_unused(&mut self, mapped: impl Iterator<Item = Contents>) {
        let now = Instant::now();
        for file in mapped {
            if let Some(known) = self.known.get_mut(&file) {
                known.used = now;
            }
        }
        self.known.retain(|contents, known| {
            let is_used = known.used.elapsed() < UNUSED;
            let is_there = || known.of_host.as_ref().is_some_and(|at| is_at(at, contents));
            is_used || (known.probed.is_some() && is_there())
        });
    }

    /// How many files are probed, by library and by how the functions were found.
    pub fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
        let mut counts = BTreeMap::new();
        for probed in self.known.values().filter_map(|it| it.probed.as_ref()) {
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
