//! TLS handshakes in progress, and the files that are probed.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use observer_common::{TlsHandshake, TlsKey, TlsSeen};
use observer_core::sync::lock;

use super::take_hash;
use crate::kernel::{
    iter::MapIter,
    uprobes::{Files, Guard, ITER, Uprobes},
};

const MAP: &str = "TLS_HANDSHAKES";

/// The probed files and the map of handshakes in progress.
pub struct Tls {
    files: Mutex<Files>,
    guard: Arc<Guard>,
    iter: MapIter,
    handshakes: Mutex<HashMap<MapData, TlsKey, TlsHandshake>>,
    /// As of the last reading.
    in_progress: AtomicU64,
}

impl Tls {
    /// Takes the map out of `ebpf`.
    ///
    /// # Errors
    ///
    /// When it is missing, or the iterator cannot be attached.
    pub fn new(ebpf: &mut Ebpf, uprobes: Uprobes) -> anyhow::Result<Self> {
        Ok(Self {
            guard: Arc::clone(uprobes.guard()),
            files: Mutex::new(Files::new(uprobes)),
            // Before the map is taken out.
            iter: MapIter::attach(ebpf, ITER, MAP)?,
            handshakes: Mutex::new(take_hash(ebpf, MAP)?),
            in_progress: AtomicU64::new(0),
        })
    }

    /// The probed files. Locked while a file is examined.
    pub fn files(&self) -> MutexGuard<'_, Files> {
        lock(&self.files)
    }

    /// Detaches the programs from files that are written to: [`Guard::run`] must run in a thread.
    pub fn guard(&self) -> Arc<Guard> {
        Arc::clone(&self.guard)
    }

    /// Handshakes in progress.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn read(&self) -> anyhow::Result<Vec<TlsSeen>> {
        let mut all = Vec::new();
        let read: io::Result<()> = self.iter.read(|seen: TlsSeen| all.push(seen));
        read.context("cannot read the TLS handshakes in progress")?;
        self.in_progress.store(all.len() as u64, Ordering::Relaxed);
        Ok(all)
    }

    /// Number of handshakes in progress at the last reading.
    pub fn in_progress(&self) -> u64 {
        self.in_progress.load(Ordering::Relaxed)
    }

    /// Removes a handshake; false if it has ended, or another one has begun in its place.
    pub fn remove(&self, seen: &TlsSeen) -> bool {
        let mut handshakes = lock(&self.handshakes);
        let is_same = |it: TlsHandshake| it == seen.handshake;
        handshakes.get(&seen.key, 0).is_ok_and(is_same) && handshakes.remove(&seen.key).is_ok()
    }
}
