//! Which local ports are in use, read through iterators.

use anyhow::Context as _;
use aya::Ebpf;
use observer_common::{PortSpace, PortUse};

use super::iter::MapIter;
use crate::kernel::{
    clock::monotonic_ns,
    hooks::ports::{
        CONNECTIONS_ITER, EXACT_TIME_WAITS_ITER, INFERRED_TIME_WAITS_ITER, NAMESPACES_ITER,
    },
};

/// Iterators over everything that holds a local port.
pub struct Ports {
    connections: MapIter,
    time_waits: MapIter,
    namespaces: MapIter,
}

impl Ports {
    /// Attaches the iterators of `ebpf`, which are loaded. `exact` says whether both ends of
    /// TIME_WAIT are seen.
    ///
    /// # Errors
    ///
    /// When the object lacks one of its maps or programs, or one cannot be attached.
    pub fn new(ebpf: &Ebpf, exact: bool) -> anyhow::Result<Self> {
        let (program, map) = if exact {
            (EXACT_TIME_WAITS_ITER, "TIME_WAITS")
        } else {
            (INFERRED_TIME_WAITS_ITER, "TIME_WAIT_OWNERS")
        };
        Ok(Self {
            connections: MapIter::attach(ebpf, CONNECTIONS_ITER.name, "CONNECTIONS")?,
            time_waits: MapIter::attach(ebpf, program.name, map)?,
            namespaces: MapIter::attach(ebpf, NAMESPACES_ITER.name, "NAMESPACES")?,
        })
    }

    /// Shows every use of a port to `visit`, and returns the port spaces of the network
    /// namespaces that were met. `time_waits` says whether
    /// any may be in TIME_WAIT.
    ///
    /// # Errors
    ///
    /// When an iterator cannot be read.
    pub fn walk(
        &self,
        time_waits: bool,
        mut visit: impl FnMut(PortUse),
    ) -> anyhow::Result<Vec<Box<PortSpace>>> {
        let started = monotonic_ns();
        self.connections
            .read(&mut visit)
            .context("cannot walk over the connections")?;
        if time_waits {
            self.time_waits
                .read(&mut visit)
                .context("cannot walk over the sockets in TIME_WAIT")?;
        }
        let mut spaces = Vec::new();
        self.namespaces
            .read(|space: PortSpace| {
                // A namespace that no socket was seen in now may be gone, and its memory
                // reused.
                if space.seen_ns >= started {
                    spaces.push(Box::new(space));
                }
            })
            .context("cannot walk over the network namespaces")?;
        Ok(spaces)
    }
}
