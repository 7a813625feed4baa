//! Reads listening sockets: backlogs, drops, and requests dropped because the accept queue was full.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use observer_common::ListenerSample;
use observer_core::{
    config::Settings,
    net::{
        netns::Representatives,
        overflows::{Inference, Overflows},
        snmp::TcpExtCounters,
    },
    process::ProcRoot,
    sync::write,
};
use tracing::debug;

use crate::daemon::{scheduler::Job, shared::Shared};

/// Maximum number of reads of a namespace's counters per round, if a request is dropped meanwhile.
const ATTEMPTS: u32 = 3;

/// After this many rounds without consistent reads, a namespace is resolved with inconsistent ones.
const PATIENCE: u32 = 10;

pub struct Listeners {
    shared: Shared,
    inference: Inference,
    processes: Representatives,
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
            inference: Inference::default(),
            processes: Representatives::new(ProcRoot::default()),
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
        let Some(pid) = self.processes.process_in(netns, hint, Instant::now()) else {
            debug!(netns, "the network namespace of a listener has no process");
            return Ok(());
        };
        let root = self.processes.root().clone();
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
}
