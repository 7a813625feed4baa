//! The servers that processes wait for, and which programs of this host they are.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use observer_common::{WAIT_PEER, WAIT_PEER_ACK, WAIT_PEER_FIRST_BYTE, WAIT_PEER_WINDOW};

use super::holders::NameKey;
use crate::{
    detect::{
        finding::Awaited,
        sample::{Listener, Workers},
    },
    table::{Labels, ProcessVitals, Snapshot},
    walk::{PeerWait, Served, Walk},
};

/// What the last walk knows of servers.
pub(super) struct Servers<'a> {
    walk: &'a Walk,
    /// Addresses at which connections to servers wait, by network namespace and port.
    served: HashMap<(u32, u16), Vec<&'a Served>>,
    /// Labels of those of this host that are waited for.
    labels: HashMap<(u32, u32), &'a Arc<Labels>>,
    /// Processes with requests that wait for servers, by name.
    waiting: HashMap<NameKey<'a>, Vec<&'a ProcessVitals>>,
}

/// Whether detectors count it as a wait for a server.
fn is_for_server(it: &PeerWait) -> bool {
    const FOR_PEER: [u8; 4] = [
        WAIT_PEER,
        WAIT_PEER_FIRST_BYTE,
        WAIT_PEER_WINDOW,
        WAIT_PEER_ACK,
    ];
    it.is_judged && !it.peer.is_client && FOR_PEER.contains(&it.waits_for)
}

impl<'a> Servers<'a> {
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let walk = &snapshot.walk;
        let mut servers = Self {
            walk,
            served: HashMap::new(),
            labels: HashMap::new(),
            waiting: HashMap::new(),
        };
        for it in &walk.served {
            let at = (it.netns, it.address.port());
            servers.served.entry(at).or_default().push(it);
        }
        if walk.peers.is_empty() {
            return servers;
        }
        for process in &snapshot.processes {
            let (owner, labels) = (process.owner, &process.vitals.labels);
            servers.labels.insert(owner, labels);
            if servers.for_requests(owner).next().is_some() {
                let of_name = servers.waiting.entry(labels.name_key()).or_default();
                of_name.push(process);
            }
        }
        servers
    }

    /// For whom the connections of a process wait, most connections first.
    pub fn awaited(&self, owner: (u32, u32)) -> Vec<Awaited> {
        let waits = self.walk.peers(owner).iter();
        waits.map(|wait| self.named(wait)).collect()
    }

    /// The waits of a process for servers that may have begun for a request of a client of its own.
    fn for_requests(&self, owner: (u32, u32)) -> impl Iterator<Item = &'a PeerWait> + use<'a> {
        let waits = self.walk.waits(owner);
        let all = self.walk.peers(owner).iter();
        all.filter(move |it| is_for_server(it) && waits.is_some_and(|of| of.is_for_request(it)))
    }

    fn named(&self, wait: &PeerWait) -> Awaited {
        let server = wait.server.and_then(|it| self.labels.get(&it));
        Awaited {
            wait: *wait,
            server: server.map(|it| Arc::clone(it)),
        }
    }

    /// Adds to a listener at which addresses its connections are, and for whom its processes wait: workers accept what their
    /// parent listens for, so they are those of the names of its holders. `all` are the processes of the host.
    pub fn add_to(&self, listener: &mut Listener, all: &'a [ProcessVitals]) {
        if listener.backlog == 0 {
            return;
        }
        let place = listener.place;
        let here = self.served.get(&(place.netns, place.address.port()));
        let here = here.into_iter().flatten();
        let here = here.filter(|it| place.takes(it.netns, it.address));
        listener.queued_at = here.map(|it| it.address).collect();
        // Each worker may have a socket of its own.
        let names = listener.holders.iter().map(|it| it.labels.name_key());
        let names: BTreeSet<_> = names.filter(|it| self.waiting.contains_key(it)).collect();
        if names.is_empty() {
            return;
        }
        let mut workers = Workers::default();
        for process in all {
            let is_one = names.contains(&process.vitals.labels.name_key());
            workers.processes +=
                u32::from(is_one && process.vitals.counts.slot().accept.accepted > 0);
        }
        for process in names.iter().flat_map(|it| &self.waiting[it]) {
            let waits = self.for_requests(process.owner);
            workers.waiting += 1;
            workers.waits.extend(waits.map(|it| self.named(it)));
        }
        let most_first = |it: &Awaited| Reverse((it.wait.connections, it.wait.longest_ms));
        workers.waits.sort_by_key(most_first);
        listener.busy = workers;
    }
}
