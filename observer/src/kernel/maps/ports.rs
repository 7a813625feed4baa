//! Connections, sockets in TIME_WAIT, and the ports of network namespaces, read through iterators.

use std::sync::Mutex;

use anyhow::Context as _;
use aya::Ebpf;
use observer_common::{PortSpace, SocketSeen};
use observer_core::sync::lock;

use crate::kernel::{
    clock::monotonic_ns,
    hooks::ports::{CONNECTIONS_ITER, NAMESPACES_ITER, TIME_WAITS_ITER},
    iter::MapIter,
};

/// Iterators over all sockets with a local port.
pub struct Ports {
    /// Only one thread may read it, because the program keeps a copy of each socket in a map.
    connections: Mutex<MapIter>,
    /// Likewise.
    time_waits: Mutex<MapIter>,
    namespaces: MapIter,
}

impl Ports {
    /// Attaches the iterators of `ebpf`, which are loaded.
    ///
    /// # Errors
    ///
    /// When the object lacks one of its maps or programs, or one cannot be attached.
    pub fn new(ebpf: &Ebpf) -> anyhow::Result<Self> {
        Ok(Self {
            connections: Mutex::new(MapIter::of(ebpf, &CONNECTIONS_ITER)?),
            time_waits: Mutex::new(MapIter::of(ebpf, &TIME_WAITS_ITER)?),
            namespaces: MapIter::of(ebpf, &NAMESPACES_ITER)?,
        })
    }

    /// Passes every connection and, if there are any then, every socket in TIME_WAIT to `visit`, and returns
    /// the port spaces of their network namespaces. If no hook counts ends of TIME_WAIT, this counts those since
    /// the last call.
    ///
    /// # Errors
    ///
    /// When an iterator cannot be read.
    pub fn walk(
        &self,
        has_time_waits: impl FnOnce() -> bool,
        mut visit: impl FnMut(SocketSeen),
    ) -> anyhow::Result<Vec<Box<PortSpace>>> {
        let started = monotonic_ns();
        lock(&self.connections)
            .read(&mut visit)
            .context("cannot walk over the connections")?;
        if has_time_waits() {
            self.visit_time_waits(&mut visit)?;
        }
        let mut spaces = Vec::new();
        self.namespaces
            .read(|space: PortSpace| {
                // A namespace without a socket in this walk may have been freed, and its memory reused.
                if space.seen_ns >= started {
                    spaces.push(Box::new(space));
                }
            })
            .context("cannot walk over the network namespaces")?;
        Ok(spaces)
    }

    /// Counts the sockets that left TIME_WAIT since the last walk, if no hook counts that.
    ///
    /// # Errors
    ///
    /// When the iterator cannot be read.
    pub fn find_ended_time_waits(&self) -> anyhow::Result<()> {
        self.visit_time_waits(|_| {})
    }

    fn visit_time_waits(&self, visit: impl FnMut(SocketSeen)) -> anyhow::Result<()> {
        lock(&self.time_waits)
            .read(visit)
            .context("cannot walk over the sockets in TIME_WAIT")
    }
}
