//! The state kept between walks, to count the connections that took a port since.

use std::{collections::HashMap, ops::Range, time::Duration};

use observer_common::coarse_time;

use super::destination::RawDestination;

/// The last walk, as far as the next one needs it.
#[derive(Default)]
pub struct History {
    walked_at: Option<Duration>,
    destinations: HashMap<RawDestination, Past>,
    ports: Vec<PortUse>,
    growth: f64,
}

/// A destination in that walk.
struct Past {
    opened: u64,
    ratio: f64,
    /// The range of its ports in [`History::ports`].
    ports: Range<usize>,
}

#[derive(Clone, Copy)]
struct PortUse {
    port: u16,
    in_time_wait: bool,
}

impl History {
    /// By how much the ratio of blocked to available ports grew between the last two walks, per second, where
    /// it grew most. 0 before the second walk.
    #[must_use]
    pub fn growth(&self) -> f64 {
        self.growth
    }

    /// Time since the last walk; 0 without one.
    #[must_use]
    pub fn interval(&self, now: Duration) -> Duration {
        let since = |last| now.saturating_sub(last);
        self.walked_at.map_or(Duration::ZERO, since)
    }

    /// Starts a walk.
    pub(super) fn begin(&mut self, walked: Range<Duration>) -> Remembered<'_> {
        let since = |moment: Duration| Some(moment.saturating_sub(self.walked_at?));
        Remembered {
            next: Self {
                walked_at: Some(walked.end),
                ..Self::default()
            },
            since: since(walked.end),
            between: since(walked.start),
            history: self,
        }
    }
}

/// A walk in progress.
pub(super) struct Remembered<'a> {
    history: &'a mut History,
    next: History,
    /// Time since the last walk.
    since: Option<Duration>,
    /// Time from its end to the beginning of this one.
    between: Option<Duration>,
}

impl Remembered<'_> {
    /// Takes in the ports in use for a destination, in their order, each with its time in TIME_WAIT plus 1, or 0
    /// for a live connection. `ratio_now` is the fraction of the ports that is blocked. Returns the connections that
    /// took a port so far.
    pub fn add(
        &mut self,
        raw: RawDestination,
        ratio_now: f64,
        ports: impl Iterator<Item = (u16, u32)>,
    ) -> u64 {
        let past = self.history.destinations.get(&raw);
        let (mut opened, ratio, range) = match past {
            Some(past) => (past.opened, past.ratio, past.ports.clone()),
            None => (0, 0.0, 0..0),
        };
        let mut before = self.history.ports[range].iter().peekable();
        // A socket that entered TIME_WAIT within this time before its visit did so after the last
        // walk, independent of the durations of the walks.
        let young = self
            .between
            .map_or(0, |between| coarse_time(between.as_nanos() as u64));
        let first = self.next.ports.len();
        for (port, age) in ports {
            while before.next_if(|it| it.port < port).is_some() {}
            let same = before.next_if(|it| it.port == port);
            let is_new = same.is_none_or(|it| it.in_time_wait && age < young);
            opened += u64::from(is_new);
            self.next.ports.push(PortUse {
                port,
                in_time_wait: age != 0,
            });
        }
        if let Some(since) = self.since.filter(|since| !since.is_zero()) {
            let growth = (ratio_now - ratio) / since.as_secs_f64();
            self.next.growth = self.next.growth.max(growth);
        }
        let past = Past {
            opened,
            ratio: ratio_now,
            ports: first..self.next.ports.len(),
        };
        self.next.destinations.insert(raw, past);
        opened
    }

    /// Ends the walk.
    pub fn end(self) {
        *self.history = self.next;
    }
}
