//! Names (`comm` and `unit`), by which counts are aggregated.
//!
//! The counts of a name are those of its running and ended processes, and never decrease. Because a
//! program can choose any comm, the number of names is limited to
//! [`TableConfig::max_names`](super::TableConfig), besides `<unattributed>` and `<other>`. At the
//! limit, new names count for `<other>` until a name that has had no process for [`IDLE`] is evicted.
//! The series of an evicted name end: adding its counts to `<other>` would be an increase without an
//! event.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use observer_common::SOCKOPT_KINDS;

use super::{
    labels::{Labels, OTHER, UNATTRIBUTED},
    totals::{Failure, Totals},
};
use crate::process::Unit;

/// Index of a name.
pub(super) type NameId = usize;

/// Events whose owner is not known.
pub(super) const UNATTRIBUTED_ID: NameId = 0;
/// Processes beyond the limit, without a slot, or not selected.
pub(super) const OTHER_ID: NameId = 1;
/// Number of names that always exist, before those of processes.
pub(crate) const FIXED: usize = 2;

/// A name without processes is not evicted before this time: longer than the shortest range of a
/// dashboard, and than any socket in TIME_WAIT counts for it.
pub(super) const IDLE: Duration = Duration::from_secs(600);

/// At the limit, at most one in this many names is evicted per step, among the idle ones.
const PART: usize = 8;

/// Maximum number of kinds of failed setsockopt calls per name or process. The kernel programs keep to
/// it for each process.
pub(crate) const KINDS: usize = SOCKOPT_KINDS as usize;

/// The kinds of failures that are shown; others count as [`Failure::OTHER`]. A kind that was shown
/// stays shown, so that no counter decreases.
#[derive(Debug, Default)]
pub(super) struct Kinds(BTreeSet<Failure>);

impl Kinds {
    /// How failures of `kind` are shown, from now on.
    pub fn admit(&mut self, kind: Failure) -> Failure {
        if kind != Failure::OTHER && self.0.len() < KINDS {
            self.0.insert(kind);
        }
        self.shown(kind)
    }

    /// The labels of failures of `kind`: its own, or `other` beyond the limit.
    pub fn shown(&self, kind: Failure) -> Failure {
        if self.0.contains(&kind) {
            kind
        } else {
            Failure::OTHER
        }
    }
}

/// A name.
#[derive(Debug)]
pub(super) struct Name {
    pub labels: Arc<Labels>,
    pub unit: Arc<Unit>,
    /// Counts of processes that have ended, or count for another name now.
    pub totals: Box<Totals>,
    /// Processes in the table that count for it.
    pub processes: usize,
    pub kinds: Kinds,
    /// When the last process left.
    idle_since: Option<Instant>,
}

impl Name {
    fn new(labels: Arc<Labels>, unit: Arc<Unit>) -> Self {
        Self {
            labels,
            unit,
            totals: Totals::new(),
            processes: 0,
            kinds: Kinds::default(),
            idle_since: None,
        }
    }

    /// Adds failed setsockopt calls of processes that have ended.
    pub fn fail(&mut self, kind: Failure, count: u64) {
        if count > 0 {
            let kind = self.kinds.admit(kind);
            self.totals.add_failures(kind, count);
        }
    }
}

/// All names.
#[derive(Debug)]
pub(super) struct Names {
    by_id: Vec<Option<Name>>,
    ids: HashMap<Arc<Labels>, NameId>,
    most: usize,
    evicted: u64,
}

impl Names {
    /// At most `most` names, besides the two that always exist.
    pub fn new(most: usize) -> Self {
        let fixed = |comm| Some(Name::new(Arc::new(Labels::name(comm, "")), Arc::default()));
        Self {
            by_id: vec![fixed(UNATTRIBUTED), fixed(OTHER)],
            ids: HashMap::new(),
            most,
            evicted: 0,
        }
    }

    /// The name of this comm and unit, `None` at the limit. Evicted names are added to `evicted`.
    pub fn find(
        &mut self,
        comm: &str,
        unit: &Arc<Unit>,
        now: Instant,
        evicted: &mut Vec<NameId>,
    ) -> Option<NameId> {
        let labels = Labels::name(comm, &unit.name);
        if let Some(&id) = self.ids.get(&labels) {
            return Some(id);
        }
        if self.ids.len() >= self.most {
            self.make_room(now, evicted);
        }
        if self.ids.len() >= self.most {
            return None;
        }
        let free = self.by_id.iter().position(Option::is_none);
        let id = free.unwrap_or(self.by_id.len());
        if id == self.by_id.len() {
            self.by_id.push(None);
        }
        let labels = Arc::new(labels);
        self.ids.insert(Arc::clone(&labels), id);
        self.by_id[id] = Some(Name::new(labels, Arc::clone(unit)));
        Some(id)
    }

    /// Whether another name can be added, if need be by evicting one.
    pub fn has_room(&self, now: Instant) -> bool {
        self.ids.len() < self.most || self.idle(now).next().is_some()
    }

    /// Names that can be evicted, and since when they are idle.
    fn idle(&self, now: Instant) -> impl Iterator<Item = (Instant, NameId)> {
        let names = (FIXED..).zip(&self.by_id[FIXED..]);
        names.filter_map(move |(id, name)| {
            let name = name.as_ref().filter(|name| !name.totals.has_time_waits())?;
            let since = name.idle_since?;
            (now.saturating_duration_since(since) >= IDLE).then_some((since, id))
        })
    }

    /// A process counts for this name from now on.
    pub fn enter(&mut self, id: NameId) {
        let name = self.get_mut(id);
        name.processes += 1;
        name.idle_since = None;
    }

    /// A process does not count for this name any more.
    pub fn leave(&mut self, id: NameId, now: Instant) {
        let name = self.get_mut(id);
        name.processes -= 1;
        if name.processes == 0 {
            name.idle_since = Some(now);
        }
    }

    pub fn get(&self, id: NameId) -> &Name {
        self.by_id[id]
            .as_ref()
            .expect("a name in use is not evicted")
    }

    pub fn get_mut(&mut self, id: NameId) -> &mut Name {
        self.by_id[id]
            .as_mut()
            .expect("a name in use is not evicted")
    }

    /// One above the highest index.
    pub fn ids(&self) -> usize {
        self.by_id.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (NameId, &Name)> {
        let names = self.by_id.iter().enumerate();
        names.filter_map(|(id, name)| Some((id, name.as_ref()?)))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Name> {
        self.by_id.iter_mut().flatten()
    }

    /// Number of names, without the two that always exist.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Number of names evicted so far.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    fn make_room(&mut self, now: Instant, evicted: &mut Vec<NameId>) {
        let mut idle: Vec<_> = self.idle(now).collect();
        idle.sort_unstable();
        for (_, id) in idle.into_iter().take((self.most / PART).max(1)) {
            if let Some(name) = self.by_id[id].take() {
                self.ids.remove(&name.labels);
                self.evicted += 1;
                evicted.push(id);
            }
        }
    }
}
