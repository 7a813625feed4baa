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

/// Every counter, and the number of failed calls when they were read.
type LastRead = (u64, Vec<(SockoptKey, u64)>);

/// The map of failed calls.
pub struct SockoptFailures {
    map: Mutex<HashMap<MapData, SockoptKey, u64>>,
    /// Cached, because a read takes two system calls per counter, and usually none has changed.
    last: Mutex<Option<LastRead>>,
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
            last: Mutex::new(None),
            len: AtomicU64::new(0),
        })
    }

    /// Every counter. `failed`: how many calls failed and have an outcome, which the programs count
    /// after they have counted the call here.
    pub fn read(&self, failed: u64) -> Vec<(SockoptKey, u64)> {
        let mut last = lock(&self.last);
        if let Some((at, failures)) = &*last
            && *at == failed
        {
            return failures.clone();
        }
        let failures: Vec<_> = lock(&self.map).iter().filter_map(Result::ok).collect();
        self.len.store(failures.len() as u64, Ordering::Relaxed);
        *last = Some((failed, failures.clone()));
        failures
    }

    /// Removes counters and returns them.
    pub fn take(&self, keys: &[SockoptKey]) -> Vec<(SockoptKey, u64)> {
        *lock(&self.last) = None;
        let mut map = lock(&self.map);
        let mut take = |key: &SockoptKey| {
            let count = map.get(key, 0).ok()?;
            map.remove(key).ok()?;
            Some((*key, count))
        };
        keys.iter().filter_map(&mut take).collect()
    }

    /// Number of counters at the last reading.
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }
}
