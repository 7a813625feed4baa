//! Reads listening sockets: backlogs, drops, and requests that met a full accept queue.

use std::{
    collections::HashMap,
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use observer_common::ListenerSample;
use observer_core::{
    config::Settings,
    net::{
        netns,
        overflows::{Inference, Overflows},
        snmp::TcpExtCounters,
    },
    process::ProcRoot,
    sync::write,
};
use tracing::debug;

use crate::daemon::{scheduler::Job, shared::Shared};

/// Minimum interval between two searches for a process in each network namespace.
const SEARCH: Duration = Duration::from_secs(10);

/// Maximum number of reads of a namespace's counters per round, if a request is dropped meanwhile.
const ATTEMPTS: u32 = 3;

/// After this many rounds without consistent reads, a namespace is resolved with inconsistent ones.
const PATIENCE: u32 = 10;

pub struct Listeners {
    shared: Shared,
    root: ProcRoot,
    inference: Inference,
    /// A process in each network namespace, and the time of the last search.
    pids: HashMap<u32, u32>,
    searched: Option<Instant>,
    /// Rounds without consistent reads, by network namespace.
    inconsistent: HashMap<u32, u32>,
}

impl Job for Listeners {
    fn name(&self) -> &'static str {
        "listeners"
    }

    fn interval(&self, settings: &Settings) -> Duration {
        settings.tick_interval
    }

    fn run(&mut self) -> anyhow::Result<()> {
        self.read()
            // Otherwise the last reading would stay, although it is outdated.
            .inspect_err(|_| write(&self.shared.table).forget_listeners())
    }
}

impl Listeners {
    pub fn new(shared: Shared) -> Self {
        Self {
            shared,
            root: ProcRoot::default(),
            inference: Inference::default(),
            pids: HashMap::new(),
            searched: None,
            inconsistent: HashMap::new(),
        }
    }

    fn read(&mut self) -> anyhow::Result<()> {
        let Some(mut samples) = self.shared.live.take_listeners()? else {
            return Ok(());
        };
        if self.shared.live.counts_overflows() {
            self.shared.discover().update_listeners(&samples, None);
            return Ok(());
        }
        let mut overflows = Overflows::default();
        self.inference.note_ended(&samples);
        let wanted = self.inference.wanted(&samples);
        let hints: Vec<_> = {
            let table = self.shared.discover();
            let tgid = |slot| table.process(slot).map(|key| key.tgid);
            let wanted = wanted.into_iter();
            wanted.map(|(netns, slot)| (netns, tgid(slot))).collect()
        };
        for (netns, hint) in hints {
            if let Err(error) = self.resolve(netns, hint, &mut samples, &mut overflows) {
                // The other namespaces are not affected.
                debug!(
                    netns,
                    error = format!("{error:#}"),
                    "cannot attribute the overflows of a network namespace"
                );
            }
        }
        self.inference.retain(&samples);
        self.shared
            .discover()
            .update_listeners(&samples, Some(&overflows));
        Ok(())
    }

    /// Divides the overflows of one namespace. Its counters and its listeners are read one after the
    /// other, so this retries until the counters do not change in between.
    fn resolve(
        &mut self,
        netns: u32,
        hint: Option<u32>,
        samples: &mut Vec<ListenerSample>,
        overflows: &mut Overflows,
    ) -> anyhow::Result<()> {
        let Some(pid) = self.process_in(netns, hint) else {
            debug!(
                netns,
                "no process is in the network namespace of a listener"
            );
            return Ok(());
        };
        let root = self.root.clone();
        let read = || -> anyhow::Result<Option<(u64, u64)>> {
            let counters = TcpExtCounters::read(&root, pid)
                .context("cannot read the drops of a network namespace")?;
            Ok(counters.and_then(|it| Some((it.get("ListenOverflows")?, it.get("ListenDrops")?))))
        };
        let Some(mut before) = read()? else {
            return Ok(());
        };
        for _ in 0..ATTEMPTS {
            self.refresh(samples)?;
            let Some(after) = read()? else { return Ok(()) };
            if after == before {
                self.inconsistent.remove(&netns);
                self.inference.resolve(netns, before.0, samples, overflows);
                return Ok(());
            }
            before = after;
        }
        let rounds = self.inconsistent.entry(netns).or_default();
        *rounds += 1;
        if *rounds > PATIENCE {
            *rounds = 0;
            self.refresh(samples)?;
            self.inference.resolve(netns, before.0, samples, overflows);
        }
        Ok(())
    }

    /// Reads the listeners again, and keeps the samples of those that have ended.
    fn refresh(&mut self, samples: &mut Vec<ListenerSample>) -> anyhow::Result<()> {
        let new = self.shared.live.take_listeners()?.unwrap_or_default();
        self.inference.note_ended(&new);
        samples.retain(|sample| sample.listener.closed != 0);
        samples.extend(new);
        Ok(())
    }

    /// A process in a network namespace. `hint` is tried first.
    fn process_in(&mut self, netns: u32, hint: Option<u32>) -> Option<u32> {
        let is_in = |pid: &u32| {
            let path = self.root.process(*pid).join("ns/net");
            std::fs::metadata(path).is_ok_and(|meta| meta.ino() as u32 == netns)
        };
        let known = hint.into_iter().chain(self.pids.get(&netns).copied());
        if let Some(pid) = known.into_iter().find(is_in) {
            return Some(pid);
        }
        let now = Instant::now();
        if self
            .searched
            .is_some_and(|at| now.duration_since(at) < SEARCH)
        {
            return None;
        }
        self.searched = Some(now);
        self.pids = netns::enumerate(&self.root)
            .ok()?
            .found
            .iter()
            .map(|found| (found.inode as u32, found.pid))
            .collect();
        self.pids.get(&netns).copied()
    }
}
