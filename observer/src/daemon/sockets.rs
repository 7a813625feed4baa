//! Reading listening sockets and ports in use, and giving both to the table.

use std::{
    collections::HashMap,
    os::unix::fs::MetadataExt as _,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::time::{ClockId, clock_gettime};
use observer_common::ListenerSample;
use observer_core::{
    host::HostFacts,
    net::{
        netns,
        overflows::{Inference, Overflows},
        snmp::TcpExtCounters,
    },
    ports::Collector,
    process::ProcRoot,
    sync::lock,
    table::Table,
};
use tracing::debug;

use crate::kernel::Live;

/// A walk over the sockets is followed by a pause this many times as long, so that walks
/// take no more than an eight-hundredth of a CPU.
const PAUSE: u32 = 800;

/// How often processes are searched for one in a namespace.
const SEARCH: Duration = Duration::from_secs(10);

/// How often a namespace's counters are read anew when a request was dropped meanwhile.
const ATTEMPTS: u32 = 3;

/// Rounds in a row in which a namespace may have no quiet moment.
const PATIENCE: u32 = 10;

/// What is read from sockets, and what is remembered between two readings.
pub struct Sockets {
    live: Arc<Live>,
    facts: Arc<HostFacts>,
    root: ProcRoot,
    inference: Inference,
    next_walk: Instant,
    last_took: Duration,
    /// A process in each network namespace, and when they were searched.
    pids: HashMap<u32, u32>,
    searched: Option<Instant>,
    /// Rounds without a quiet moment, by network namespace.
    restless: HashMap<u32, u32>,
}

impl Sockets {
    pub fn new(live: Arc<Live>, facts: Arc<HostFacts>) -> Self {
        Self {
            live,
            facts,
            root: ProcRoot::default(),
            inference: Inference::default(),
            next_walk: Instant::now(),
            last_took: Duration::ZERO,
            pids: HashMap::new(),
            searched: None,
            restless: HashMap::new(),
        }
    }

    /// Reads the listening sockets.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn read_listeners(&mut self, table: &Mutex<Table>) -> anyhow::Result<()> {
        let Some(mut samples) = self.live.take_listeners()? else {
            return Ok(());
        };
        if self.live.counts_overflows() {
            self.known(table).update_listeners(&samples, None);
            return Ok(());
        }
        let mut overflows = Overflows::default();
        self.inference.note_ended(&samples);
        let wanted = self.inference.wanted(&samples);
        let hints: Vec<_> = {
            let table = self.known(table);
            let tgid = |slot| table.process(slot).map(|key| key.tgid);
            let wanted = wanted.into_iter();
            wanted.map(|(netns, slot)| (netns, tgid(slot))).collect()
        };
        for (netns, hint) in hints {
            if let Err(error) = self.resolve(netns, hint, &mut samples, &mut overflows) {
                // The others are none the worse.
                debug!(
                    netns,
                    error = format!("{error:#}"),
                    "cannot divide its overflows"
                );
            }
        }
        self.inference.retain(&samples);
        self.known(table)
            .update_listeners(&samples, Some(&overflows));
        Ok(())
    }

    /// The table, which knows all processes that samples read until now name: what one dropped that
    /// got its slot since the last tick would count for `<other>`.
    fn known<'a>(&self, table: &'a Mutex<Table>) -> MutexGuard<'a, Table> {
        let mut table = lock(table);
        table.discover(&*self.live, &*self.facts);
        table
    }

    /// Divides the overflows of one namespace. Its counters and the listeners' are read one
    /// after the other, so a moment is waited for in which neither changes.
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
                self.restless.remove(&netns);
                self.inference.resolve(netns, before.0, samples, overflows);
                return Ok(());
            }
            before = after;
        }
        let rounds = self.restless.entry(netns).or_default();
        *rounds += 1;
        if *rounds > PATIENCE {
            *rounds = 0;
            self.refresh(samples)?;
            self.inference.resolve(netns, before.0, samples, overflows);
        }
        Ok(())
    }

    /// Reads the listeners anew, and keeps the samples of those that have ended.
    fn refresh(&mut self, samples: &mut Vec<ListenerSample>) -> anyhow::Result<()> {
        let new = self.live.take_listeners()?.unwrap_or_default();
        self.inference.note_ended(&new);
        samples.retain(|sample| sample.listener.closed != 0);
        samples.extend(new);
        Ok(())
    }

    /// A process in a network namespace; `hint` is likely to be one.
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

    /// Walks over the sockets and counts ports, when it is time to: after `longest` at the
    /// latest, however many sockets there are.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn read_ports(
        &mut self,
        table: &Mutex<Table>,
        top: usize,
        longest: Duration,
    ) -> anyhow::Result<()> {
        if Instant::now() < self.next_walk {
            return Ok(());
        }
        let started = cpu_time();
        let mut collector = Collector::default();
        let walked = self.live.walk_ports(|port| collector.add(&port));
        if let Some(spaces) = walked? {
            let usage = collector.finish(&spaces);
            let took = cpu_time().saturating_sub(started);
            debug!(shares = usage.shares.len(), ?took, "counted ports");
            // The lesser of two: on a busy machine, one may be charged for what it did not do.
            let cost = took.min(self.last_took);
            self.last_took = took;
            self.next_walk = Instant::now() + (cost * PAUSE).min(longest);
            self.known(table).update_ports(&usage, top);
        }
        Ok(())
    }
}

/// CPU time of this thread: a walk that had to wait has not cost more.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
