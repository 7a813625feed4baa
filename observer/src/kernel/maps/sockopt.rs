//! Counters of failed setsockopt() calls.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use observer_common::SockoptKey;

use super::take_hash;
use observer_core::sync::lock;

/// The map of failed calls.
pub struct SockoptFailures {
    map: Mutex<HashMap<MapData, SockoptKey, u64>>,
    len: AtomicU64,
}

impl SockoptFailures {
    /// Takes the map out of `ebpf`.
    ///
    /// # Errors
    ///
    /// When it is missing.
    pub fn new(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        Ok(Self {
            map: Mutex::new(take_hash(ebpf, "SOCKOPT_FAILURES")?),
            len: AtomicU64::new(0),
        })
    }

    /// Every counter.
    pub fn read(&self) -> Vec<(SockoptKey, u64)> {
        let failures: Vec<_> = lock(&self.map).iter().filter_map(Result::ok).collect();
        self.len.store(failures.len() as u64, Ordering::Relaxed);
        failures
    }

    /// Removes counters and returns them.
    pub fn take(&self, keys: &[SockoptKey]) -> Vec<(SockoptKey, u64)> {
        let mut map = lock(&self.map);
        let mut take = |key: &SockoptKey| {
            let count = map.get(key, 0).ok()?;
            map.remove(key).ok()?;
            Some((*key, count))
        };
        keys.iter().filter_map(&mut take).collect()
    }

    /// How many counters there were when they were last read.
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }
}
