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
/// Growth since the last read, as a fraction of the limit, after which a process is read at once: what it had before is
/// not what makes it run out.
const GROWN: f64 = 0.1;
/// A read is followed by a pause of this many times its CPU time, which is proportional to the
/// descriptors and to the sockets of the network namespace: at most 1/1000 of a CPU.
const PAUSE: u32 = 1_000;
/// The same for a process that has not been read or has grown: until then, the cause of a finding about it is unknown.
const PAUSE_OF_URGENT: u32 = 50;

/// The last read of a process.
struct Look {
    at: Instant,
    /// Open descriptors then.
    open: u64,
    kinds: Option<Arc<FdKinds>>,
}

pub struct KindsOfFds {
    shared: Shared,
    /// [`is_filling`].
    share: f64,
    looks: HashMap<ProcessKey, Look>,
    /// Pauses of urgent reads, and of others.
    urgent: Paced,
    other: Paced,
}

impl KindsOfFds {
    pub fn new(shared: Shared) -> Self {
        Self {
            shared,
            share: 1.0,
            looks: HashMap::new(),
            urgent: Paced::new(),
            other: Paced::new(),
        }
    }
}

/// How near a process must be to the fraction of its limit from which a finding may be raised: its kinds are known by
/// then, and the finding names them.
const NEAR: f64 = 0.95;

/// A process that has used the fraction of its limit.
struct Suspect {
    key: ProcessKey,
    open: u64,
    limit: u64,
}

impl Suspect {
    /// `None` if the process has not used that fraction.
    fn of(process: &ProcessVitals, share: f64) -> Option<Self> {
        let resources = &process.resources;
        let (open, limit) = resources.open_fds.zip(resources.max_fds)?;
        (open as f64 >= share * limit as f64).then_some(Self {
            key: process.key,
            open,
            limit,
        })
    }

    /// Whether it has not been read, or has grown since.
    fn is_urgent(&self, last: Option<&Look>) -> bool {
        last.is_none_or(|last| {
            self.open.saturating_sub(last.open) as f64 >= GROWN * self.limit as f64
        })
    }
}

/// The suspect to read next and whether it is urgent: those that are, then what was read the longest ago, if the
/// interval has passed.
fn due<'a>(
    suspects: &'a [Suspect],
    looks: &HashMap<ProcessKey, Look>,
    now: Instant,
) -> Option<(&'a Suspect, bool)> {
    let last = |it: &Suspect| looks.get(&it.key);
    let (is_urgent, at, suspect) = suspects
        .iter()
        .map(|it| (it.is_urgent(last(it)), last(it).map(|last| last.at), it))
        .min_by_key(|(is_urgent, at, _)| (!is_urgent, *at))?;
    let is_due = is_urgent || at.is_none_or(|at| now.duration_since(at) >= LOOK);
    is_due.then_some((suspect, is_urgent))
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
        if !self.urgent.is_due() {
            return Ok(());
        }
        let now = Instant::now();
        let snapshot = self.shared.snapshot.borrow().clone();
        let suspects = snapshot.processes.iter();
        let suspects: Vec<_> = suspects
            .filter_map(|it| Suspect::of(it, self.share))
            .collect();
        let keys: HashSet<_> = suspects.iter().map(|it| it.key).collect();
        let known = self.looks.len();
        self.looks.retain(|key, _| keys.contains(key));
        let mut changed = self.looks.len() < known;
        if let Some((suspect, is_urgent)) = due(&suspects, &self.looks, now)
            && (is_urgent || self.other.is_due())
        {
            let key = suspect.key;
            let (kinds, took) = timed(|| self.shared.facts.fd_kinds(&key).map(Arc::new));
            // One that failed says nothing new.
            let before = self.looks.remove(&key).and_then(|look| look.kinds);
            let look = Look {
                at: now,
                open: suspect.open,
                kinds: kinds.or(before),
            };
            self.looks.insert(key, look);
            self.urgent.pause(PAUSE_OF_URGENT * took);
            if !is_urgent {
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

    fn suspect(tgid: u32, open: u64) -> Suspect {
        let key = ProcessKey {
            start_boottime_ns: 1,
            tgid,
            reserved: 0,
        };
        Suspect {
            key,
            open,
            limit: 100,
        }
    }

    /// The reads of a hundred seconds, by second and process.
    fn reads(suspects: impl Fn(u64) -> Vec<Suspect>) -> Vec<(u64, u32)> {
        let start = Instant::now();
        let mut looks = HashMap::new();
        let mut seen = Vec::new();
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            if let Some((suspect, _)) = due(&suspects(second), &looks, now) {
                let look = Look {
                    at: now,
                    open: suspect.open,
                    kinds: None,
                };
                looks.insert(suspect.key, look);
                seen.push((second, suspect.key.tgid));
            }
        }
        seen
    }

    #[test]
    fn who_was_looked_at_the_longest_ago_is_next() {
        let seen = reads(|_| [1, 2, 3].map(|tgid| suspect(tgid, 50)).into());
        let expected: Vec<_> = [0, 30, 60, 90]
            .into_iter()
            .flat_map(|second| [(second, 1), (second + 1, 2), (second + 2, 3)])
            .collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn who_has_grown_is_looked_at_again() {
        let seen = reads(|second| {
            let grown = suspect(1, 50 + second.saturating_sub(10).min(30));
            vec![grown, suspect(2, 50)]
        });
        let of = |pid: u32| {
            let of = seen.iter().filter(move |(_, tgid)| *tgid == pid);
            of.map(|(second, _)| *second).collect::<Vec<_>>()
        };
        assert_eq!(of(1), [0, 20, 30, 40, 70]);
        assert_eq!(of(2), [1, 31, 61, 91]);
    }
}
