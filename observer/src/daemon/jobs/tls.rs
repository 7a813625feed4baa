//! TLS handshakes: looks at which programs and libraries processes have mapped, has those with TLS probed, and reads the
//! handshakes that are in progress.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
use observer_common::{ProcessKey, SLOT_FIRST, TlsSeen};
use observer_core::{
    config::Settings,
    process::{
        ProcRoot,
        mapped::{MappedFile, mapped_files, system_libraries},
    },
    sync::write,
};
use tracing::{debug, info, warn};

use crate::{
    daemon::{
        scheduler::Job,
        shared::{Paced, Shared, timed},
    },
    kernel::{self, Attached, Contents, monotonic_ns},
};

/// Pauses between looks at a process: a program may load a library late, by a plug-in or at its first connection. The last
/// one repeats.
const LOOKS: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(120)];
/// First looks at processes are followed by a pause of this many times their CPU time: until then, the handshakes of
/// these are missed.
const PAUSE_OF_FIRST: u32 = 20;
/// The same for other looks: at most 1/1000 of a CPU.
const PAUSE: u32 = 1_000;
/// The most looks of either kind in a run.
const BATCH: usize = 64;
/// The longest pause after first looks.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a process without sockets is remembered.
const KEPT: Duration = Duration::from_secs(300);
/// Looks of a run begin within this time.
const BUDGET: Duration = Duration::from_secs(1);
/// Interval between two looks for files that nobody maps any more.
const FORGET: Duration = Duration::from_secs(60);

/// How long files are looked for at the start.
const AT_START: Duration = Duration::from_secs(10);

/// Where files can only be probed before privileges are dropped, probes those that are mapped now and the system's own
/// libraries, and no further ones.
pub fn look_at_start(tls: &kernel::Tls) {
    let mut files = tls.files();
    if !files.only_at_start() {
        return;
    }
    let root = ProcRoot::default();
    let start = Instant::now();
    let libraries = system_libraries().into_iter();
    let libraries = libraries.map(|file| (file.path(&root, std::process::id()), file));
    let pids = root
        .pids()
        .inspect_err(|error| debug!(%error, "cannot see the processes"));
    let mapped = pids.into_iter().flatten().flat_map(|pid| {
        let files = mapped_files(&root, pid).unwrap_or_default().into_iter();
        let path = |file: MappedFile| (file.path(&root, pid), file);
        files.map(path).collect::<Vec<_>>()
    });
    for (path, file) in libraries.chain(mapped) {
        if start.elapsed() >= AT_START {
            warn!(
                "looking at all programs takes too long: TLS handshakes of some are not observed"
            );
            break;
        }
        if let Err(error) = files.meet(&path, &file) {
            not_probed(&path, &error);
        }
    }
    files.close();
    info!(
        took = ?start.elapsed(),
        "probed the programs that run and the system's libraries; to observe TLS handshakes in others, restart observer"
    );
}

fn not_probed(path: &Path, error: &anyhow::Error) {
    let error = format!("{error:#}");
    debug!(path = %path.display(), error, "not probed");
}

/// What is known of a process.
struct Look {
    looks: usize,
    /// When the next one is.
    next: Instant,
    /// When it was last known to have a socket.
    seen: Instant,
    /// The files that it has mapped, of those that may contain a library.
    files: Vec<Contents>,
}

pub struct Tls {
    shared: Shared,
    root: ProcRoot,
    looks: HashMap<ProcessKey, Look>,
    first: Paced,
    other: Paced,
    forget: Paced,
    slow_after: Duration,
}

impl Tls {
    /// `tls` is that of `shared`.
    ///
    /// # Errors
    ///
    /// When the thread that detaches programs from files cannot be started.
    pub fn new(shared: Shared, tls: &kernel::Tls) -> std::io::Result<Self> {
        let guard = tls.guard();
        thread::Builder::new()
            .name("files".to_owned())
            .spawn(move || guard.run())?;
        Ok(Self {
            shared,
            root: ProcRoot::default(),
            looks: HashMap::new(),
            first: Paced::new(),
            other: Paced::new(),
            forget: Paced::new(),
            slow_after: Duration::ZERO,
        })
    }

    /// Looks at processes that are new, and at those that were looked at long ago.
    fn look(&mut self, tls: &kernel::Tls) {
        let now = Instant::now();
        let snapshot = self.shared.snapshot.borrow().clone();
        let mut running: HashSet<_> = snapshot.processes.iter().map(|it| it.key).collect();
        // QUIC has UDP sockets, of which no event gets a process into the table.
        running.extend(self.shared.live.udp_processes());
        for key in &running {
            if let Some(look) = self.looks.get_mut(key) {
                look.seen = now;
            }
        }
        // One that only has a UDP socket now and then, for names, is not new each time.
        self.looks
            .retain(|_, look| now.duration_since(look.seen) < KEPT);
        if self.first.is_due() {
            let new = running.iter().filter(|key| !self.looks.contains_key(key));
            let took = self.look_at(tls, new.take(BATCH).copied().collect(), now);
            self.first.pause((PAUSE_OF_FIRST * took).min(LONGEST_PAUSE));
        }
        if self.other.is_due() {
            let due = self
                .looks
                .iter()
                .filter(|(_, look)| look.seen == now && look.next <= now);
            let mut due: Vec<_> = due.map(|(key, look)| (look.next, *key)).collect();
            due.sort_unstable_by_key(|(next, _)| *next);
            let due = due.into_iter().take(BATCH).map(|(_, key)| key);
            let took = self.look_at(tls, due.collect(), now);
            self.other.pause(PAUSE * took);
        }
        if self.forget.is_due() {
            let running = self.looks.values().filter(|look| look.seen == now);
            let files = running.flat_map(|look| &look.files);
            tls.files().forget_unused(files.copied());
            self.forget.pause(FORGET);
        }
    }

    /// Looks at `processes`, and returns the CPU time that it took.
    fn look_at(&mut self, tls: &kernel::Tls, processes: Vec<ProcessKey>, now: Instant) -> Duration {
        let files = |key: &ProcessKey| {
            // Of a pid that was reused meanwhile, they are those of a process that would be looked at soon.
            let mapped = mapped_files(&self.root, key.tgid)
                .inspect_err(
                    |error| debug!(pid = key.tgid, %error, "cannot see what it has mapped"),
                )
                .unwrap_or_default();
            let met = mapped.iter().filter_map(|file| {
                let path = file.path(&self.root, key.tgid);
                let met = tls.files().meet(&path, file);
                met.inspect_err(|error| not_probed(&path, error)).ok()
            });
            met.collect::<Vec<_>>()
        };
        // The others are looked at in the next run.
        let in_time = |_: &&ProcessKey| now.elapsed() < BUDGET;
        let looked_at = processes.iter().take_while(in_time).map(files);
        let (found, took) = timed(|| looked_at.collect::<Vec<_>>());
        for (key, files) in processes.into_iter().zip(found) {
            let looks = self.looks.get(&key).map_or(0, |look| look.looks);
            let next = now + LOOKS[looks.min(LOOKS.len() - 1)];
            let looks = looks + 1;
            let look = Look {
                looks,
                next,
                seen: now,
                files,
            };
            self.looks.insert(key, look);
        }
        took
    }
}

/// Whether a handshake that belongs to no slot is of a process that has ended.
fn is_orphan(seen: &TlsSeen) -> bool {
    let pid = Pid::from_raw(seen.key.tgid.cast_signed());
    seen.handshake.slot < SLOT_FIRST && kill(pid, None) == Err(Errno::ESRCH)
}

/// Reads the handshakes in progress into the table.
fn read(shared: &Shared, live: &Attached, slow_after: Duration) -> anyhow::Result<()> {
    let Some(tls) = live.tls() else { return Ok(()) };
    let seen = tls.read()?;
    let now = Duration::from_nanos(monotonic_ns());
    let files = tls.files().counts();
    let mut abandoned = {
        let mut table = shared.discover();
        table.update_tls_files(files);
        table.update_handshakes(&seen, now, slow_after)
    };
    abandoned.extend(seen.iter().filter(|it| is_orphan(it)));
    live.end_handshakes(&abandoned);
    Ok(())
}

impl Job for Tls {
    fn name(&self) -> &'static str {
        "tls"
    }

    fn interval(&self, settings: &Settings) -> Duration {
        settings.tick_interval
    }

    fn configure(&mut self, settings: &Settings) {
        let seconds = settings.thresholds.tls_slow_seconds;
        self.slow_after = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    }

    fn run(&mut self) -> anyhow::Result<()> {
        let live = Arc::clone(&self.shared.live);
        if let Some(tls) = live.tls() {
            self.look(tls);
        }
        // Otherwise the last reading would stay, although it is outdated.
        let forget = |_: &anyhow::Error| write(&self.shared.table).forget_handshakes();
        read(&self.shared, &live, self.slow_after).inspect_err(forget)
    }
}
