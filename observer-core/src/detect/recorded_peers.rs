//! Counts from records with whom connections fail. Records are read only while a finding is suspected.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use observer_common::{
    CONN_ACTIVE, CONN_PASSIVE, CONN_RESET_SENT, ENDED_TIMEOUT, ENDED_UNUSED, GAVE_UP_MS,
    RECORD_CLOSE, RECORD_CONNECT_FAILED, RECORD_RESET_RECEIVED, RECORD_RESET_SENT, Record,
    SLOT_FIRST, SYN_RECV, SYN_SENT,
};

use super::{
    finding::PeerReason,
    reset_peers::{Owner, ResetPeers, ends},
    sample::ConnectResult,
};
use crate::{heaviest::Heaviest, walk::Peer};

/// How long records are read after the last suspicion: the number of failures wavers around that of a suspicion.
const KEPT: Duration = Duration::from_secs(60);
/// Interval at which counts are halved, so that old ones fade.
const PERIOD: Duration = Duration::from_secs(10);
/// A count that is forgotten: of one record after a minute, so that slow retry loops have some.
const FADED: f64 = 1.0 / 100.0;
/// Maximum number of records of each kind in a second. They are a sample, for all findings together: those of
/// one must not leave the next one without.
const MOST: u32 = 2_000;
const SECOND: Duration = Duration::from_secs(1);
/// Age of a connection up to which it may have ended in a handshake.
const SHORT: Duration = Duration::from_secs(10);
/// Number of processes with counts, running and ended, of which those with the fewest records are forgotten if
/// there are twice as many.
const OWNERS: usize = 2_048;

/// What is suspected, so that records of it are worth reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suspected {
    /// That connects fail.
    pub connects: bool,
    /// A storm of RSTs.
    pub resets: bool,
    /// That peers no longer answer, or that the program gives up before they do.
    pub silence: bool,
    /// That TLS handshakes fail.
    pub handshakes: bool,
}

/// An event of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A connect failed.
    ConnectFailed,
    /// It sent an RST.
    ResetSent,
    /// It received one.
    ResetReceived,
    /// It ended because nothing answered, and sent no RST.
    Unanswered,
    /// The program closed it after it had waited for the peer for a second or longer.
    GaveUp,
    /// One that it had opened ended soon after that, in whatever way: which of them failed in a handshake is unknown.
    Short,
}

/// By [`Event`].
type Events = [Heaviest<PeerReason>; 6];

/// Whether kinds of records are to be read.
#[derive(Debug)]
struct Reading {
    kinds: u32,
    until: Duration,
    /// Records in this second.
    taken: u32,
}

impl Reading {
    fn of(kinds: &[u8]) -> Self {
        Self {
            kinds: kinds.iter().fold(0, |all, kind| all | 1 << kind),
            until: Duration::ZERO,
            taken: 0,
        }
    }

    fn is_wanted(&self, now: Duration) -> bool {
        now < self.until && self.taken < MOST
    }
}

/// Counts from records.
#[derive(Debug)]
pub struct RecordedPeers {
    now: Duration,
    second_began: Duration,
    period_began: Duration,
    readings: [Reading; 3],
    /// Until when short connections are counted.
    short_until: Duration,
    owners: HashMap<Owner, Events>,
    /// Destinations that are addresses of this host, by network namespace.
    here: Heaviest<(u32, IpAddr)>,
    resets: ResetPeers,
}

impl Default for RecordedPeers {
    fn default() -> Self {
        Self {
            now: Duration::ZERO,
            second_began: Duration::ZERO,
            period_began: Duration::ZERO,
            readings: [
                Reading::of(&[RECORD_CONNECT_FAILED]),
                Reading::of(&[RECORD_RESET_SENT, RECORD_RESET_RECEIVED]),
                Reading::of(&[RECORD_CLOSE]),
            ],
            short_until: Duration::ZERO,
            owners: HashMap::new(),
            here: Heaviest::default(),
            resets: ResetPeers::default(),
        }
    }
}

impl RecordedPeers {
    /// Sets what records are requested for, and lets counts fade; to be called each tick. `now` is
    /// CLOCK_MONOTONIC.
    pub fn want(&mut self, suspected: Suspected, now: Duration) {
        let Suspected {
            connects,
            resets,
            silence,
            handshakes,
        } = suspected;
        let suspected = [connects, resets, silence || handshakes];
        self.now = now;
        if handshakes {
            self.short_until = now + KEPT;
        }
        for (reading, suspected) in self.readings.iter_mut().zip(suspected) {
            if suspected {
                reading.until = now + KEPT;
            }
        }
        if now.saturating_sub(self.second_began) >= SECOND {
            self.second_began = now;
            for reading in &mut self.readings {
                reading.taken = 0;
            }
        }
        if now.saturating_sub(self.period_began) >= PERIOD {
            self.period_began = now;
            self.fade();
        }
    }

    fn fade(&mut self) {
        self.resets.fade();
        self.here.fade(FADED);
        for events in self.owners.values_mut() {
            events.iter_mut().for_each(|it| it.fade(FADED));
        }
        self.owners.retain(|_, events| weight(events) > 0.0);
        if self.owners.is_empty() {
            // The memory of the largest incident so far.
            self.owners.shrink_to_fit();
        }
    }

    /// Kinds of records to read, one bit per `RECORD_` number.
    #[must_use]
    pub fn kinds(&self) -> u32 {
        let wanted = self.readings.iter().filter(|it| it.is_wanted(self.now));
        wanted.fold(0, |all, it| all | it.kinds)
    }

    /// Takes in records of all kinds. The two of a reset connection come in either order.
    pub fn add(&mut self, records: &[Record]) {
        for record in records {
            self.add_one(record);
        }
    }

    fn add_one(&mut self, record: &Record) {
        let of_kind = |it: &&mut Reading| it.kinds & 1 << record.kind != 0;
        let Some(reading) = self.readings.iter_mut().find(of_kind) else {
            return;
        };
        if !reading.is_wanted(self.now) {
            return;
        }
        reading.taken += 1;
        if record.slot < SLOT_FIRST {
            return;
        }
        let (event, reason) = match record.kind {
            RECORD_CONNECT_FAILED => (
                Event::ConnectFailed,
                Some(ConnectResult::of_record(record).name()),
            ),
            RECORD_RESET_SENT => (Event::ResetSent, None),
            RECORD_RESET_RECEIVED => (Event::ResetReceived, None),
            _ if is_unanswered(record) => (Event::Unanswered, None),
            _ if gave_up(record) => (Event::GaveUp, None),
            _ if self.now < self.short_until && is_short(record) => (Event::Short, None),
            _ => return,
        };
        if matches!(event, Event::ResetSent | Event::ResetReceived) {
            self.resets.add(record);
        }
        let [(local, _), (remote, _)] = ends(record);
        // The kernel chooses the address that is connected to, if it is one of its own.
        if event == Event::ConnectFailed && local == remote {
            self.here.add((record.netns, remote), 1.0);
        }
        let owner = (record.slot, record.generation);
        let of_event = &mut self.owners.entry(owner).or_default()[event as usize];
        match peer(record, event) {
            Some(peer) => of_event.add((peer, reason), 1.0),
            None => of_event.add_others(1.0),
        }
        if self.owners.len() > 2 * OWNERS {
            self.forget_light();
        }
    }

    fn forget_light(&mut self) {
        let mut weights: Vec<_> = self.owners.values().map(weight).collect();
        let (_, light, _) = weights.select_nth_unstable_by(OWNERS, |a, b| b.total_cmp(a));
        let light = *light;
        let heavier = weights.iter().filter(|it| **it > light).count();
        let mut room = OWNERS.saturating_sub(heavier);
        self.owners.retain(|_, events| {
            let weight = weight(events);
            let is_tie = weight == light && room > 0;
            room -= usize::from(is_tie);
            weight > light || is_tie
        });
    }

    /// Slots and generations of the processes with counts.
    pub fn owners(&self) -> impl Iterator<Item = Owner> {
        self.owners.keys().copied()
    }

    /// With whom such events of `owner` were.
    #[must_use]
    pub fn of(&self, owner: Owner, event: Event) -> Option<&Heaviest<PeerReason>> {
        Some(&self.owners.get(&owner)?[event as usize])
    }

    /// Whether connects to this address stay on this host, as far as records show it.
    #[must_use]
    pub fn is_here(&self, netns: u32, address: IpAddr) -> bool {
        address.is_loopback() || self.here.has(&(netns, address))
    }

    /// The process at the other end of most reset connections of `owner`.
    #[must_use]
    pub fn reset_peer(&self, owner: Owner) -> Option<Owner> {
        self.resets.of(owner)
    }
}

fn weight(events: &Events) -> f64 {
    events.iter().map(Heaviest::total).sum()
}

/// Whether the connection ended as [`Counts::unanswered`](super::Counts) counts it, and not by keepalive, which sends
/// an RST.
fn is_unanswered(record: &Record) -> bool {
    let errno = i32::from(record.errno);
    matches!(errno, libc::ETIMEDOUT | libc::EHOSTUNREACH)
        && record.flags & CONN_RESET_SENT == 0
        && !matches!(record.from, SYN_SENT | SYN_RECV)
}

/// Whether the program closed it while it may have waited for an answer.
fn gave_up(record: &Record) -> bool {
    [ENDED_TIMEOUT, ENDED_UNUSED].contains(&(record.waited_for as u8))
        && record.waited_ms >= GAVE_UP_MS
}

/// Whether it was opened here and ended soon after that.
fn is_short(record: &Record) -> bool {
    record.flags & CONN_ACTIVE != 0 && Duration::from_nanos(record.age_ns) < SHORT
}

/// The other end, with the port of the listening side. `None` if its address is not known.
fn peer(record: &Record, event: Event) -> Option<Peer> {
    let [(_, local_port), (address, remote_port)] = ends(record);
    if remote_port == 0 {
        return None;
    }
    let is_client = match (event, record.flags & (CONN_ACTIVE | CONN_PASSIVE)) {
        (Event::ConnectFailed, _) | (_, CONN_ACTIVE) => false,
        (_, CONN_PASSIVE) => true,
        // Older than the observer, or in TIME_WAIT: ports of listeners are mostly below those of connect().
        _ => local_port < remote_port,
    };
    Some(Peer {
        netns: record.netns,
        address,
        port: if is_client { local_port } else { remote_port },
        is_client,
    })
}

#[cfg(test)]
mod tests;
