//! Listening sockets by address, of each name and of each process.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::{Duration, Instant},
};

use observer_common::{ListenerKey, ListenerSample};

use super::{
    Table,
    labels::Labels,
    names::{NameId, UNATTRIBUTED_ID},
};
use crate::{net::overflows::Overflows, ports::address};

/// The most addresses shown of one name or process. What is past that is summed up.
pub(crate) const ADDRESSES: usize = 64;

/// An address where nothing has listened for this long makes room for another. Its series ends.
const IDLE: Duration = Duration::from_secs(600);

/// Where a socket listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Address and port.
    pub address: SocketAddr,
}

impl From<&ListenerSample> for Place {
    fn from(sample: &ListenerSample) -> Self {
        let listener = &sample.listener;
        Self {
            netns: listener.netns,
            address: SocketAddr::new(address(listener.address), listener.port),
        }
    }
}

/// What is known of the sockets that listen, or listened, in one place.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Listening {
    /// How many listen now.
    pub sockets: u64,
    /// Connections that wait to be accepted.
    pub backlog: u64,
    /// The most that may wait.
    pub max_backlog: u64,
    /// Of the socket whose queue is fullest, the part of its queue that is in use.
    pub fullest: f64,
    /// Connection requests dropped for whatever reason.
    pub drops: u64,
    /// Connection requests dropped for a full accept queue.
    pub overflows: u64,
}

impl Listening {
    /// Adds the counts of `counts`, and the gauges of a socket that listens.
    fn add(&mut self, counts: &Counts, sample: Option<&ListenerSample>) {
        self.drops += counts.drops;
        self.overflows += counts.overflows;
        let Some(sample) = sample.filter(|sample| sample.listener.closed == 0) else {
            return;
        };
        self.sockets += 1;
        self.backlog += u64::from(sample.backlog);
        self.max_backlog += u64::from(sample.max_backlog);
        // A backlog of 0 lets one connection in.
        let full = f64::from(sample.backlog) / f64::from(sample.max_backlog.max(1));
        self.fullest = self.fullest.max(full);
    }

    fn forget_gauges(&mut self) {
        *self = Self {
            drops: self.drops,
            overflows: self.overflows,
            ..Self::default()
        };
    }
}

/// What was dropped between two readings.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    drops: u64,
    overflows: u64,
}

/// By address, `None` for those past the limit.
#[derive(Debug, Default)]
struct Places(BTreeMap<Option<Place>, (Listening, Instant)>);

impl Places {
    fn at(&mut self, place: Option<Place>, now: Instant) -> &mut Listening {
        let known = self.0.contains_key(&place);
        if !known && self.0.len() >= ADDRESSES {
            self.0.retain(|place, (listening, last)| {
                let idle = now.saturating_duration_since(*last) >= IDLE;
                place.is_none() || listening.sockets > 0 || !idle
            });
        }
        let place = place.filter(|_| known || self.0.len() < ADDRESSES);
        let (listening, last) = self.0.entry(place).or_insert((Listening::default(), now));
        *last = now;
        listening
    }

    fn forget_gauges(&mut self) {
        for (listening, _) in self.0.values_mut() {
            listening.forget_gauges();
        }
    }

    /// What never counted anything leaves no trace.
    fn prune(&mut self) -> bool {
        self.0
            .retain(|_, (it, _)| it.sockets > 0 || it.drops > 0 || it.overflows > 0);
        !self.0.is_empty()
    }
}

/// Listening sockets, as of the last reading.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    by_name: BTreeMap<NameId, Places>,
    /// By slot.
    by_process: BTreeMap<u32, Places>,
    /// Drops and overflows of each socket that are in `by_name`.
    counted: HashMap<ListenerKey, (u32, u64)>,
}

impl Listeners {
    /// The name made room for another.
    pub fn forget_name(&mut self, id: NameId) {
        self.by_name.remove(&id);
    }

    /// The process lost its slot.
    pub fn forget_process(&mut self, slot: u32) {
        self.by_process.remove(&slot);
    }

    fn places(&mut self) -> impl Iterator<Item = &mut Places> {
        let names = self.by_name.values_mut();
        names.chain(self.by_process.values_mut())
    }
}

impl Table {
    /// Takes in a reading of all listeners, those included that ended since the one before.
    /// `overflows` is `None` where the samples have them.
    pub fn update_listeners(&mut self, samples: &[ListenerSample], overflows: Option<&Overflows>) {
        self.forget_listeners();
        let mut counted = HashMap::with_capacity(samples.len());
        for sample in samples {
            let listener = &sample.listener;
            let known = self.listeners.counted.get(&sample.key).copied();
            let (drops, exact) = known.unwrap_or_default();
            // One whose end was not seen says less at last than before.
            let new_drops = match listener.closed {
                0 => listener.dropped().wrapping_sub(drops),
                _ => listener.dropped().saturating_sub(drops),
            };
            let counts = Counts {
                drops: u64::from(new_drops),
                overflows: match overflows {
                    None => listener.overflows.saturating_sub(exact),
                    Some(_) => 0,
                },
            };
            self.count_listener(sample, &counts, Some(sample));
            if listener.closed == 0 {
                counted.insert(sample.key, (listener.dropped(), listener.overflows));
            }
        }
        self.listeners.counted = counted;
        if let Some(Overflows {
            certain,
            unattributed,
        }) = overflows
        {
            for (sample, overflows) in certain {
                let counts = Counts {
                    drops: 0,
                    overflows: *overflows,
                };
                self.count_listener(sample, &counts, None);
            }
            if *unattributed > 0 {
                let places = self.listeners.by_name.entry(UNATTRIBUTED_ID).or_default();
                places.at(None, self.now).overflows += unattributed;
            }
        }
        let Listeners {
            by_name,
            by_process,
            counted: _,
        } = &mut self.listeners;
        by_name.retain(|_, places| places.prune());
        by_process.retain(|_, places| places.prune());
    }

    /// Forgets how many listen and wait: the reading is out of date, or could not be made.
    pub fn forget_listeners(&mut self) {
        self.listeners.places().for_each(Places::forget_gauges);
    }

    fn count_listener(
        &mut self,
        at: &ListenerSample,
        counts: &Counts,
        sample: Option<&ListenerSample>,
    ) {
        let (slot, generation) = (at.listener.slot, at.listener.generation);
        let place = Some(Place::from(at));
        let id = self.name_of_slot(slot, generation);
        let living = self
            .entry(slot, generation)
            .is_some_and(|entry| entry.alive);
        let Listeners {
            by_name,
            by_process,
            counted: _,
        } = &mut self.listeners;
        let places = by_name.entry(id).or_default();
        places.at(place, self.now).add(counts, sample);
        if living {
            let places = by_process.entry(slot).or_default();
            places.at(place, self.now).add(counts, sample);
        }
    }

    /// Shows every series to `visit`: where, `None` for several places summed up, and what.
    pub fn visit_listeners(&self, visit: &mut dyn FnMut(&Labels, Option<&Place>, &Listening)) {
        let names = self.listeners.by_name.iter();
        let names = names.map(|(id, places)| (&*self.names.get(*id).labels, places));
        let processes = self.listeners.by_process.iter();
        let processes = processes.filter_map(|(slot, places)| {
            let entry = self.holder(*slot)?;
            entry.is_shown().then_some((&*entry.labels, places))
        });
        for (labels, places) in names.chain(processes) {
            for (place, (listening, _)) in &places.0 {
                visit(labels, place.as_ref(), listening);
            }
        }
    }
}
