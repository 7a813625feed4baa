//! Slots: the identity and the counters of each process.

use std::{
    mem::offset_of,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, Queue},
};
use observer_common::{
    ProcessKey, SLOT_FIRST, Slot, StateCounters, TLS_FAILED, TLS_LIBRARIES, TLS_RESULTS, TLS_ROLES,
    TlsCounters, TlsSeen,
};

use super::{array::MmapArray, lossy, take_array, take_hash, take_queue};
use observer_core::sync::lock;

const PROCESSES: &str = "PROCESSES";
const FREE_SLOTS: &str = "FREE_SLOTS";

/// The slots, the map of processes to slots, and the queue of free slots.
pub struct Slots {
    slots: MmapArray<Slot>,
    processes: Mutex<HashMap<MapData, ProcessKey, u32>>,
    free: Mutex<Queue<MapData, u32>>,
    limit: AtomicU32,
}

impl Slots {
    /// Takes the maps out of `ebpf`.
    ///
    /// # Errors
    ///
    /// When one is missing or cannot be mapped into memory.
    pub fn new(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        Ok(Self {
            slots: take_array(ebpf, "SLOTS")?,
            processes: Mutex::new(take_hash(ebpf, PROCESSES)?),
            free: Mutex::new(take_queue(ebpf, FREE_SLOTS)?),
            limit: AtomicU32::new(SLOT_FIRST),
        })
    }

    /// Slots from 0 up to this number may be in use.
    pub fn limit(&self) -> u32 {
        // Slots are assigned in order until the first is freed, but a slot that a second thread of
        // a new process took and returned leaves a gap.
        let known = self.limit.load(Ordering::Relaxed);
        let last = (known..self.slots.len())
            .rev()
            .find(|&index| self.in_use(index));
        let limit = last.map_or(known, |index| index + 1);
        self.limit.fetch_max(limit, Ordering::Relaxed);
        limit
    }

    /// Number of slots in use by processes.
    pub fn used(&self) -> u64 {
        let slots = SLOT_FIRST..self.limit();
        slots.filter(|&index| self.in_use(index)).count() as u64
    }

    /// Maximum number of slots for processes.
    pub fn capacity(&self) -> u64 {
        u64::from(self.slots.len() - SLOT_FIRST)
    }

    /// Whether slot `index` is a process's.
    fn in_use(&self, index: u32) -> bool {
        let tgid = offset_of!(Slot, key) + offset_of!(ProcessKey, tgid);
        self.slots.word(index, tgid).load(Ordering::Relaxed) != 0
    }

    /// Copies slot `index`.
    pub fn read(&self, index: u32, slot: &mut Slot) {
        self.slots.read(index, slot);
    }

    /// Copies the fields before the counters of slot `index`.
    pub fn read_identity(&self, index: u32, slot: &mut Slot) {
        let prefix = offset_of!(Slot, state);
        self.slots.read_prefix(index, prefix, slot);
    }

    /// Records that an entry of slot `index` was removed from the map of connections.
    pub fn remove_socket(&self, index: u32) {
        self.add(index, offset_of!(Slot, sockets), -1);
    }

    /// Records that an entry whose socket was handed over no longer points to slot `index`.
    pub fn complete_pass_on(&self, index: u32) {
        self.add(index, offset_of!(Slot, passed_on), -1);
    }

    /// Adds to the live sockets of slot `index` in `state`.
    pub fn adjust_live(&self, index: u32, state: u8, by: i64) {
        let adjust = offset_of!(Slot, state) + offset_of!(StateCounters, adjust);
        self.add(index, adjust + usize::from(state) * size_of::<i64>(), by);
    }

    /// Counts a TLS handshake that was in progress when its process ended, if the slot is still that process's.
    /// Returns whether it is.
    pub fn count_failed_handshake(&self, seen: &TlsSeen) -> bool {
        let TlsSeen { key, handshake } = seen;
        let mut slot = Slot::zeroed();
        self.read_identity(handshake.slot, &mut slot);
        let (library, role) = (key.library as usize, handshake.role as usize);
        if slot.generation != handshake.generation
            || library >= TLS_LIBRARIES.len()
            || role >= TLS_ROLES.len()
        {
            return false;
        }
        let index = (library * TLS_ROLES.len() + role) * TLS_RESULTS.len() + TLS_FAILED;
        let ended = offset_of!(Slot, tls) + offset_of!(TlsCounters, ended);
        self.add(handshake.slot, ended + index * size_of::<u64>(), 1);
        self.add(handshake.slot, offset_of!(Slot, tls_handshakes), -1);
        true
    }

    /// Adds to the counter at `offset`.
    fn add(&self, index: u32, offset: usize, by: i64) {
        let word = self.slots.word(index, offset);
        word.fetch_add(by.cast_unsigned(), Ordering::Relaxed);
    }

    /// Removes the process of slot `index` from the map of processes, so that it gets another slot at its next event.
    pub fn retire(&self, index: u32) {
        let mut slot = Slot::zeroed();
        self.read_identity(index, &mut slot);
        self.remove_key(index, &slot.key);
    }

    /// Removes the key of a process from the map of processes, if it leads to slot `index`: a retired process may have
    /// another slot by now.
    fn remove_key(&self, index: u32, key: &ProcessKey) {
        let mut processes = lock(&self.processes);
        if processes.get(key, 0).ok() == Some(index) {
            lossy::note(
                lossy::removed(processes.remove(key)),
                PROCESSES,
                "an entry for a process without a slot stays in the map",
            );
        }
    }

    /// Frees slot `index` for another process. Returns [`Slot::time_wait_count`] of the process that
    /// had it.
    pub fn free(&self, index: u32) -> u32 {
        let mut slot = Slot::zeroed();
        self.read_identity(index, &mut slot);
        // First remove the key, so that no program finds the slot; then clear it; then return it to the queue.
        self.remove_key(index, &slot.key);
        self.slots.clear(index);
        let generation = offset_of!(Slot, generation);
        self.slots.word(index, generation).store(
            u64::from(slot.generation.wrapping_add(1)),
            Ordering::Release,
        );
        lossy::note(
            lock(&self.free).push(index, 0),
            FREE_SLOTS,
            "one process less can be tracked",
        );
        slot.time_wait_count
    }
}
