//! Seeing processes come, noticing that they went, and folding what they left behind.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use observer_common::{ProcessKey, SLOT_FIRST, SLOT_OVERFLOW, SLOT_UNATTRIBUTED, Slot, SockoptKey};
use tracing::warn;

use super::{
    exited::Exited,
    facts::ProcessFacts,
    labels::{Labels, printable},
    listeners::Listeners,
    ports::Ports,
    time_wait::Ledger,
    totals::Totals,
};
use crate::kernel::source::KernelSource;

/// A quiet process is folded no sooner than at the second tick that finds it so: a kernel
/// program that looked up its slot just before has long finished by then.
const QUIET_TICKS: u32 = 2;

/// Says by comm and unit whether a process is to have series of its own.
pub type Filter = Box<dyn Fn(&str, &str) -> bool + Send + Sync>;

/// How the table is bounded.
pub struct TableConfig {
    /// The most processes shown under their own pid, and the most groups of exited ones.
    pub max_processes: usize,
    /// How long an exited process must have been without sockets before it is folded.
    pub grace: Duration,
    /// Sends the processes it says no to into `pid="other"`. Asked once per process.
    pub filter: Option<Filter>,
}

impl Default for TableConfig {
    fn default() -> Self {
        Self {
            max_processes: 1000,
            grace: Duration::from_secs(5),
            filter: None,
        }
    }
}

/// How many processes hold a slot, by how they are shown, and groups of those that did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessCounts {
    /// Running, under their own pid.
    pub shown: u64,
    /// Running, in `pid="other"`.
    pub other: u64,
    /// Exited, and not folded yet.
    pub exited: u64,
    /// Groups of exited processes.
    pub exited_groups: u64,
}

/// Failed setsockopt calls by slot and generation: read once for all that a tick folds, because
/// the map has to be walked for it.
type Failing = HashMap<(u32, u32), Vec<SockoptKey>>;

/// Since when a process has been gone and without sockets.
#[derive(Debug)]
struct Quiet {
    since: Instant,
    ticks: u32,
}

/// A process that holds a slot.
#[derive(Debug)]
pub(super) struct Entry {
    pub key: ProcessKey,
    generation: u32,
    /// Its series; `None` is `pid="other"`. Never changes.
    pub shown: Option<Arc<Labels>>,
    pub alive: bool,
    quiet: Option<Quiet>,
    /// Where TIME_WAIT is inferred.
    pub time_wait: Ledger,
    /// Where it is exact; see [`Slot::account`].
    pub account: u32,
}

/// A series of a pid. As a rule it shows one slot. When a pid was reused by a process of
/// the same name while the old one still holds sockets, it shows both, and keeps what the
/// old one counted for as long as the new one lives.
#[derive(Debug, Default)]
pub(super) struct Own {
    pub slots: Vec<u32>,
    pub carried: Option<Box<Totals>>,
}

/// The per-process table.
pub struct Table {
    pub(super) config: TableConfig,
    /// By slot.
    pub(super) entries: Vec<Option<Entry>>,
    /// How many entries are shown under their own pid.
    shown: usize,
    pub(super) own: BTreeMap<Arc<Labels>, Own>,
    /// What processes in `pid="other"` left behind.
    pub(super) other: Box<Totals>,
    pub(super) exited: Exited,
    pub(super) unattributed_time_wait: Ledger,
    pub(super) overflow_time_wait: Ledger,
    /// The kernel's number of sockets in TIME_WAIT, where ours are inferred.
    pub(super) kernel_time_wait: Option<u64>,
    time_wait_drift: Option<i64>,
    /// Entries into TIME_WAIT that ticks have taken in since then.
    pub(super) time_wait_since: u64,
    /// Whether the kernel's number covers all that entered.
    pub(super) time_wait_is_whole: bool,
    pub(super) listeners: Listeners,
    pub(super) ports: Ports,
    pub(super) scratch: Box<Slot>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(config: TableConfig) -> Self {
        Self {
            config,
            entries: Vec::new(),
            shown: 0,
            own: BTreeMap::new(),
            other: Totals::new(),
            exited: Exited::default(),
            unattributed_time_wait: Ledger::default(),
            overflow_time_wait: Ledger::default(),
            kernel_time_wait: None,
            time_wait_drift: None,
            time_wait_since: 0,
            time_wait_is_whole: true,
            listeners: Listeners::default(),
            ports: Ports::default(),
            scratch: Box::new(Slot::zeroed()),
        }
    }

    /// Changes the filter, for processes that are not known yet: a process keeps its series
    /// for life, or sums would go down.
    pub fn set_filter(&mut self, filter: Filter) {
        self.config.filter = Some(filter);
    }

    /// Housekeeping, to be called once a second: takes in new processes, notes which ones
    /// have exited, samples TIME_WAIT, and folds exited processes that have been without
    /// sockets for the grace period.
    pub fn tick(&mut self, now: Instant, source: &dyn KernelSource, facts: &dyn ProcessFacts) {
        self.discover(source, facts);
        self.ports.expire(now);
        if source.account(SLOT_UNATTRIBUTED).is_some() {
            self.each_totals(|totals| totals.close_accounts(source));
        } else {
            self.infer_time_wait(now, source);
        }
        let mut failing = None;
        for index in SLOT_FIRST..self.entries.len() as u32 {
            let Some(entry) = &mut self.entries[index as usize] else {
                continue;
            };
            // A process does not come back: its key names one start of one pid.
            entry.alive = entry.alive && facts.is_alive(&entry.key);
            if entry.alive {
                continue;
            }
            source.read_slot_identity(index, &mut self.scratch);
            if self.scratch.sockets > 0 {
                entry.quiet = None;
                continue;
            }
            let quiet = entry.quiet.get_or_insert(Quiet {
                since: now,
                ticks: 0,
            });
            quiet.ticks += 1;
            if quiet.ticks >= QUIET_TICKS
                && now.saturating_duration_since(quiet.since) >= self.config.grace
            {
                self.fold(index, source, &mut failing);
            }
        }
        self.fold_listeners();
        self.fold_ports();
    }

    /// What processes that are gone left behind.
    fn each_totals(&mut self, mut each: impl FnMut(&mut Totals)) {
        let carried = self.own.values_mut().filter_map(|own| own.carried.as_mut());
        each(&mut self.other);
        self.exited.iter_mut().for_each(&mut each);
        carried.for_each(|totals| each(totals));
    }

    /// Takes in what entered TIME_WAIT and forgets what has left it by now.
    fn infer_time_wait(&mut self, now: Instant, source: &dyn KernelSource) {
        self.each_totals(|totals| totals.time_wait.expire(now));
        let entries = self.entries.iter_mut().enumerate();
        let entries = entries.filter_map(|(index, entry)| Some((index as u32, entry.as_mut()?)));
        let ledgers = entries
            .map(|(index, entry)| (index, &mut entry.time_wait))
            .chain([
                (SLOT_UNATTRIBUTED, &mut self.unattributed_time_wait),
                (SLOT_OVERFLOW, &mut self.overflow_time_wait),
            ]);
        for (index, ledger) in ledgers {
            self.time_wait_since += ledger.update(now, source.time_wait_entered(index));
        }
    }

    /// Notes the kernel's own number of sockets in TIME_WAIT, read just after a tick. The
    /// shown numbers are scaled down to it, and to what entered since, until the next call.
    pub fn reconcile_time_wait(&mut self, kernel_total: u64) {
        let inferred = self.unattributed_time_wait.inferred()
            + self.overflow_time_wait.inferred()
            + self.other.time_wait.inferred()
            + self
                .exited
                .iter()
                .map(|(_, totals)| totals.time_wait.inferred())
                .sum::<u64>()
            + self
                .own
                .values()
                .filter_map(|own| own.carried.as_ref())
                .map(|carried| carried.time_wait.inferred())
                .sum::<u64>()
            + self
                .entries
                .iter()
                .flatten()
                .map(|entry| entry.time_wait.inferred())
                .sum::<u64>();
        self.kernel_time_wait = Some(kernel_total);
        self.time_wait_drift = Some(inferred as i64 - kernel_total as i64);
        self.time_wait_since = 0;
        self.time_wait_is_whole = true;
    }

    /// Shows the inferred numbers as they are: the kernel's total does not tell of all that
    /// entered. The drift stays known.
    pub fn trust_inferred_time_wait(&mut self) {
        self.time_wait_is_whole = false;
    }

    /// Notes how many of the kernel's timewait sockets are whose, by slot and generation, so
    /// that one process's early leavers are not taken off another. `None` where they cannot
    /// all be told apart.
    pub fn cap_time_wait(&mut self, owned: Option<&HashMap<(u32, u32), u64>>) {
        for (slot, entry) in (0..).zip(&mut self.entries) {
            if let Some(entry) = entry {
                let key = (slot, entry.generation);
                let cap = owned.map(|owned| owned.get(&key).copied().unwrap_or(0));
                entry.time_wait.set_cap(cap);
            }
        }
    }

    /// Notes how far our number of sockets in TIME_WAIT is off the kernel's, where it is not
    /// inferred.
    pub fn note_time_wait_drift(&mut self, drift: i64) {
        self.time_wait_drift = Some(drift);
    }

    /// Our number of sockets in TIME_WAIT minus the kernel's, as of the last reconciliation.
    #[must_use]
    pub fn time_wait_drift(&self) -> Option<i64> {
        self.time_wait_drift
    }

    /// How many processes hold a slot.
    #[must_use]
    pub fn processes(&self) -> ProcessCounts {
        let mut counts = ProcessCounts {
            exited_groups: self.exited.len() as u64,
            ..ProcessCounts::default()
        };
        for entry in self.entries.iter().flatten() {
            match (entry.alive, &entry.shown) {
                (false, _) => counts.exited += 1,
                (true, Some(_)) => counts.shown += 1,
                (true, None) => counts.other += 1,
            }
        }
        counts
    }

    /// The generation of the process that has a slot.
    pub(super) fn generation(&self, slot: u32) -> Option<u32> {
        let entry = self.entries.get(slot as usize)?.as_ref()?;
        Some(entry.generation)
    }

    /// Takes in the processes that got a slot since the last call. Call it before giving samples
    /// that were read since.
    pub fn discover(&mut self, source: &dyn KernelSource, facts: &dyn ProcessFacts) {
        let limit = source.slot_limit();
        if self.entries.len() < limit as usize {
            self.entries.resize_with(limit as usize, || None);
        }
        for index in SLOT_FIRST..limit {
            source.read_slot_identity(index, &mut self.scratch);
            let (key, generation) = (self.scratch.key, self.scratch.generation);
            match &mut self.entries[index as usize] {
                Some(entry) if entry.generation == generation => continue,
                Some(_) => {
                    warn!(
                        slot = index,
                        "slot was freed by someone else, its counts are lost"
                    );
                    self.forget(index);
                }
                None => {}
            }
            if key.tgid != 0 {
                let entry = self.admit(facts);
                if let Some(labels) = &entry.shown {
                    let own = self.own.entry(Arc::clone(labels)).or_default();
                    own.slots.push(index);
                }
                self.entries[index as usize] = Some(entry);
            }
        }
    }

    /// Decides how the process in the scratch slot is shown.
    fn admit(&mut self, facts: &dyn ProcessFacts) -> Entry {
        let description = facts.describe(&self.scratch);
        let comm = printable(description.comm.as_deref().unwrap_or(&self.scratch.comm));
        let unit = printable(description.unit.as_bytes());
        let wanted = match &self.config.filter {
            Some(filter) => filter(&comm, &unit),
            None => true,
        };
        let shown = wanted && self.shown < self.config.max_processes;
        self.shown += usize::from(shown);
        let pid = self.scratch.key.tgid.to_string();
        Entry {
            key: self.scratch.key,
            generation: self.scratch.generation,
            shown: shown.then(|| Arc::new(Labels::new(&pid, &comm, &unit))),
            alive: true,
            quiet: None,
            time_wait: Ledger::default(),
            account: self.scratch.account,
        }
    }

    /// Moves the counts of slot `index` to where they stay, and frees the slot. No scrape
    /// comes between the two, because both need the table.
    fn fold(&mut self, index: u32, source: &dyn KernelSource, failing: &mut Option<Failing>) {
        let Some(entry) = self.entries[index as usize].as_mut() else {
            return;
        };
        // The last look before the slot is freed: what came in since the first is counted.
        source.read_slot(index, &mut self.scratch);
        if self.scratch.generation != entry.generation || self.scratch.sockets > 0 {
            entry.quiet = None;
            return;
        }
        let failing = failing.get_or_insert_with(|| {
            let mut failing = Failing::new();
            for (key, _) in source.sockopt_failures() {
                let keys = failing.entry((key.slot, key.generation)).or_default();
                keys.push(key);
            }
            failing
        });
        let failures = match failing.remove(&(index, entry.generation)) {
            Some(keys) => source.take_sockopt_failures(&keys),
            None => Vec::new(),
        };
        source.free_slot(index);
        let counts = *self.scratch;
        let (shown, ledger) = self.remove(index);
        let Some(labels) = shown else {
            self.other.fold(&counts, failures, ledger);
            self.other.take_account(counts.account);
            return;
        };
        let own = self.own.entry(Arc::clone(&labels)).or_default();
        if own.slots.is_empty() {
            let carried = self.own.remove(&labels).and_then(|own| own.carried);
            let group = self.exited_group(&labels);
            group.fold(&counts, failures, ledger);
            group.take_account(counts.account);
            if let Some(carried) = carried {
                group.merge(*carried);
            }
        } else {
            // The series goes on, so what it counted stays with it.
            let carried = own.carried.get_or_insert_with(Totals::new);
            carried.fold(&counts, failures, ledger);
            carried.take_account(counts.account);
        }
    }

    /// Drops the entry of a slot, and its place in its series.
    fn remove(&mut self, index: u32) -> (Option<Arc<Labels>>, Ledger) {
        let Some(entry) = self.entries[index as usize].take() else {
            return (None, Ledger::default());
        };
        self.ports
            .depart(index, entry.generation, entry.shown.as_deref());
        if let Some(labels) = &entry.shown {
            self.shown -= 1;
            if let Some(own) = self.own.get_mut(labels) {
                own.slots.retain(|&slot| slot != index);
            }
        }
        (entry.shown, entry.time_wait)
    }

    /// Drops the entry of a slot whose counts cannot be read any more.
    fn forget(&mut self, index: u32) {
        let (shown, ledger) = self.remove(index);
        let Some(labels) = shown else {
            self.other.time_wait.merge(ledger);
            return;
        };
        let empty = self
            .own
            .get(&labels)
            .is_some_and(|own| own.slots.is_empty());
        let carried = if empty {
            self.own.remove(&labels).and_then(|own| own.carried)
        } else {
            None
        };
        let group = self.exited_group(&labels);
        group.time_wait.merge(ledger);
        if let Some(carried) = carried {
            group.merge(*carried);
        }
    }

    /// The group that an exited process with these labels belongs to.
    fn exited_group(&mut self, labels: &Labels) -> &mut Totals {
        let living = self.own.keys().map(|labels| &**labels);
        self.exited.group(labels, self.config.max_processes, living)
    }
}
