//! The attached programs, as the rest of the daemon sees them.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{HashMap, MapData, Queue, RingBuf},
};
use aya_log::EbpfLogger;
use observer_common::{
    Account, CLOSE, Conn, CpuStats, FULL_MAP_NAMES, MAP_ACCOUNTS, MAP_CONNECTIONS, MAP_LISTENERS,
    MAP_NETNS, MAP_PROCESSES, MAP_SOCKOPT, MAP_TIME_WAITS, ProcessKey, SIGNAL_RESET_RECEIVED,
    SIGNALS, SLOT_FIRST, SLOT_OVERFLOW, SLOT_UNATTRIBUTED, Slot, SockoptKey, TIME_WAIT_SUBSTATES,
};

use super::{
    clock::monotonic_ns,
    hooks::{listen::max_listeners, state::BACKUP_PROGRAMS},
    loader::{Loaded, backup},
    maps::{
        array::MappedArray,
        iterators::Iterators,
        open_files::{Resync, Resynced},
        ring::Stream,
        time_wait::TimeWaits,
        time_wait_inferred::Resting,
    },
    options::LoadOptions,
    program_stats::{field, program_runs},
};
use crate::{
    contract::{KernelSource, MapFill, ProgramRuns, Verdict},
    explain::ResetReasons,
    sync::lock,
};

/// How long a closed socket that no process holds may be remembered.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// Attached programs and their maps. Dropping it detaches them.
pub struct Live {
    ebpf: Mutex<(Ebpf, Resync)>,
    slots: MappedArray<Slot>,
    stats: MappedArray<CpuStats>,
    processes: Mutex<HashMap<MapData, ProcessKey, u32>>,
    free_slots: Mutex<Queue<MapData, u32>>,
    sockopt: Mutex<HashMap<MapData, SockoptKey, u64>>,
    connections: Mutex<HashMap<MapData, u64, Conn>>,
    program_fds: Vec<(&'static str, i32)>,
    slot_limit: AtomicU32,
    verdicts: Vec<Verdict>,
    reasons: ResetReasons,
    observes: [bool; SIGNALS],
    max_connections: u64,
    max_sockopt: u64,
    max_listeners: u64,
    pub(in crate::kernel) resting: Resting,
    /// Where TIME_WAIT is exact.
    time_waits: Option<TimeWaits>,
    backups_attached: AtomicBool,
    log: Mutex<Option<EbpfLogger<&'static dyn log::Log>>>,
    pub(in crate::kernel) iterators: Iterators,
}

impl Live {
    /// Takes the maps out of what was loaded.
    ///
    /// # Errors
    ///
    /// When a map is missing or cannot be mapped.
    pub fn new(loaded: Loaded, options: &LoadOptions) -> anyhow::Result<(Self, Stream)> {
        let Loaded {
            mut ebpf,
            verdicts,
            programs,
            counted,
            exact_time_wait,
            backups_attached,
            untested: _,
            absent: _,
            reset_reasons,
        } = loaded;
        let iterators = Iterators::new(&mut ebpf, exact_time_wait);
        let time_waits = exact_time_wait
            .then(|| TimeWaits::new(&mut ebpf))
            .transpose()?;
        let resting = Resting::new(&mut ebpf)?;
        let mut take = |name: &'static str| {
            ebpf.take_map(name)
                .with_context(|| format!("the object has no map {name}"))
        };
        let array = |map: aya::maps::Map, name| match map {
            aya::maps::Map::Array(data) => Ok(data),
            _ => Err(anyhow::anyhow!("the map {name} is no array")),
        };
        let slots = array(take("SLOTS")?, "SLOTS")?;
        let slots = MappedArray::new(&slots).context("cannot map the process slots")?;
        let stats = array(take("STATS")?, "STATS")?;
        let stats = MappedArray::new(&stats).context("cannot map the statistics")?;
        let processes = HashMap::try_from(take("PROCESSES")?)?;
        let free_slots: Queue<MapData, u32> = Queue::try_from(take("FREE_SLOTS")?)?;
        let sockopt = HashMap::try_from(take("SOCKOPT_FAILURES")?)?;
        let connections = HashMap::try_from(take("CONNECTIONS")?)?;
        let stream = Stream(RingBuf::try_from(take("RECORDS")?)?);
        let log = options
            .log
            .then(|| EbpfLogger::init(&mut ebpf))
            .transpose()
            .context("cannot read the log of the kernel programs")?;
        let resync = Resync::new(&mut ebpf)?;
        let program_fds = programs
            .into_iter()
            .chain(BACKUP_PROGRAMS.iter().map(|backup| backup.name))
            .filter_map(|name| {
                let fd = ebpf.program(name)?.fd().ok()?;
                Some((name, fd.as_fd().as_raw_fd()))
            })
            .collect();
        let mut observes = [false; SIGNALS];
        for signal in counted {
            observes[signal as usize] = true;
        }
        let live = Self {
            ebpf: Mutex::new((ebpf, resync)),
            slots,
            stats,
            processes: Mutex::new(processes),
            free_slots: Mutex::new(free_slots),
            sockopt: Mutex::new(sockopt),
            connections: Mutex::new(connections),
            program_fds,
            slot_limit: AtomicU32::new(SLOT_FIRST),
            verdicts,
            reasons: ResetReasons::new(reset_reasons),
            observes,
            max_connections: u64::from(options.max_connections),
            max_sockopt: u64::from(options.max_sockopt_failures),
            max_listeners: u64::from(max_listeners(options.max_connections)),
            resting,
            time_waits,
            log: Mutex::new(log),
            backups_attached: AtomicBool::new(backups_attached),
            iterators,
        };
        live.set_records(options.record_mask);
        Ok((live, stream))
    }

    /// See [`Resting::owner`].
    pub fn time_wait_owner(&self, cookie: u64) -> Option<(u32, u32)> {
        self.resting.owner(cookie)
    }

    /// Attaches the backup programs once the kernel has skipped a run of a program that has one.
    /// They cost something, so not before.
    pub fn make_up_for_missed_runs(&self) {
        if self.backups_attached.load(Ordering::Relaxed) {
            return;
        }
        if backup::is_needed(&self.missed_runs()) {
            // Once: what cannot be attached now cannot be attached later.
            self.backups_attached.store(true, Ordering::Relaxed);
            backup::attach(&mut lock(&self.ebpf).0);
        }
    }

    /// Drops entries of sockets that closed more than ten minutes ago and that no process
    /// was found to hold in resynchronisation `epoch`: the kernel skipped the program that should have seen their
    /// end. Returns how many.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn sweep(&self, epoch: u32) -> anyhow::Result<u64> {
        let now = monotonic_ns();
        let forgotten = |since: u64| now.saturating_sub(since) > FORGOTTEN.as_nanos() as u64;
        let time_waits = self.time_waits.as_ref();
        let mut swept = time_waits.map_or(0, |time_waits| time_waits.sweep(forgotten));
        let mut connections = lock(&self.connections);
        let stale: Vec<_> = connections
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, conn)| {
                conn.state == CLOSE
                    && conn.handover == 0
                    && conn.epoch != epoch
                    && forgotten(conn.entered_ns)
            })
            .collect();
        for (socket, conn) in stale {
            if connections.remove(&socket).is_ok() {
                let sockets = std::mem::offset_of!(Slot, sockets);
                self.slots
                    .word(conn.slot, sockets)
                    .fetch_sub(1, Ordering::Relaxed);
                let removed = std::mem::offset_of!(CpuStats, connections_removed);
                self.stats.word(0, removed).fetch_add(1, Ordering::Relaxed);
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// Takes in sockets older than the daemon and finds those that changed hands.
    ///
    /// # Errors
    ///
    /// When the iterator is not attached or cannot be read.
    pub fn resync(&self) -> anyhow::Result<Resynced> {
        let mut guard = lock(&self.ebpf);
        let (ebpf, resync) = &mut *guard;
        resync.run(ebpf)
    }

    /// What `read` finds in the fdinfo of each program.
    fn fdinfo<T>(&self, read: impl Fn(&'static str, &str) -> Option<T>) -> Vec<T> {
        self.program_fds
            .iter()
            .filter_map(|(program, fd)| {
                let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
                read(program, &info)
            })
            .collect()
    }

    /// Whether slot `index` is a process's.
    fn in_use(&self, index: u32) -> bool {
        let tgid = std::mem::offset_of!(Slot, key) + std::mem::offset_of!(ProcessKey, tgid);
        self.slots.word(index, tgid).load(Ordering::Relaxed) != 0
    }

    /// Has the kernel programs write these kinds of record, of those that
    /// [`LoadOptions::record_mask`] allows; one bit per `RECORD_` number. A record that nobody
    /// reads costs as much as all counters.
    pub fn set_records(&self, mask: u32) {
        let offset = std::mem::offset_of!(CpuStats, record_mask);
        for cpu in 0..self.stats.len() {
            self.stats
                .word(cpu, offset)
                .store(u64::from(mask), Ordering::Relaxed);
        }
    }

    /// Passes on what the kernel programs logged since the last call.
    pub fn flush_log(&self) {
        if let Some(log) = &mut *lock(&self.log) {
            log.flush();
        }
    }
}

impl KernelSource for Live {
    fn slot_limit(&self) -> u32 {
        // Slots are handed out in order until the first comes back, but a slot that a
        // second thread of a new process took and gave back leaves a hole.
        let known = self.slot_limit.load(Ordering::Relaxed);
        let last = (known..self.slots.len())
            .rev()
            .find(|&index| self.in_use(index));
        let limit = last.map_or(known, |index| index + 1);
        self.slot_limit.fetch_max(limit, Ordering::Relaxed);
        limit
    }

    fn read_slot(&self, index: u32, slot: &mut Slot) {
        self.slots.read(index, slot);
        for (pending, generation, state) in self.stats.pending() {
            // Of another generation, it was folded with the process it was for.
            if (pending, generation) == (index, slot.generation)
                && let Some(counter) = slot.resets_received.get_mut(state as usize)
            {
                *counter += 1;
            }
        }
    }

    fn read_slot_identity(&self, index: u32, slot: &mut Slot) {
        let prefix = std::mem::offset_of!(Slot, transitions);
        self.slots.read_prefix(index, prefix, slot);
    }

    fn time_wait_entered(&self, index: u32) -> u64 {
        let first = std::mem::offset_of!(Slot, time_wait_entered);
        (0..TIME_WAIT_SUBSTATES.len())
            .map(|substate| self.slots.word(index, first + 8 * substate))
            .map(|word| word.load(Ordering::Relaxed))
            .sum()
    }

    fn account(&self, account: u32) -> Option<Account> {
        Some(self.time_waits.as_ref()?.account(account))
    }

    fn free_account(&self, account: u32) {
        if let Some(time_waits) = &self.time_waits {
            time_waits.free(account);
        }
    }

    fn time_wait_by_netns(&self) -> Vec<(u32, Account)> {
        let time_waits = self.time_waits.as_ref();
        time_waits.map_or_else(Vec::new, TimeWaits::by_netns)
    }

    fn take_sockopt_failures(&self, keys: &[SockoptKey]) -> Vec<(SockoptKey, u64)> {
        let mut map = lock(&self.sockopt);
        let mut take = |key: &SockoptKey| {
            let count = map.get(key, 0).ok()?;
            map.remove(key).ok()?;
            Some((*key, count))
        };
        keys.iter().filter_map(&mut take).collect()
    }

    fn sockopt_failures(&self) -> Vec<(SockoptKey, u64)> {
        lock(&self.sockopt).iter().filter_map(Result::ok).collect()
    }

    fn stats(&self) -> CpuStats {
        let mut sum = self.stats.sum();
        for (slot, _, _) in self.stats.pending() {
            let outcomes = &mut sum.outcomes[SIGNAL_RESET_RECEIVED as usize];
            outcomes.seen += 1;
            *match slot {
                SLOT_UNATTRIBUTED => &mut outcomes.unattributed,
                SLOT_OVERFLOW => &mut outcomes.lost,
                _ => &mut outcomes.counted,
            } += 1;
        }
        sum
    }

    fn maps(&self) -> Vec<MapFill> {
        let stats = self.stats.sum();
        let fill = |map: u32, entries, capacity| MapFill {
            map: FULL_MAP_NAMES[map as usize],
            entries,
            capacity,
            refused: stats.map_full[map as usize],
        };
        let used = (SLOT_FIRST..self.slot_limit())
            .filter(|&index| self.in_use(index))
            .count();
        let mut fills = vec![
            fill(
                MAP_CONNECTIONS,
                stats
                    .connections_added
                    .saturating_sub(stats.connections_removed),
                self.max_connections,
            ),
            fill(
                MAP_PROCESSES,
                used as u64,
                u64::from(self.slots.len() - SLOT_FIRST),
            ),
            fill(
                MAP_SOCKOPT,
                lock(&self.sockopt).keys().filter_map(Result::ok).count() as u64,
                self.max_sockopt,
            ),
            fill(
                MAP_LISTENERS,
                self.iterators.listeners(),
                self.max_listeners,
            ),
        ];
        if let Some(time_waits) = &self.time_waits {
            let netns = time_waits.by_netns();
            let live = netns.iter().map(|(_, account)| account.live()).sum();
            let accounts = time_waits.lingering() + used as u64;
            fills.push(fill(MAP_TIME_WAITS, live, self.max_connections));
            fills.push(fill(MAP_ACCOUNTS, accounts, time_waits.max_accounts()));
            fills.push(fill(MAP_NETNS, netns.len() as u64, time_waits.max_netns()));
        }
        fills
    }

    fn programs(&self) -> Vec<ProgramRuns> {
        let runs = self.fdinfo(program_runs);
        // The kernel shows zeros while it does not keep statistics.
        if runs.iter().all(|program| program.runs == 0) {
            return Vec::new();
        }
        runs
    }

    fn missed_runs(&self) -> Vec<(&'static str, u64)> {
        self.fdinfo(|program, info| Some((program, field(info, "recursion_misses")?)))
    }

    fn observes(&self, signal: u32) -> bool {
        self.observes.get(signal as usize).copied().unwrap_or(false)
    }

    fn polled(&self) -> Vec<(&'static str, &'static str)> {
        self.iterators.methods(self.counts_overflows())
    }

    fn reset_reason(&self, index: u32) -> String {
        self.reasons.name(index).into_owned()
    }

    fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    fn free_slot(&self, index: u32) {
        let mut slot = Slot::zeroed();
        self.read_slot_identity(index, &mut slot);
        // First the name, so that nobody finds the slot any more; then its contents; then
        // it is handed out again.
        let _ = lock(&self.processes).remove(&slot.key);
        if let Some(time_waits) = &self.time_waits {
            time_waits.outlives(slot.account);
        }
        self.slots.clear(index);
        let generation = std::mem::offset_of!(Slot, generation);
        self.slots.word(index, generation).store(
            u64::from(slot.generation.wrapping_add(1)),
            Ordering::Release,
        );
        let _ = lock(&self.free_slots).push(index, 0);
    }
}
