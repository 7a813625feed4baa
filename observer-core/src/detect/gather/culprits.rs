//! With whom the connections of each process and name fail, from records and the last walk.

use std::collections::{BTreeSet, HashMap};

use observer_common::{CLOSE_WAIT, SYN_SENT};

use super::{elsewhere::ByPort, holders::NameKey};
use crate::{
    detect::{
        finding::{PeerReason, PeerShare},
        recorded_peers::{Event, RecordedPeers},
        sample::{ConnectResult, Culprits},
    },
    heaviest::Heaviest,
    table::{ProcessVitals, Snapshot},
    walk::Walk,
};

/// Peers of one process or name.
#[derive(Default)]
struct Peers {
    connects: Heaviest<PeerReason>,
    connecting: Heaviest<PeerReason>,
    resets_sent: Heaviest<PeerReason>,
    resets_received: Heaviest<PeerReason>,
    unanswered: Heaviest<PeerReason>,
    gave_up: Heaviest<PeerReason>,
    short: Heaviest<PeerReason>,
    close_wait: Heaviest<PeerReason>,
}

impl Peers {
    fn of(owner: (u32, u32), recorded: &RecordedPeers, walk: &Walk) -> Self {
        let of = |event| recorded.of(owner, event).cloned().unwrap_or_default();
        let sockets = walk.process(owner);
        let in_state = |state, count| in_state(owner, state, count, walk);
        Self {
            connects: of(Event::ConnectFailed),
            connecting: in_state(SYN_SENT, sockets.syn_sent_over_3s),
            resets_sent: of(Event::ResetSent),
            resets_received: of(Event::ResetReceived),
            unanswered: of(Event::Unanswered),
            gave_up: of(Event::GaveUp),
            short: of(Event::Short),
            close_wait: in_state(CLOSE_WAIT, sockets.close_wait_over_10s),
        }
    }

    fn merge(&mut self, other: &Self) {
        let Self {
            connects,
            connecting,
            resets_sent,
            resets_received,
            unanswered,
            gave_up,
            short,
            // No finding about a name is about these.
            close_wait: _,
        } = other;
        self.connects.merge(connects);
        self.connecting.merge(connecting);
        self.resets_sent.merge(resets_sent);
        self.resets_received.merge(resets_received);
        self.unanswered.merge(unanswered);
        self.gave_up.merge(gave_up);
        self.short.merge(short);
    }

    fn culprits(&self, by_port: &ByPort<'_>) -> Culprits {
        let Self {
            connects,
            connecting,
            resets_sent,
            resets_received,
            unanswered,
            gave_up,
            short,
            close_wait,
        } = self;
        Culprits {
            // Some of them may be no failures.
            connects: refused_elsewhere(connects, by_port),
            connecting: PeerShare::first(connecting),
            resets_sent: PeerShare::first(resets_sent),
            resets_received: PeerShare::first(resets_received),
            unanswered: PeerShare::first(unanswered),
            gave_up: PeerShare::first(gave_up),
            short: PeerShare::first(short),
            close_wait: PeerShare::first(close_wait),
        }
    }
}

/// The destinations of failed connects, with where else programs listen on the ports of those that were refused.
fn refused_elsewhere(connects: &Heaviest<PeerReason>, by_port: &ByPort<'_>) -> Vec<PeerShare> {
    let mut all = PeerShare::all(connects);
    let refused = Some(ConnectResult::Refused.name());
    for ((to, reason), _) in connects.first(usize::MAX) {
        let is_it = |it: &&mut PeerShare| {
            (it.address, it.port, it.reason) == (to.address, to.port, refused)
        };
        if reason == refused
            && let Some(share) = all.iter_mut().find(is_it)
        {
            share.elsewhere = by_port.elsewhere(&to);
        }
    }
    all
}

/// The peers of all `sockets` of `owner` that have been in `state` for long.
fn in_state(owner: (u32, u32), state: u8, sockets: u32, walk: &Walk) -> Heaviest<PeerReason> {
    let mut all = Heaviest::default();
    let mut known = 0;
    for it in walk.state_peers(owner, state) {
        known += it.sockets;
        all.add((it.peer, None), it.sockets.into());
    }
    all.add_others(sockets.saturating_sub(known).into());
    all
}

/// The peers of all processes and names that have any.
pub(super) struct AllPeers<'a> {
    recorded: &'a RecordedPeers,
    snapshot: &'a Snapshot,
    by_port: ByPort<'a>,
    owners: HashMap<(u32, u32), Peers>,
    names: HashMap<NameKey<'a>, Peers>,
}

impl<'a> AllPeers<'a> {
    pub fn new(recorded: &'a RecordedPeers, snapshot: &'a Snapshot, by_port: ByPort<'a>) -> Self {
        let walk = &snapshot.walk;
        let walked = walk.state_peers.iter().map(|it| it.owner);
        let owners: BTreeSet<_> = recorded.owners().chain(walked).collect();
        let mut all = Self {
            recorded,
            snapshot,
            by_port,
            owners: HashMap::new(),
            names: HashMap::new(),
        };
        for owner in owners {
            let peers = Peers::of(owner, recorded, walk);
            let running = running(snapshot, owner).map(|it| &it.vitals.labels);
            if let Some(labels) = running.or_else(|| snapshot.ended.get(&owner)) {
                all.names
                    .entry(labels.name_key())
                    .or_default()
                    .merge(&peers);
            }
            all.owners.insert(owner, peers);
        }
        all
    }

    pub fn of_process(&self, owner: (u32, u32)) -> Culprits {
        let peers = self.owners.get(&owner);
        peers
            .map(|it| it.culprits(&self.by_port))
            .unwrap_or_default()
    }

    pub fn of_name(&self, name: NameKey<'_>) -> Culprits {
        let peers = self.names.get(&name);
        peers
            .map(|it| it.culprits(&self.by_port))
            .unwrap_or_default()
    }

    /// The local process at the other end of most of its connections that were reset.
    pub fn reset_peer(&self, owner: (u32, u32)) -> Option<&ProcessVitals> {
        let peer = self.recorded.reset_peer(owner)?;
        running(self.snapshot, peer)
    }
}

fn running(snapshot: &Snapshot, owner: (u32, u32)) -> Option<&ProcessVitals> {
    let processes = &snapshot.processes;
    let found = processes.binary_search_by_key(&owner, |it| it.owner);
    found.ok().map(|index| &processes[index])
}
