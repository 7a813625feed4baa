//! What the kernel programs could not count or write, and since when.

use std::{collections::BTreeMap, time::Duration};

use observer_common::{
    CpuStats, FULL_MAP_NAMES, MAP_CONNECTIONS, MAP_PROCESSES, MAP_TIME_WAITS, SIGNAL_NAMES,
};

use super::item::NotLookedAt;
use crate::{clock::Clock, contract::MapFill, detect::number};

/// A total that grows by what is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Total {
    /// Events of a signal, by its number.
    Events(usize),
    /// Entries that a map refused, by its number.
    Entries(usize),
    /// Records of any kind.
    Records,
}

/// How far a total has grown, and when.
#[derive(Clone, Copy, Debug)]
struct Loss {
    count: u64,
    first_at: Duration,
    last_at: Duration,
}

/// The losses since the start.
#[derive(Debug, Default)]
pub struct Losses {
    all: BTreeMap<Total, Loss>,
    /// Events of each signal, lost or not.
    seen: Vec<u64>,
}

impl Losses {
    /// Takes in the totals as they are at `now` (CLOCK_MONOTONIC): to be called at short intervals.
    pub fn note(&mut self, stats: &CpuStats, now: Duration) {
        let events = stats.outcomes.iter().map(|it| it.lost).enumerate();
        let events = events.map(|(signal, lost)| (Total::Events(signal), lost));
        let entries = stats.map_full.iter().copied().enumerate();
        let entries = entries.map(|(map, refused)| (Total::Entries(map), refused));
        let records = (Total::Records, stats.records_lost.iter().sum());
        for (total, count) in events.chain(entries).chain([records]) {
            if count == 0 {
                continue;
            }
            let loss = self.all.entry(total).or_insert(Loss {
                count: 0,
                first_at: now,
                last_at: now,
            });
            if count > loss.count {
                (loss.count, loss.last_at) = (count, now);
            }
        }
        self.seen.clear();
        self.seen.extend(stats.outcomes.iter().map(|it| it.seen));
    }

    /// What is incomplete because of them. `maps` are the fill levels.
    pub(super) fn not_looked_at(&self, maps: &[MapFill], clock: Clock) -> Vec<NotLookedAt> {
        let all = self.all.iter();
        all.map(|(total, loss)| of_loss(*total, loss, &self.seen, maps, clock))
            .collect()
    }
}

fn of_loss(total: Total, loss: &Loss, seen: &[u64], maps: &[MapFill], clock: Clock) -> NotLookedAt {
    let count = number(loss.count);
    let first = clock.rfc3339_at(loss.first_at);
    let when = if loss.first_at == loss.last_at {
        format!("at {first}")
    } else {
        format!("from {first} to {}", clock.rfc3339_at(loss.last_at))
    };
    match total {
        Total::Events(signal) => {
            let seen = number(seen.get(signal).copied().unwrap_or_default());
            NotLookedAt {
                what: format!("some events of {}", SIGNAL_NAMES[signal]),
                why: format!("{count} of {seen} since the start were lost, {when}"),
            }
        }
        Total::Entries(map) => {
            let name = FULL_MAP_NAMES[map];
            let fill = maps.iter().find(|it| it.map == name);
            let fill = fill.map_or_else(String::new, |it| {
                let (entries, capacity) = (number(it.entries), number(it.capacity));
                format!("; now {entries} of {capacity} are in use")
            });
            let remedy = option(map as u32).map_or_else(String::new, |option| {
                format!("; a leak may fill it, else raise --{option}")
            });
            NotLookedAt {
                what: format!("what had no room in the map {name}"),
                why: format!(
                    "it was full, or one process had its share of it, {count} times, {when}{fill}{remedy}"
                ),
            }
        }
        Total::Records => NotLookedAt {
            what: "some peers of findings and addresses of failed binds".to_owned(),
            why: format!(
                "the ring buffer had no room for {count} of them, {when}; raise --ring-bytes"
            ),
        },
    }
}

/// The setting of a map's size.
fn option(map: u32) -> Option<&'static str> {
    match map {
        MAP_CONNECTIONS | MAP_TIME_WAITS => Some("max-connections"),
        MAP_PROCESSES => Some("max-tracked-processes"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use observer_common::{Pod as _, SIGNAL_STATE};

    use super::*;

    #[test]
    fn it_says_what_is_incomplete_and_since_when() {
        let mut stats = CpuStats::read_from(&[0; size_of::<CpuStats>()]).unwrap();
        let mut losses = Losses::default();
        let clock = Clock::default();
        let at = Duration::from_secs;
        stats.outcomes[SIGNAL_STATE as usize].seen = 2_000;
        losses.note(&stats, at(1));
        assert_eq!(losses.not_looked_at(&[], clock), []);
        stats.outcomes[SIGNAL_STATE as usize].lost = 3;
        stats.map_full[MAP_CONNECTIONS as usize] = 2;
        losses.note(&stats, at(2));
        losses.note(&stats, at(3));
        stats.outcomes[SIGNAL_STATE as usize].lost = 7;
        stats.records_lost[0] = 1;
        losses.note(&stats, at(4));
        losses.note(&stats, at(5));
        let maps = [MapFill {
            map: "connections",
            entries: 131_000,
            capacity: 131_072,
            refused: 2,
        }];
        let said = losses.not_looked_at(&maps, clock);
        let said: Vec<_> = said.iter().map(|it| (&*it.what, &*it.why)).collect();
        assert_eq!(
            said,
            [
                (
                    "some events of state",
                    "7 of 2,000 since the start were lost, from 1970-01-01T00:00:02.000000Z to \
                     1970-01-01T00:00:04.000000Z"
                ),
                (
                    "what had no room in the map connections",
                    "it was full, or one process had its share of it, 2 times, at 1970-01-01T00:00:02.000000Z; now 131,000 \
                     of 131,072 are in use; a leak may fill it, else raise --max-connections"
                ),
                (
                    "some peers of findings and addresses of failed binds",
                    "the ring buffer had no room for 1 of them, at 1970-01-01T00:00:04.000000Z; raise --ring-bytes"
                ),
            ]
        );
    }
}
