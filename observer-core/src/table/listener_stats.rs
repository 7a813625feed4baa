//! Values of listening sockets by address, for each name and each process.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::{Duration, Instant},
};

use observer_common::{ListenerKey, ListenerSample};

use super::names::NameId;
use crate::walk::address;

/// Maximum number of addresses per name or process. Further ones are summed up.
pub(crate) const ADDRESSES: usize = 64;

/// At the limit, an address without a listener for this time is removed, and its series end.
const IDLE: Duration = Duration::from_secs(600);

/// The address of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenAddress {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Address and port.
    pub address: SocketAddr,
}

impl ListenAddress {
    /// Whether it takes connections to `to`, if that is an address of this host. One at `::` takes those of IPv4, too, unless
    /// it has IPV6_V6ONLY, of which nothing is known here.
    #[must_use]
    pub fn takes(&self, netns: u32, to: SocketAddr) -> bool {
        let (at, to_ip) = (self.address.ip(), to.ip());
        (self.netns, self.address.port()) == (netns, to.port())
            && (at == to_ip || at.is_unspecified() && (at.is_ipv6() || to_ip.is_ipv4()))
    }

    /// Whether connects to `to` reach it. Of addresses other than its own and those of loopback it is not known whether they
    /// are of this host.
    #[must_use]
    pub fn is_reached_at(&self, netns: u32, to: SocketAddr) -> bool {
        (self.address == to || to.ip().is_loopback()) && self.takes(netns, to)
    }
}

impl From<&ListenerSample> for ListenAddress {
    fn from(sample: &ListenerSample) -> Self {
        let listener = &sample.listener;
        Self {
            netns: listener.netns,
            address: SocketAddr::new(address(listener.address), listener.port),
        }
    }
}

/// The current and former listening sockets of one address.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ListenerStats {
    /// Sockets listening now.
    pub sockets: u64,
    /// Connections waiting for accept().
    pub backlog: u64,
    /// Maximum number of connections waiting.
    pub max_backlog: u64,
    /// Backlog divided by its maximum, of the socket with the highest value.
    pub fullest: f64,
    /// Sockets with TCP_FASTOPEN.
    pub fast_open: u64,
    /// Connection requests dropped for any reason.
    pub drops: u64,
    /// Connection requests dropped because the accept queue was full.
    pub overflows: u64,
}

impl ListenerStats {
    /// Adds the counts of `counts`, and the gauges of a socket that listens.
    pub(super) fn add(&mut self, counts: &Counts, sample: Option<&ListenerSample>) {
        self.drops += counts.drops;
        self.overflows += counts.overflows;
        let Some(sample) = sample.filter(|sample| sample.listener.closed == 0) else {
            return;
        };
        self.sockets += 1;
        self.backlog += u64::from(sample.backlog);
        self.max_backlog += u64::from(sample.max_backlog);
        self.fast_open += u64::from(sample.fast_open > 0);
        // With a backlog of 0, one connection can wait.
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

/// Drops between two readings.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub drops: u64,
    pub overflows: u64,
}

/// By address, `None` for those past the limit.
#[derive(Debug, Default)]
pub(super) struct ListenersByAddress(pub BTreeMap<Option<ListenAddress>, (ListenerStats, Instant)>);

impl ListenersByAddress {
    pub fn at(&mut self, address: Option<ListenAddress>, now: Instant) -> &mut ListenerStats {
        let known = self.0.contains_key(&address);
        if !known && self.0.len() >= ADDRESSES {
            self.0.retain(|address, (stats, last)| {
                let idle = now.saturating_duration_since(*last) >= IDLE;
                address.is_none() || stats.sockets > 0 || !idle
            });
        }
        let address = address.filter(|_| known || self.0.len() < ADDRESSES);
        let (stats, last) = self
            .0
            .entry(address)
            .or_insert((ListenerStats::default(), now));
        *last = now;
        stats
    }

    pub fn forget_gauges(&mut self) {
        for (stats, _) in self.0.values_mut() {
            stats.forget_gauges();
        }
    }

    /// Addresses with sockets.
    pub fn listening(&self) -> impl Iterator<Item = &ListenAddress> {
        let all = self.0.iter().filter(|(_, (stats, _))| stats.sockets > 0);
        all.filter_map(|(address, _)| address.as_ref())
    }

    /// Removes addresses that have no socket and no count.
    pub fn prune(&mut self) -> bool {
        self.0
            .retain(|_, (it, _)| it.sockets > 0 || it.drops > 0 || it.overflows > 0);
        !self.0.is_empty()
    }
}

/// Listening sockets, as of the last reading.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    pub by_name: BTreeMap<NameId, ListenersByAddress>,
    /// By slot.
    pub by_process: BTreeMap<u32, ListenersByAddress>,
    /// Drops and overflows of each socket that are in `by_name`.
    pub counted: HashMap<ListenerKey, (u32, u64)>,
}

impl Listeners {
    /// The name was evicted.
    pub fn forget_name(&mut self, id: NameId) {
        self.by_name.remove(&id);
    }

    /// The process lost its slot.
    pub fn forget_process(&mut self, slot: u32) {
        self.by_process.remove(&slot);
    }

    pub fn by_address(&mut self) -> impl Iterator<Item = &mut ListenersByAddress> {
        let names = self.by_name.values_mut();
        names.chain(self.by_process.values_mut())
    }
}
