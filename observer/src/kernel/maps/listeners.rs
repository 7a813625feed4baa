//! The map of listening sockets, read through its iterator.

use std::io;

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use observer_common::{Listener, ListenerKey, ListenerSample};

use super::{lossy, take_hash};
use crate::kernel::{hooks::listen::ITER, iter::MapIter};

const MAP: &str = "LISTENERS";

/// The listening sockets in the map.
pub struct Listeners {
    iter: MapIter,
    map: HashMap<MapData, ListenerKey, Listener>,
    count: u64,
}

impl Listeners {
    /// Takes the map out of `ebpf`, whose program is loaded.
    ///
    /// # Errors
    ///
    /// When the object has no such map or program, or the iterator cannot be attached.
    pub fn new(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        Ok(Self {
            iter: MapIter::of(ebpf, &ITER)?,
            map: take_hash(ebpf, MAP)?,
            count: 0,
        })
    }

    /// Every listener as it is now, and those that ended since they were last read, which are
    /// removed. Events that a function hook counts between the reading and the removal are lost.
    ///
    /// # Errors
    ///
    /// When the iterator cannot be read.
    pub fn take(&mut self) -> io::Result<Vec<ListenerSample>> {
        let mut samples = Vec::new();
        self.iter
            .read(|sample: ListenerSample| samples.push(sample))?;
        for sample in samples.iter().filter(|it| it.listener.closed != 0) {
            lossy::note(
                lossy::removed(self.map.remove(&sample.key)),
                MAP,
                "a listener that has closed stays in the map",
            );
        }
        // A listener that moved within the map during the reading occurs twice.
        samples.sort_by_key(|sample| sample.key);
        samples.dedup_by_key(|sample| sample.key);
        self.count = samples.len() as u64;
        Ok(samples)
    }

    /// Number at the last reading.
    pub fn count(&self) -> u64 {
        self.count
    }
}
