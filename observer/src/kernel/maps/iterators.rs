//! What is read from sockets rather than counted event by event.

use std::sync::Mutex;

use anyhow::Context as _;
use aya::Ebpf;
use observer_common::{
    ListenerSample, PortSpace, PortUse, SIGNAL_LISTEN_OVERFLOW, SIGNAL_NAMES, SIGNAL_TIME_WAIT,
};
use tracing::debug;

use super::{listeners::Listeners, ports::Ports};
use crate::{
    contract::KernelSource as _,
    kernel::{
        attached::Live,
        hooks::{listen::POLLED_LISTEN, ports::POLLED_PORTS},
    },
    sync::lock,
};

/// The iterators over maps; each is absent where the kernel does not have it.
pub(in crate::kernel) struct Iterators {
    listeners: Option<Mutex<Listeners>>,
    ports: Option<Ports>,
    /// Whether sockets in TIME_WAIT are known, rather than inferred.
    exact: bool,
}

impl Iterators {
    /// Attaches what is loaded in `ebpf`, before its maps are taken by others. `exact` says
    /// whether both ends of TIME_WAIT are seen.
    pub fn new(ebpf: &mut Ebpf, exact: bool) -> Self {
        fn available<T>(what: anyhow::Result<T>) -> Option<T> {
            // Why a program is not loaded is in its verdict.
            what.inspect_err(|error| debug!("{error:#}")).ok()
        }
        Self {
            ports: available(Ports::new(ebpf, exact)),
            exact,
            listeners: available(Listeners::new(ebpf)).map(Mutex::new),
        }
    }

    /// Listening sockets that are followed.
    pub fn listeners(&self) -> u64 {
        let listeners = self.listeners.as_ref();
        listeners.map_or(0, |listeners| lock(listeners).count())
    }

    /// Signals and how they are obtained; `counted` says whether requests that met a full
    /// accept queue are counted by a function hook.
    pub fn methods(&self, counted: bool) -> Vec<(&'static str, &'static str)> {
        let mut methods = Vec::new();
        if self.listeners.is_some() {
            methods.push((POLLED_LISTEN, "exact"));
            if !counted {
                methods.push((SIGNAL_NAMES[SIGNAL_LISTEN_OVERFLOW as usize], "inferred"));
            }
        }
        if self.ports.is_some() {
            methods.push((POLLED_PORTS, if self.exact { "exact" } else { "inferred" }));
        }
        methods
    }
}

impl Live {
    /// Every listening socket as it is now, and those that ended since the last call. `None`
    /// where this kernel has no way to read them.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn take_listeners(&self) -> anyhow::Result<Option<Vec<ListenerSample>>> {
        let Some(listeners) = &self.iterators.listeners else {
            return Ok(None);
        };
        let samples = lock(listeners).take();
        samples
            .context("cannot read the listening sockets")
            .map(Some)
    }

    /// Whether full accept queues are counted exactly, in [`observer_common::Listener::overflows`].
    #[must_use]
    pub fn counts_overflows(&self) -> bool {
        self.observes(SIGNAL_LISTEN_OVERFLOW)
    }

    /// Shows every use of a local port to `visit` and returns the network namespaces' port
    /// spaces. `None` where this kernel has no way to read them.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn walk_ports(
        &self,
        visit: impl FnMut(PortUse),
    ) -> anyhow::Result<Option<Vec<Box<PortSpace>>>> {
        let ports = self.iterators.ports.as_ref();
        let resting = self.iterators.exact || {
            let entered = self.stats().outcomes[SIGNAL_TIME_WAIT as usize].seen;
            self.resting.any(entered)
        };
        ports.map(|ports| ports.walk(resting, visit)).transpose()
    }
}
