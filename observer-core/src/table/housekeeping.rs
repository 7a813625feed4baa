//! Seeing processes come, noticing that they went, and adding up what they left behind.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use observer_common::{ProcessKey, SLOT_FIRST, SLOT_OVERFLOW, SLOT_UNATTRIBUTED, Slot, SockoptKey};
use tracing::warn;

use super::{
    departed::Departed,
    facts::{Liveness, ProcessFacts},
    labels::{Labels, name_of},
    listeners::Listeners,
    names::{Kinds, NameId, Names, OTHER_ID},
    ports::Ports,
    shown::Attention,
    tally::Tally,
    time_wait::Ledger,
    view::Sum,
};
use crate::{contract::KernelSource, process::Unit};

/// A quiet process is folded no sooner than at the second tick that finds it so: a kernel
/// program that looked up its slot just before has long finished by then.
const QUIET_TICKS: u32 = 2;

/// Says by comm and unit whether a process counts for its name and may be shown by its pid.
pub type Filter = Box<dyn Fn(&str, &str) -> bool + Send + Sync>;

/// How the table is bounded.
pub struct TableConfig {
    /// The most names (comm and unit) that counts are kept for.
    pub max_names: usize,
    /// The most processes shown by their pid.
    pub max_processes: usize,
    /// How long an exited process must have been without sockets before it is folded.
    pub grace: Duration,
    /// Has the processes it says no to count for `<other>`.
    pub filter: Option<Filter>,
}

impl Default for TableConfig {
    fn default() -> Self {
        Self {
            max_names: 1000,
            max_processes: 400,
            grace: Duration::from_secs(5),
            filter: None,
        }
    }
}

/// How many processes hold a slot, by how they are shown, and how many names there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessCounts {
    /// Running, shown by their pid.
    pub shown: u64,
    /// Running, and not shown by their pid.
    pub hidden: u64,
    /// Exited, and not folded yet.
    pub exited: u64,
    /// Names of processes, living and gone.
    pub names: u64,
    /// Names that made room for others.
    pub names_evicted: u64,
}

/// Failed setsockopt calls by slot and generation: read once for all that a tick folds, because
/// the map has to be walked for it.
pub(super) type Failing = HashMap<(u32, u32), Vec<(SockoptKey, u64)>>;

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
    pub generation: u32,
    /// The name that it counts for.
    pub name: NameId,
    /// Under which it may be shown by itself.
    pub labels: Arc<Labels>,
    pub unit: Arc<Unit>,
    /// What the filter says.
    pub selected: bool,
    pub alive: bool,
    pub attention: Attention,
    quiet: Option<Quiet>,
    /// Where TIME_WAIT is inferred.
    pub time_wait: Ledger,
    /// Where it is exact; see [`Slot::account`].
    pub account: u32,
    /// What it counted for names it had before.
    pub before: Option<Box<Tally>>,
    pub kinds: Kinds,
    /// How often it changed its comm.
    pub renames: u8,
}

impl Entry {
    /// Whether it has series of its own.
    pub fn is_shown(&self) -> bool {
        self.alive && self.attention.shown
    }

    /// Whether it may have them.
    pub fn may_be_shown(&self) -> bool {
        self.alive && self.selected
    }
}

/// The per-process table.
pub struct Table {
    pub(super) config: TableConfig,
    /// By slot.
    pub(super) entries: Vec<Option<Entry>>,
    /// The slot of the last process that got a pid.
    by_pid: HashMap<u32, u32>,
    pub(super) names: Names,
    pub(super) departed: Departed,
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
    /// How many processes are shown by their pid, those included that ended since the last tick.
    pub(super) shown: usize,
    /// When the processes to show were last chosen; `None` while there is room for all.
    pub(super) chosen: Option<Instant>,
    /// The filter changed since the last tick.
    pub(super) reselect: bool,
    /// As of the last tick.
    pub(super) now: Instant,
    pub(super) scratch: Box<Slot>,
    /// Of the last scrape, for the next one.
    pub(super) sums: Vec<Sum>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(config: TableConfig) -> Self {
        Self {
            entries: Vec::new(),
            by_pid: HashMap::new(),
            names: Names::new(config.max_names),
            config,
            departed: Departed::default(),
            unattributed_time_wait: Ledger::default(),
            overflow_time_wait: Ledger::default(),
            kernel_time_wait: None,
            time_wait_drift: None,
            time_wait_since: 0,
            time_wait_is_whole: true,
            listeners: Listeners::default(),
            ports: Ports::default(),
            shown: 0,
            chosen: None,
            reselect: false,
            now: Instant::now(),
            scratch: Box::new(Slot::zeroed()),
            sums: Vec::new(),
        }
    }

    /// Changes the filter, from the next tick on. What was counted stays where it is.
    pub fn set_filter(&mut self, filter: Filter) {
        self.config.filter = Some(filter);
        self.reselect = true;
    }

    /// Housekeeping, to be called once a second: takes in new processes, notes which ones
    /// have exited or have another name, samples TIME_WAIT, folds exited processes that have
    /// been without sockets for the grace period, and chooses which ones to show.
    pub fn tick(&mut self, now: Instant, source: &dyn KernelSource, facts: &dyn ProcessFacts) {
        self.now = now;
        // Before names may make room for new ones.
        self.departed.expire(now);
        self.discover(source, facts);
        if source.account(SLOT_UNATTRIBUTED).is_some() {
            for name in self.names.iter_mut() {
                name.totals.close_accounts(source);
            }
        } else {
            self.infer_time_wait(now, source);
        }
        let mut failing = None;
        for index in SLOT_FIRST..self.entries.len() as u32 {
            let Some(entry) = &mut self.entries[index as usize] else {
                continue;
            };
            // A process does not come back: its key names one start of one pid.
            if entry.alive {
                match facts.liveness(&entry.key) {
                    Liveness::Alive(None) => continue,
                    Liveness::Alive(Some(comm)) => {
                        self.notice_comm(index, &comm, source, &mut failing);
                        continue;
                    }
                    Liveness::Gone => entry.alive = false,
                }
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
        self.settle_names(source, &mut failing);
        self.choose_shown(now, source, facts);
    }

    /// Takes in what entered TIME_WAIT and forgets what has left it by now.
    fn infer_time_wait(&mut self, now: Instant, source: &dyn KernelSource) {
        for name in self.names.iter_mut() {
            name.totals.time_wait.expire(now);
        }
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
        let names = self.names.iter().map(|(_, name)| &name.totals.time_wait);
        let entries = self.entries.iter().flatten().map(|entry| &entry.time_wait);
        let inferred: u64 = [&self.unattributed_time_wait, &self.overflow_time_wait]
            .into_iter()
            .chain(names)
            .chain(entries)
            .map(Ledger::live)
            .sum();
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

    /// Notes how far our number of sockets in TIME_WAIT is off the kernel's, where it is not
    /// inferred.
    pub fn note_time_wait_drift(&mut self, drift: i64) {
        self.time_wait_drift = Some(drift);
    }

    /// Forgets it: it could not be compared.
    pub fn forget_time_wait_drift(&mut self) {
        self.time_wait_drift = None;
    }

    /// Our number of sockets in TIME_WAIT minus the kernel's, as of the last reconciliation.
    #[must_use]
    pub fn time_wait_drift(&self) -> Option<i64> {
        self.time_wait_drift
    }

    /// How many processes hold a slot, and how many names there are.
    #[must_use]
    pub fn processes(&self) -> ProcessCounts {
        let mut counts = ProcessCounts {
            names: self.names.len() as u64,
            names_evicted: self.names.evicted(),
            ..ProcessCounts::default()
        };
        for entry in self.entries.iter().flatten() {
            match (entry.alive, entry.is_shown()) {
                (false, _) => counts.exited += 1,
                (true, true) => counts.shown += 1,
                (true, false) => counts.hidden += 1,
            }
        }
        counts
    }

    /// The process that has a slot.
    #[must_use]
    pub fn process(&self, slot: u32) -> Option<&ProcessKey> {
        self.holder(slot).map(|entry| &entry.key)
    }

    /// All processes that have a slot.
    pub fn keys(&self) -> impl Iterator<Item = &ProcessKey> {
        self.entries.iter().flatten().map(|entry| &entry.key)
    }

    /// The units of all names and of processes that are shown, by the label.
    #[must_use]
    pub fn units(&self) -> BTreeMap<&str, &Unit> {
        let names = self.names.iter().map(|(_, name)| &name.unit);
        // The others' are those of their names.
        let entries = self.entries.iter().flatten();
        let unnamed = entries.filter(|entry| entry.name == OTHER_ID && entry.is_shown());
        let units = names.chain(unnamed.map(|entry| &entry.unit));
        units.map(|unit| (unit.name.as_str(), &**unit)).collect()
    }

    /// The entry of a slot.
    pub(super) fn holder(&self, slot: u32) -> Option<&Entry> {
        self.entries.get(slot as usize)?.as_ref()
    }

    /// The entry of a slot, if it still belongs to this generation.
    pub(super) fn entry(&self, slot: u32, generation: u32) -> Option<&Entry> {
        let entry = self.holder(slot)?;
        (entry.generation == generation).then_some(entry)
    }

    /// The name that a slot counts for, or counted for until a short while ago.
    pub(super) fn name_of_slot(&self, slot: u32, generation: u32) -> NameId {
        if slot == SLOT_UNATTRIBUTED {
            return super::names::UNATTRIBUTED_ID;
        }
        match self.entry(slot, generation) {
            Some(entry) => entry.name,
            None => self.departed.name(slot, generation).unwrap_or(OTHER_ID),
        }
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
                    self.remove(index);
                }
                None => {}
            }
            if key.tgid != 0 {
                let mut entry = self.admit(facts);
                entry.alive &= self.is_newest(index, &key);
                self.entries[index as usize] = Some(entry);
            }
        }
    }

    /// Whether a process is the last that got its pid; notes that the one before is gone, which a
    /// tick may not have seen yet. Two with one pid would be two series with the same labels.
    fn is_newest(&mut self, index: u32, key: &ProcessKey) -> bool {
        if let Some(&other) = self.by_pid.get(&key.tgid)
            && let Some(entry) = &mut self.entries[other as usize]
        {
            if entry.key.start_boottime_ns > key.start_boottime_ns {
                return false;
            }
            entry.alive = false;
        }
        self.by_pid.insert(key.tgid, index);
        true
    }

    /// An entry for the process in the scratch slot.
    fn admit(&mut self, facts: &dyn ProcessFacts) -> Entry {
        let description = facts.describe(&self.scratch);
        let comm = name_of(description.comm.as_deref().unwrap_or(&self.scratch.comm));
        let unit = Arc::new(description.unit);
        let (selected, name) = self.choose_name(&comm, &unit);
        self.names.enter(name);
        let mut entry = Entry {
            key: self.scratch.key,
            generation: self.scratch.generation,
            name,
            labels: Arc::new(Labels::process(self.scratch.key.tgid, &comm, &unit.name)),
            unit,
            selected,
            alive: !description.gone,
            attention: Attention::default(),
            quiet: None,
            time_wait: Ledger::default(),
            account: self.scratch.account,
            before: None,
            kinds: Kinds::default(),
            renames: 0,
        };
        self.show_if_there_is_room(&mut entry);
        entry
    }

    /// Moves the counts of slot `index` to its name, and frees the slot. No scrape comes between
    /// the two, because both need the table.
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
        let failing = failing.get_or_insert_with(|| read_failing(source));
        let failures = match failing.remove(&(index, entry.generation)) {
            Some(failures) => {
                let keys: Vec<_> = failures.into_iter().map(|(key, _)| key).collect();
                source.take_sockopt_failures(&keys)
            }
            None => Vec::new(),
        };
        source.free_slot(index);
        // The account's ends are counted for as long as the name has it.
        let tally = Tally::new(&self.scratch, &failures, 0);
        let Some(entry) = self.remove(index) else {
            return;
        };
        let name = self.names.get_mut(entry.name);
        tally.credit(entry.before.as_deref(), name);
        name.totals.take_account(entry.account);
        name.totals.time_wait.merge(entry.time_wait);
    }

    /// Drops the entry of a slot.
    fn remove(&mut self, index: u32) -> Option<Entry> {
        let entry = self.entries[index as usize].take()?;
        if self.by_pid.get(&entry.key.tgid) == Some(&index) {
            self.by_pid.remove(&entry.key.tgid);
        }
        self.names.leave(entry.name, self.now);
        self.departed
            .add(index, entry.generation, entry.name, self.now);
        self.listeners.forget_process(index);
        self.ports.forget_process(index);
        Some(entry)
    }
}

pub(super) fn read_failing(source: &dyn KernelSource) -> Failing {
    let mut failing = Failing::new();
    for (key, count) in source.sockopt_failures() {
        let failures = failing.entry((key.slot, key.generation)).or_default();
        failures.push((key, count));
    }
    failing
}
