//! Counters of failed setsockopt() calls.

use std::sync::Mutex;

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use observer_common::SockoptKey;

use super::take_hash;
use observer_core::sync::lock;

/// The map of failed calls.
pub struct SockoptFailures(Mutex<HashMap<MapData, SockoptKey, u64>>);

impl SockoptFailures {
    /// Takes the map out of `ebpf`.
    ///
    /// # Errors
    ///
    /// When it is missing.
    pub fn new(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        Ok(Self(Mutex::new(take_hash(ebpf, "SOCKOPT_FAILURES")?)))
    }

    /// Every counter.
    pub fn read(&self) -> Vec<(SockoptKey, u64)> {
        lock(&self.0).iter().filter_map(Result::ok).collect()
    }

    /// Removes counters and returns them.
    pub fn take(&self, keys: &[SockoptKey]) -> Vec<(SockoptKey, u64)> {
        let mut map = lock(&self.0);
        let mut take = |key: &SockoptKey| {
            let count = map.get(key, 0).ok()?;
            map.remove(key).ok()?;
            Some((*key, count))
        };
        keys.iter().filter_map(&mut take).collect()
    }

    /// How many counters there are.
    pub fn len(&self) -> u64 {
        lock(&self.0).keys().filter_map(Result::ok).count() as u64
    }
}
