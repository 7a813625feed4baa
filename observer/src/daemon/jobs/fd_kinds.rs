//! Determines the kinds of descriptors of processes that may run out of them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use observer_common::ProcessKey;
use observer_core::{config::Settings, process::fd_kinds::FdKinds, table::ProcessVitals};

use crate::daemon::{
    scheduler::Job,
    shared::{Paced, Shared, timed},
};

/// Interval between two reads of a process.
const LOOK: Duration = Duration::from_secs(30);
/// A read is followed by a pause of this many times its CPU time, which is proportional to the
/// descriptors and to the sockets of the network namespace: at most 1/1000 of a CPU.
const PAUSE: u32 = 1_000;
/// The same for the first read of a process: until then, the cause of a finding about it is unknown.
const PAUSE_OF_FIRST: u32 = 50;

/// State of a process.
struct Look {
    at: Instant,
    kinds: Option<Arc<FdKinds>>,
}

pub struct KindsOfFds {
    shared: Shared,
    /// [`is_filling`].
    share: f64,
    looks: HashMap<ProcessKey, Look>,
    /// Pauses of first reads of a process, and of others.
    first: Paced,
    other: Paced,
}

impl KindsOfFds {
    pub fn new(shared: Shared) -> Self {
        Self {
            shared,
            share: 1.0,
            looks: HashMap::new(),
            first: Paced::new(),
            other: Paced::new(),
        }
    }
}

/// How near a process must be to the fraction of its limit from which a finding may be raised: its kinds are known by
/// then, and the finding names them.
const NEAR: f64 = 0.95;

/// Whether a process has used this fraction of its limit.
fn is_filling(process: &ProcessVitals, share: f64) -> bool {
    let resources = &process.resources;
    let both = resources.open_fds.zip(resources.max_fds);
    both.is_some_and(|(open, limit)| open as f64 >= share * limit as f64)
}

/// The process that was read the longest ago, or never, if the interval has passed.
fn due(
    suspects: &HashSet<ProcessKey>,
    last: impl Fn(&ProcessKey) -> Option<Instant>,
    now: Instant,
) -> Option<&ProcessKey> {
    let (key, last) = suspects
        .iter()
        .map(|key| (key, last(key)))
        .min_by_key(|(_, last)| *last)?;
    let is_due = last.is_none_or(|last| now.duration_since(last) >= LOOK);
    is_due.then_some(key)
}

impl Job for KindsOfFds {
    fn name(&self) -> &'static str {
        "fd_kinds"
    }

    fn interval(&self, settings: &Settings) -> Duration {
        settings.tick_interval / 4
    }

    fn configure(&mut self, settings: &Settings) {
        self.share = NEAR * settings.thresholds.fd_least_share();
    }

    /// One process at a time, so that a pause follows each.
    fn run(&mut self) -> anyhow::Result<()> {
        if !self.first.is_due() {
            return Ok(());
        }
        let now = Instant::now();
        let snapshot = self.shared.snapshot.borrow().clone();
        let processes = snapshot
            .processes
            .iter()
            .filter(|it| is_filling(it, self.share));
        let suspects: HashSet<_> = processes.map(|it| it.key).collect();
        let known = self.looks.len();
        self.looks.retain(|key, _| suspects.contains(key));
        let mut changed = self.looks.len() < known;
        let last = |key: &ProcessKey| self.looks.get(key).map(|look| look.at);
        let may_be = |key: &&ProcessKey| last(key).is_none() || self.other.is_due();
        if let Some(key) = due(&suspects, last, now).filter(may_be).copied() {
            let (kinds, took) = timed(|| self.shared.facts.fd_kinds(&key).map(Arc::new));
            let is_first = self.looks.insert(key, Look { at: now, kinds }).is_none();
            self.first.pause(PAUSE_OF_FIRST * took);
            if !is_first {
                self.other.pause(PAUSE * took);
            }
            changed = true;
        }
        if changed {
            let looks = self.looks.iter();
            let kinds = looks.filter_map(|(key, look)| Some((*key, look.kinds.clone()?)));
            self.shared.fd_kinds.send_replace(Arc::new(kinds.collect()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_looked_at_the_longest_ago_is_next() {
        let key = |tgid| ProcessKey {
            start_boottime_ns: 1,
            tgid,
            reserved: 0,
        };
        let suspects: HashSet<_> = [1, 2, 3].map(key).into();
        let start = Instant::now();
        let mut looks = HashMap::new();
        let mut seen = Vec::new();
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            if let Some(key) = due(&suspects, |key| looks.get(key).copied(), now) {
                looks.insert(*key, now);
                seen.push((second, key.tgid));
            }
        }
        let seconds: Vec<_> = seen.iter().map(|(second, _)| *second).collect();
        assert_eq!(seconds, [0, 1, 2, 30, 31, 32, 60, 61, 62, 90, 91, 92]);
        let first: Vec<_> = seen.iter().map(|(_, pid)| *pid).take(3).collect();
        let again: Vec<_> = seen.iter().map(|(_, pid)| *pid).skip(9).collect();
        assert_eq!(first, again);
    }
}
