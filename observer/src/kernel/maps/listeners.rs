//! The map of listening sockets, read through its iterator.

use std::io;

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData},
};
use observer_common::{Listener, ListenerKey, ListenerSample};

use super::iter::MapIter;
use crate::kernel::hooks::listen::ITER;

const MAP: &str = "LISTENERS";

/// Listening sockets as the kernel programs know them.
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
        let iter = attach(ebpf, ITER.name, MAP)?;
        let map = ebpf
            .take_map(MAP)
            .context("the object has no map LISTENERS")?;
        Ok(Self {
            iter,
            map: HashMap::try_from(map).context("cannot use the map LISTENERS")?,
            count: 0,
        })
    }

    /// Every listener as it is now, and those that ended since they were last read, which are
    /// forgotten. What a function hook counted in the very moment of that is lost.
    ///
    /// # Errors
    ///
    /// When the iterator cannot be read.
    pub fn take(&mut self) -> io::Result<Vec<ListenerSample>> {
        let mut samples = Vec::new();
        self.iter
            .read(|sample: ListenerSample| samples.push(sample))?;
        for sample in samples.iter().filter(|it| it.listener.closed != 0) {
            let _ = self.map.remove(&sample.key);
        }
        // One that moved within the map while it was read comes twice.
        samples.sort_by_key(|sample| sample.key);
        samples.dedup_by_key(|sample| sample.key);
        self.count = samples.len() as u64;
        Ok(samples)
    }

    /// How many there were when they were last read.
    pub fn count(&self) -> u64 {
        self.count
    }
}

/// Attaches the loaded iterator `program` to the hash map `map`.
pub(in crate::kernel) fn attach(
    ebpf: &Ebpf,
    program: &'static str,
    map: &'static str,
) -> anyhow::Result<MapIter> {
    let data = match ebpf.map(map) {
        Some(Map::HashMap(data) | Map::LruHashMap(data) | Map::Array(data)) => data,
        _ => anyhow::bail!("the object has no map {map} to walk over"),
    };
    let loaded = ebpf
        .program(program)
        .with_context(|| format!("the object has no program {program}"))?;
    let fd = loaded
        .fd()
        .with_context(|| format!("{program} is not loaded"))?;
    MapIter::new(fd, data.fd()).with_context(|| format!("cannot attach {program}"))
}
