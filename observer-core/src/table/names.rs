//! The names that counts are kept by: `comm` and `unit` of the processes that made them.
//!
//! A name's counts are those of its processes, living and gone, and never go down. A program can
//! call itself anything, so there are [`TableConfig::max_names`](super::TableConfig) of them at
//! most, besides `<unattributed>` and `<other>`. What finds no room counts for `<other>` until a
//! name that has been without processes for [`IDLE`] makes room. The series of such a name end:
//! adding its counts to `<other>` would be a step that nothing caused.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    labels::{Labels, OTHER, UNATTRIBUTED},
    totals::{Failure, Totals},
};
use crate::process::Unit;

/// Index of a name.
pub(super) type NameId = usize;

/// Events whose owner is not known.
pub(super) const UNATTRIBUTED_ID: NameId = 0;
/// Processes past the bound, without a slot, or not selected.
pub(super) const OTHER_ID: NameId = 1;
/// Names that are always there, before those of processes.
pub(crate) const FIXED: usize = 2;

/// A name without processes is kept for this long when others want its place: longer than a
/// dashboard's shortest range, and than any socket in TIME_WAIT counts for it.
pub(super) const IDLE: Duration = Duration::from_secs(600);

/// When there is no room, this part of the names makes some at once, if it has been idle.
const PART: usize = 8;

/// The most kinds of failed setsockopt calls shown of one name or process. Any program can make
/// up option numbers; a broken one has a handful.
pub(crate) const KINDS: usize = 64;

/// Which kinds of failures are shown; the rest is [`Failure::REST`]. A kind once shown stays
/// shown, so no counter goes down.
#[derive(Debug, Default)]
pub(super) struct Kinds(BTreeSet<Failure>);

impl Kinds {
    /// How failures of `kind` are shown.
    pub fn of(&mut self, kind: Failure) -> Failure {
        if kind == Failure::REST || self.0.contains(&kind) {
            return kind;
        }
        if self.0.len() >= KINDS {
            return Failure::REST;
        }
        self.0.insert(kind);
        kind
    }
}

/// A name.
#[derive(Debug)]
pub(super) struct Name {
    pub labels: Arc<Labels>,
    pub unit: Arc<Unit>,
    /// What processes left behind that are gone, or count for another name by now.
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

    /// Adds failed setsockopt calls of processes that are gone.
    pub fn fail(&mut self, kind: Failure, count: u64) {
        if count > 0 {
            let kind = self.kinds.of(kind);
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
    /// Room for so many, besides the two that are always there.
    pub fn new(most: usize) -> Self {
        let fixed = |comm| Some(Name::new(Arc::new(Labels::name(comm, "")), Arc::default()));
        Self {
            by_id: vec![fixed(UNATTRIBUTED), fixed(OTHER)],
            ids: HashMap::new(),
            most,
            evicted: 0,
        }
    }

    /// The name of this comm and unit, `None` when there is no room for it. Names that made room are
    /// added to `evicted`.
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

    /// Whether there is room for another name, or some can be made.
    pub fn has_room(&self, now: Instant) -> bool {
        self.ids.len() < self.most || self.idle(now).next().is_some()
    }

    /// Those that may make room, and since when.
    fn idle(&self, now: Instant) -> impl Iterator<Item = (Instant, NameId)> {
        let names = (FIXED..).zip(&self.by_id[FIXED..]);
        names.filter_map(move |(id, name)| {
            let name = name.as_ref().filter(|name| !name.totals.rests())?;
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

    /// Names of processes, without the two that are always there.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// How many made room for others so far.
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
