//! Listening sockets by process and address.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use observer_common::{ListenerKey, ListenerSample};

use super::{Table, labels::Labels};
use crate::ports::address;

/// The most addresses shown of one process, or group of exited ones. What is past that is
/// summed up.
const ADDRESSES: usize = 64;

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// How many listen now.
    pub sockets: u64,
    /// Connections that wait to be accepted.
    pub backlog: u64,
    /// The most that may wait.
    pub max_backlog: u64,
    /// Connection requests dropped for whatever reason.
    pub drops: u64,
    /// Connection requests dropped for a full accept queue.
    pub overflows: u64,
}

impl Listening {
    fn merge(&mut self, other: &Self) {
        let Self {
            sockets,
            backlog,
            max_backlog,
            drops,
            overflows,
        } = other;
        self.sockets += sockets;
        self.backlog += backlog;
        self.max_backlog += max_backlog;
        self.drops += drops;
        self.overflows += overflows;
    }
}

/// Requests that met a full accept queue, where they are told from the namespace's counters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overflows {
    /// Those that are certain to be a listener's.
    pub certain: Vec<(ListenerSample, u64)>,
    /// Those of several that cannot be told apart.
    pub unattributed: u64,
}

/// By address, `None` for those past the limit.
type Places = BTreeMap<Option<Place>, Listening>;

/// Listening sockets, as of the last reading.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    series: BTreeMap<Arc<Labels>, Places>,
    /// Drops and overflows of each socket that are in `series`.
    counted: HashMap<ListenerKey, (u32, u64)>,
}

impl Listeners {
    fn at(&mut self, labels: &Arc<Labels>, place: Option<Place>) -> &mut Listening {
        let places = self.series.entry(Arc::clone(labels)).or_default();
        let known = places.len() < ADDRESSES || places.contains_key(&place);
        places.entry(place.filter(|_| known)).or_default()
    }
}

impl Table {
    /// Takes in a reading of all listeners, those included that ended since the one before.
    /// `overflows` is `None` where the samples have them.
    pub fn update_listeners(&mut self, samples: &[ListenerSample], overflows: Option<&Overflows>) {
        for listening in self
            .listeners
            .series
            .values_mut()
            .flat_map(|it| it.values_mut())
        {
            listening.sockets = 0;
            listening.backlog = 0;
            listening.max_backlog = 0;
        }
        let mut counted = HashMap::with_capacity(samples.len());
        for sample in samples {
            let listener = &sample.listener;
            let labels = self.labels_of(listener.slot, listener.generation);
            let known = self.listeners.counted.get(&sample.key).copied();
            let (drops, exact) = known.unwrap_or_default();
            // One whose end was not seen says less at last than before.
            let new_drops = match listener.closed {
                0 => listener.dropped().wrapping_sub(drops),
                _ => listener.dropped().saturating_sub(drops),
            };
            let listening = self.listeners.at(&labels, Some(Place::from(sample)));
            listening.drops += u64::from(new_drops);
            if overflows.is_none() {
                listening.overflows += listener.overflows.saturating_sub(exact);
            }
            if listener.closed == 0 {
                listening.sockets += 1;
                listening.backlog += u64::from(sample.backlog);
                listening.max_backlog += u64::from(sample.max_backlog);
                counted.insert(sample.key, (listener.dropped(), listener.overflows));
            }
        }
        self.listeners.counted = counted;
        if let Some(Overflows {
            certain,
            unattributed,
        }) = overflows
        {
            for (sample, count) in certain {
                let labels = self.labels_of(sample.listener.slot, sample.listener.generation);
                let listening = self.listeners.at(&labels, Some(Place::from(sample)));
                listening.overflows += count;
            }
            if *unattributed > 0 {
                let labels = Arc::new(Labels::new("unattributed", "", ""));
                self.listeners.at(&labels, None).overflows += unattributed;
            }
        }
        // What never counted anything leaves no trace.
        self.listeners.series.retain(|_, places| {
            places.retain(|_, it| it.sockets > 0 || it.drops > 0 || it.overflows > 0);
            !places.is_empty()
        });
    }

    /// Shows every series to `visit`: where, `None` for several places summed up, and what.
    pub fn visit_listeners(&self, visit: &mut dyn FnMut(&Labels, Option<&Place>, &Listening)) {
        for (labels, places) in &self.listeners.series {
            for (place, listening) in places {
                visit(labels, place.as_ref(), listening);
            }
        }
    }

    /// Moves the counts of processes that are gone to the groups of the exited.
    pub(super) fn fold_listeners(&mut self) {
        let gone = |labels: &Arc<Labels>| is_process(labels) && !self.own.contains_key(labels);
        let folded: Vec<_> = self
            .listeners
            .series
            .extract_if(.., |it, _| gone(it))
            .collect();
        for (labels, places) in folded {
            let group = self.exited_labels(&labels);
            for (place, listening) in places {
                let counts = Listening {
                    drops: listening.drops,
                    overflows: listening.overflows,
                    ..Listening::default()
                };
                self.listeners.at(&group, place).merge(&counts);
            }
        }
    }

    /// The group that a process with these labels belongs to once it is gone.
    fn exited_labels(&self, labels: &Labels) -> Arc<Labels> {
        let group = Arc::new(labels.exited());
        let known = self.listeners.series.contains_key(&group);
        if known || self.listeners.series.len() < 2 * self.config.max_processes {
            return group;
        }
        Arc::new(Labels::exited_unnamed())
    }
}

/// Whether a series is that of one process.
pub(super) fn is_process(labels: &Labels) -> bool {
    labels.pid().starts_with(|c: char| c.is_ascii_digit())
}
