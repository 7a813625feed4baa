//! Where the counts of exited processes stay: groups of one name and unit, so many at most.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use super::{Labels, totals::Totals};

/// When there is no room, this part of the groups makes some.
const PART: usize = 8;

struct Group {
    totals: Box<Totals>,
    /// When it was last added to, by [`Exited::clock`].
    last: u64,
}

/// The groups, and the unnamed one for what has none of its own.
#[derive(Default)]
pub(super) struct Exited {
    groups: BTreeMap<Arc<Labels>, Group>,
    clock: u64,
}

impl Exited {
    /// The group that an exited process with these labels belongs to. When there are `most`
    /// already, those that were added to longest ago become part of the unnamed one, but for
    /// names that are among the `living`: their sums must not go down.
    pub fn group<'a>(
        &mut self,
        labels: &Labels,
        most: usize,
        living: impl Iterator<Item = &'a Labels>,
    ) -> &mut Totals {
        let group = Arc::new(labels.exited());
        // The unnamed group needs no room.
        let named = *group != Labels::exited_unnamed();
        if named && !self.groups.contains_key(&group) && self.named() >= most {
            self.make_room(most, living);
            if self.named() >= most {
                return self.unnamed();
            }
        }
        self.at(group)
    }

    /// The group of those that have none of their own.
    pub fn unnamed(&mut self) -> &mut Totals {
        self.at(Arc::new(Labels::exited_unnamed()))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Arc<Labels>, &Totals)> {
        let groups = self.groups.iter();
        groups.map(|(labels, group)| (labels, &*group.totals))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Totals> {
        self.groups.values_mut().map(|group| &mut *group.totals)
    }

    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Groups other than the unnamed one.
    fn named(&self) -> usize {
        let unnamed = self.groups.contains_key(&Labels::exited_unnamed());
        self.groups.len() - usize::from(unnamed)
    }

    fn at(&mut self, group: Arc<Labels>) -> &mut Totals {
        self.clock += 1;
        let group = self.groups.entry(group).or_insert_with(|| Group {
            totals: Totals::new(),
            last: 0,
        });
        group.last = self.clock;
        &mut group.totals
    }

    fn make_room<'a>(&mut self, most: usize, living: impl Iterator<Item = &'a Labels>) {
        let living: HashSet<(&str, &str)> = living.map(|it| (it.comm(), it.unit())).collect();
        let unnamed = Labels::exited_unnamed();
        let mut oldest: Vec<_> = self
            .groups
            .iter()
            .filter(|(labels, _)| {
                ***labels != unnamed && !living.contains(&(labels.comm(), labels.unit()))
            })
            .map(|(labels, group)| (group.last, Arc::clone(labels)))
            .collect();
        oldest.sort_unstable();
        for (_, labels) in oldest.into_iter().take((most / PART).max(1)) {
            if let Some(group) = self.groups.remove(&labels) {
                self.unnamed().merge(*group.totals);
            }
        }
    }
}
