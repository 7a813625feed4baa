//! Numbers of sockets in TIME_WAIT.

use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData, Queue},
};
use observer_common::{SLOT_FIRST, TimeWaitCount};
use observer_core::sync::lock;

use super::{array::MmapArray, lossy, take, take_array, take_queue};

const FREE: &str = "FREE_TIME_WAIT_COUNTS";
const NETNS: &str = "NETNS_TIME_WAITS";

/// The counts by process and by network namespace.
pub struct TimeWaits {
    counts: MmapArray<TimeWaitCount>,
    free: Mutex<Queue<MapData, u32>>,
    /// Counts of processes whose slots were freed.
    lingering: AtomicU64,
    netns: Mutex<HashMap<MapData, u32, TimeWaitCount>>,
    max_netns: u64,
}

impl TimeWaits {
    /// Takes the maps out of `ebpf`.
    ///
    /// # Errors
    ///
    /// When one is missing or cannot be mapped.
    pub fn new(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let netns = take(ebpf, NETNS)?;
        let max_netns = match &netns {
            Map::HashMap(data) => u64::from(data.info()?.max_entries()),
            _ => 0,
        };
        Ok(Self {
            counts: take_array(ebpf, "TIME_WAIT_COUNTS")?,
            free: Mutex::new(take_queue(ebpf, FREE)?),
            lingering: AtomicU64::new(0),
            netns: Mutex::new(HashMap::try_from(netns)?),
            max_netns,
        })
    }

    /// The counts with this number.
    pub fn count(&self, number: u32) -> TimeWaitCount {
        let mut read = TimeWaitCount::default();
        self.counts.read(number, &mut read);
        read
    }

    /// Records that the slot of a process was freed and its counts are kept.
    pub fn outlives(&self, number: u32) {
        if number >= SLOT_FIRST {
            self.lingering.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Frees the counts with this number for another process.
    pub fn free(&self, number: u32) {
        self.counts.clear(number);
        self.lingering.fetch_sub(1, Ordering::Relaxed);
        lossy::note(
            lock(&self.free).push(number, 0),
            FREE,
            "sockets in TIME_WAIT are counted for one process less",
        );
    }

    /// Counts of processes whose slots were freed.
    pub fn lingering(&self) -> u64 {
        self.lingering.load(Ordering::Relaxed)
    }

    /// Maximum number of counts for processes.
    pub fn max_counts(&self) -> u64 {
        u64::from(self.counts.len() - SLOT_FIRST)
    }

    /// Maximum number of network namespaces that are counted separately.
    pub fn max_netns(&self) -> u64 {
        self.max_netns
    }

    /// Makes room for new network namespaces when half of the maximum are counted: forgets those that
    /// have no socket in TIME_WAIT and are not in `living`.
    pub fn forget_netns(&self, living: &HashSet<u32>) {
        let known = self.by_netns();
        if 2 * known.len() as u64 <= self.max_netns {
            return;
        }
        let mut map = lock(&self.netns);
        for (netns, count) in known {
            // A socket that enters TIME_WAIT at this moment is not counted for its namespace, which
            // is compared with the kernel only if a process enters it.
            if count.live() == 0 && !living.contains(&netns) {
                lossy::note(
                    lossy::removed(map.remove(&netns)),
                    NETNS,
                    "a network namespace that is gone stays in the map",
                );
            }
        }
    }

    /// Whether sockets of a network namespace are in TIME_WAIT.
    pub fn is_any(&self) -> bool {
        let netns = lock(&self.netns);
        // Without a count of one, it may have some.
        netns
            .iter()
            .any(|entry| entry.map_or(true, |(_, count)| count.live() > 0))
    }

    /// The counts of each network namespace, by inode number.
    pub fn by_netns(&self) -> Vec<(u32, TimeWaitCount)> {
        lock(&self.netns).iter().filter_map(Result::ok).collect()
    }
}
