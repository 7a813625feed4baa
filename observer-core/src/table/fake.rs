//! A kernel side and processes that a test sets up.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Mutex,
};

use observer_common::{
    CpuStats, Outcomes, Pod, ProcessKey, SIGNALS, SLOT_FIRST, Slot, SockoptKey, TimeWaitCount,
};

use super::{Description, Liveness, ProcessFacts, Resources};
use crate::{
    contract::{AttachType, KernelControl, KernelSource, MapFill, ProgramRuns, Status, Verdict},
    process::{Unit, own::OwnProcess},
};

/// A kernel side whose slots are set by the test.
pub struct FakeKernel {
    pub slots: Mutex<Vec<Slot>>,
    pub failures: Mutex<HashMap<SockoptKey, u64>>,
    /// Sockets in TIME_WAIT, by [`Slot::time_wait_count`].
    pub time_waits: Mutex<BTreeMap<u32, TimeWaitCount>>,
    /// Those that were given back.
    pub freed_time_waits: Mutex<Vec<u32>>,
    pub retired: Mutex<Vec<u32>>,
    /// Signals that no hook observes.
    pub blind: HashSet<u32>,
    pub verdicts: Vec<Verdict>,
}

impl FakeKernel {
    pub fn new(slots: usize) -> Self {
        Self {
            slots: Mutex::new(vec![Slot::zeroed(); slots]),
            failures: Mutex::default(),
            time_waits: Mutex::default(),
            freed_time_waits: Mutex::default(),
            retired: Mutex::default(),
            blind: HashSet::new(),
            verdicts: vec![
                Verdict {
                    signal: "state",
                    attach_type: AttachType::TpBtf,
                    hook: "inet_sock_set_state",
                    program: "state_btf",
                    status: Status::Attached,
                    detail: String::new(),
                    required: true,
                },
                Verdict {
                    signal: "state",
                    attach_type: AttachType::Tracepoint,
                    hook: "sock:inet_sock_set_state",
                    program: "state_tp",
                    status: Status::NotNeeded,
                    detail: "tp_btf <is> attached".to_owned(),
                    required: true,
                },
            ],
        }
    }

    /// Gives a free slot to a process.
    pub fn spawn(&self, tgid: u32, start: u64, comm: &[u8]) -> Option<u32> {
        let mut slots = self.slots.lock().unwrap();
        let first = SLOT_FIRST as usize;
        let index = first + slots[first..].iter().position(|slot| slot.key.tgid == 0)?;
        let slot = &mut slots[index];
        slot.key = key(tgid, start);
        slot.comm[..comm.len()].copy_from_slice(comm);
        Some(index as u32)
    }

    pub fn change(&self, index: u32, change: impl FnOnce(&mut Slot)) {
        change(&mut self.slots.lock().unwrap()[index as usize]);
    }

    pub fn slot(&self, index: u32) -> Slot {
        self.slots.lock().unwrap()[index as usize]
    }

    pub fn fail_setsockopt(&self, slot: u32, option: i32) {
        let key = SockoptKey {
            slot,
            generation: self.slot(slot).generation,
            level: 6,
            option,
            errno: 92,
            family: 2,
            protocol: 6,
            socket_type: 1,
        };
        *self.failures.lock().unwrap().entry(key).or_default() += 1;
    }
}

pub fn key(tgid: u32, start: u64) -> ProcessKey {
    ProcessKey {
        start_boottime_ns: start,
        tgid,
        reserved: 0,
    }
}

impl KernelSource for FakeKernel {
    fn slot_limit(&self) -> u32 {
        self.slots.lock().unwrap().len() as u32
    }

    fn read_slot(&self, index: u32, slot: &mut Slot) {
        *slot = self.slots.lock().unwrap()[index as usize];
    }

    fn read_slot_identity(&self, index: u32, slot: &mut Slot) {
        let slots = self.slots.lock().unwrap();
        let from = &slots[index as usize];
        slot.key = from.key;
        slot.cgroup_id = from.cgroup_id;
        slot.comm = from.comm;
        slot.generation = from.generation;
        slot.time_wait_count = from.time_wait_count;
        slot.sockets = from.sockets;
    }

    fn time_wait_count(&self, number: u32) -> TimeWaitCount {
        let counts = self.time_waits.lock().unwrap();
        counts.get(&number).copied().unwrap_or_default()
    }

    fn time_wait_by_netns(&self) -> Vec<(u32, TimeWaitCount)> {
        Vec::new()
    }

    fn sockopt_failures(&self) -> Vec<(SockoptKey, u64)> {
        let failures = self.failures.lock().unwrap();
        failures.iter().map(|(key, count)| (*key, *count)).collect()
    }

    fn stats(&self) -> CpuStats {
        let bytes = [0; size_of::<CpuStats>()];
        let mut stats = CpuStats::read_from(&bytes).unwrap();
        stats.outcomes = [Outcomes {
            seen: 10,
            counted: 7,
            unattributed: 2,
            lost: 1,
        }; SIGNALS];
        stats.records[0] = 5;
        stats
    }

    fn maps(&self) -> Vec<MapFill> {
        vec![MapFill {
            map: "connections",
            entries: 3,
            capacity: 10,
            refused: 1,
        }]
    }

    fn programs(&self) -> Vec<ProgramRuns> {
        vec![ProgramRuns {
            program: "state_btf",
            runs: 4,
            run_time_ns: 1_000,
        }]
    }

    fn missed_runs(&self) -> Vec<(&'static str, u64)> {
        vec![("state_tp_btf", 0)]
    }

    fn observes(&self, signal: u32) -> bool {
        !self.blind.contains(&signal)
    }

    fn polled(&self) -> Vec<(&'static str, &'static str)> {
        vec![("listen", "exact"), ("ports", "exact")]
    }

    fn reset_reason(&self, index: u32) -> String {
        match index {
            // The kernel's own reason and the class of the same name.
            5 => "TCP_ABORT_ON_CLOSE".to_owned(),
            index => observer_common::reset_class_name(index)
                .map_or_else(|| format!("REASON_{index}"), str::to_owned),
        }
    }

    fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }
}

impl KernelControl for FakeKernel {
    fn free_time_wait_count(&self, number: u32) {
        self.time_waits.lock().unwrap().remove(&number);
        self.freed_time_waits.lock().unwrap().push(number);
    }

    fn take_sockopt_failures(&self, keys: &[SockoptKey]) -> Vec<(SockoptKey, u64)> {
        let mut failures = self.failures.lock().unwrap();
        let taken = keys.iter().filter_map(|key| failures.remove_entry(key));
        taken.collect()
    }

    fn retire_slot(&self, index: u32) {
        self.retired.lock().unwrap().push(index);
    }

    fn free_slot(&self, index: u32) {
        self.change(index, |slot| {
            let generation = slot.generation + 1;
            *slot = Slot::zeroed();
            slot.generation = generation;
        });
    }
}

/// Processes whose state is set by the test.
pub struct FakeFacts {
    pub dead: Mutex<HashSet<ProcessKey>>,
    pub units: Mutex<BTreeMap<u32, Unit>>,
    /// Names of processes since their execve().
    pub comms: Mutex<HashMap<ProcessKey, Vec<u8>>>,
    /// Of each process.
    pub resources: Resources,
}

impl Default for FakeFacts {
    fn default() -> Self {
        Self {
            dead: Mutex::default(),
            units: Mutex::default(),
            comms: Mutex::default(),
            resources: Resources {
                open_fds: Some(12),
                max_fds: Some(1024),
                ..Resources::default()
            },
        }
    }
}

impl FakeFacts {
    pub fn exec(&self, key: ProcessKey, comm: &[u8]) {
        self.comms.lock().unwrap().insert(key, comm.to_vec());
    }

    pub fn kill(&self, key: ProcessKey) {
        self.dead.lock().unwrap().insert(key);
    }
}

impl ProcessFacts for FakeFacts {
    fn liveness(&self, process: &ProcessKey) -> Liveness {
        if self.dead.lock().unwrap().contains(process) {
            return Liveness::Gone;
        }
        Liveness::Alive(self.comms.lock().unwrap().get(process).cloned())
    }

    fn describe(&self, slot: &Slot) -> Description {
        let units = self.units.lock().unwrap();
        Description {
            gone: self.dead.lock().unwrap().contains(&slot.key),
            comm: None,
            unit: units.get(&slot.key.tgid).cloned().unwrap_or_default(),
        }
    }

    fn resources(&self, _process: &ProcessKey) -> Resources {
        self.resources
    }

    fn own(&self) -> OwnProcess {
        OwnProcess::read()
    }
}
