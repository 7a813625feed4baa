//! The attached programs and their maps, as the rest of the daemon sees them.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use anyhow::Context as _;
use aya::Ebpf;
use aya_log::EbpfLogger;
use observer_common::{
    Account, CpuStats, FULL_MAP_NAMES, ListenerSample, MAP_ACCOUNTS, MAP_CONNECTIONS,
    MAP_LISTENERS, MAP_NETNS, MAP_PROCESSES, MAP_SOCKOPT, MAP_TIME_WAITS, PortSpace, PortUse,
    SIGNAL_LISTEN_OVERFLOW, SIGNAL_NAMES, SIGNAL_TIME_WAIT, SIGNALS, Slot, SockoptKey,
};
use observer_core::{
    contract::{
        KernelControl, KernelSource, MapFill, POLLED_LISTEN, POLLED_PORTS, ProgramRuns, Verdict,
    },
    names::ResetReasons,
    sync::lock,
};
use tracing::debug;

use super::{
    hooks::{listen::max_listeners, state::BACKUP_PROGRAMS},
    loader::{Loaded, backup},
    maps::{
        listeners::Listeners,
        open_files::{OpenFiles, Resynced},
        ports::Ports,
        ring::Stream,
        slots::Slots,
        sockopt::SockoptFailures,
        stats::Stats,
        sweep::Connections,
        time_wait::TimeWaits,
        time_wait_inferred::InferredTimeWaits,
    },
    options::LoadOptions,
    program_stats::ProgramStats,
};

/// Attached programs and their maps. Dropping it detaches them.
pub struct Attached {
    /// Locked before `open_files`.
    ebpf: Mutex<Ebpf>,
    open_files: Mutex<OpenFiles>,
    slots: Slots,
    stats: Stats,
    sockopt: SockoptFailures,
    connections: Connections,
    /// Where both ends of TIME_WAIT are seen.
    time_waits: Option<TimeWaits>,
    inferred: InferredTimeWaits,
    /// Absent where the kernel cannot iterate over the map.
    listeners: Option<Mutex<Listeners>>,
    /// Absent where the kernel cannot iterate over a map.
    ports: Option<Ports>,
    programs: ProgramStats,
    backups_attached: AtomicBool,
    log: Mutex<Option<EbpfLogger<&'static dyn log::Log>>>,
    verdicts: Vec<Verdict>,
    reasons: ResetReasons,
    observes: [bool; SIGNALS],
    max_connections: u64,
    max_sockopt: u64,
    max_listeners: u64,
}

impl Attached {
    /// Takes the maps out of what was loaded.
    ///
    /// # Errors
    ///
    /// When a map is missing or cannot be mapped into memory.
    pub fn new(loaded: Loaded, options: &LoadOptions) -> anyhow::Result<(Self, Stream)> {
        fn available<T>(what: anyhow::Result<T>) -> Option<T> {
            // Why a program is not loaded is in its verdict.
            what.inspect_err(|error| debug!("{error:#}")).ok()
        }
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
        // Iterators are attached to maps before those are taken out of the object.
        let ports = available(Ports::new(&ebpf, exact_time_wait));
        let listeners = available(Listeners::new(&mut ebpf)).map(Mutex::new);
        let time_waits = exact_time_wait
            .then(|| TimeWaits::new(&mut ebpf))
            .transpose()?;
        let log = options
            .log
            .then(|| EbpfLogger::init(&mut ebpf))
            .transpose()
            .context("cannot read the log of the kernel programs")?;
        let stream = Stream::new(&mut ebpf)?;
        let backups = BACKUP_PROGRAMS.iter().map(|backup| backup.name);
        let mut observes = [false; SIGNALS];
        for signal in counted {
            observes[signal as usize] = true;
        }
        let attached = Self {
            open_files: Mutex::new(OpenFiles::new(&mut ebpf)?),
            slots: Slots::new(&mut ebpf)?,
            stats: Stats::new(&mut ebpf)?,
            sockopt: SockoptFailures::new(&mut ebpf)?,
            connections: Connections::new(&mut ebpf)?,
            time_waits,
            inferred: InferredTimeWaits::default(),
            listeners,
            ports,
            programs: ProgramStats::new(&ebpf, programs.into_iter().chain(backups)),
            ebpf: Mutex::new(ebpf),
            backups_attached: AtomicBool::new(backups_attached),
            log: Mutex::new(log),
            verdicts,
            reasons: ResetReasons::new(reset_reasons),
            observes,
            max_connections: u64::from(options.max_connections),
            max_sockopt: u64::from(options.max_sockopt_failures),
            max_listeners: u64::from(max_listeners(options.max_connections)),
        };
        attached.set_records(options.record_mask);
        Ok((attached, stream))
    }

    /// Reads the statistics of the programs, and attaches the backup programs once the kernel has
    /// skipped a run of a program that has one. They cost something, so not before.
    pub fn make_up_for_missed_runs(&self) {
        self.programs.read();
        if self.backups_attached.load(Ordering::Relaxed) {
            return;
        }
        if backup::is_needed(&self.programs.missed()) {
            // Once: what cannot be attached now cannot be attached later.
            self.backups_attached.store(true, Ordering::Relaxed);
            backup::attach(&mut lock(&self.ebpf));
        }
    }

    /// Removes entries of sockets that ended more than ten minutes ago without the kernel
    /// programs noticing: those that no process was found to hold in resynchronisation `epoch`,
    /// and those in TIME_WAIT. Returns how many.
    pub fn sweep(&self, epoch: u32) -> u64 {
        let time_waits = self.time_waits.as_ref();
        time_waits.map_or(0, TimeWaits::sweep)
            + self.connections.sweep(epoch, &self.slots, &self.stats)
    }

    /// Takes in sockets older than the daemon and finds those that changed hands.
    ///
    /// # Errors
    ///
    /// When the iterator is not attached or cannot be read.
    pub fn resync(&self) -> anyhow::Result<Resynced> {
        let mut ebpf = lock(&self.ebpf);
        lock(&self.open_files).resync(&mut ebpf)
    }

    /// Has the kernel programs write these kinds of record, of those that
    /// [`LoadOptions::record_mask`] allows; one bit per `RECORD_` number. A record that nobody
    /// reads costs as much as all counters.
    pub fn set_records(&self, mask: u32) {
        self.stats.set_records(mask);
    }

    /// Passes on what the kernel programs logged since the last call.
    pub fn flush_log(&self) {
        if let Some(log) = &mut *lock(&self.log) {
            log.flush();
        }
    }

    /// Every listening socket as it is now, and those that ended since the last call. `None`
    /// where this kernel has no way to read them.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn take_listeners(&self) -> anyhow::Result<Option<Vec<ListenerSample>>> {
        let Some(listeners) = &self.listeners else {
            return Ok(None);
        };
        let samples = lock(listeners).take();
        samples
            .context("cannot read the listening sockets")
            .map(Some)
    }

    /// Whether full accept queues are counted exactly, in [`observer_common::Listener::overflows`].
    #[must_use]
    pub fn counts_overflows(&self) -> bool {
        self.observes(SIGNAL_LISTEN_OVERFLOW)
    }

    /// Shows every use of a local port to `visit` and returns the network namespaces' port
    /// spaces. `None` where this kernel has no way to read them.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn walk_ports(
        &self,
        visit: impl FnMut(PortUse),
    ) -> anyhow::Result<Option<Vec<Box<PortSpace>>>> {
        let time_waits = self.time_waits.is_some() || {
            let entered = self.stats().outcomes[SIGNAL_TIME_WAIT as usize].seen;
            self.inferred.may_have_any(entered)
        };
        let ports = self.ports.as_ref();
        ports.map(|ports| ports.walk(time_waits, visit)).transpose()
    }
}

impl KernelSource for Attached {
    fn slot_limit(&self) -> u32 {
        self.slots.limit()
    }

    fn read_slot(&self, index: u32, slot: &mut Slot) {
        self.slots.read(index, slot);
        self.stats.add_pending_resets(index, slot);
    }

    fn read_slot_identity(&self, index: u32, slot: &mut Slot) {
        self.slots.read_identity(index, slot);
    }

    fn time_wait_entered(&self, index: u32) -> u64 {
        self.slots.time_wait_entered(index)
    }

    fn account(&self, account: u32) -> Option<Account> {
        Some(self.time_waits.as_ref()?.account(account))
    }

    fn time_wait_by_netns(&self) -> Vec<(u32, Account)> {
        let time_waits = self.time_waits.as_ref();
        time_waits.map_or_else(Vec::new, TimeWaits::by_netns)
    }

    fn sockopt_failures(&self) -> Vec<(SockoptKey, u64)> {
        self.sockopt.read()
    }

    fn stats(&self) -> CpuStats {
        self.stats.totals()
    }

    fn maps(&self) -> Vec<MapFill> {
        let stats = self.stats.sum();
        let fill = |map: u32, entries, capacity| MapFill {
            map: FULL_MAP_NAMES[map as usize],
            entries,
            capacity,
            refused: stats.map_full[map as usize],
        };
        let connections = stats
            .connections_added
            .saturating_sub(stats.connections_removed);
        let processes = self.slots.used();
        let listeners = self.listeners.as_ref();
        let listeners = listeners.map_or(0, |listeners| lock(listeners).count());
        let mut fills = vec![
            fill(MAP_CONNECTIONS, connections, self.max_connections),
            fill(MAP_PROCESSES, processes, self.slots.capacity()),
            fill(MAP_SOCKOPT, self.sockopt.len(), self.max_sockopt),
            fill(MAP_LISTENERS, listeners, self.max_listeners),
        ];
        if let Some(time_waits) = &self.time_waits {
            let netns = time_waits.by_netns();
            let sockets = netns.iter().map(|(_, account)| account.live()).sum();
            let accounts = time_waits.lingering() + processes;
            fills.push(fill(MAP_TIME_WAITS, sockets, self.max_connections));
            fills.push(fill(MAP_ACCOUNTS, accounts, time_waits.max_accounts()));
            fills.push(fill(MAP_NETNS, netns.len() as u64, time_waits.max_netns()));
        }
        fills
    }

    fn programs(&self) -> Vec<ProgramRuns> {
        self.programs.runs()
    }

    fn missed_runs(&self) -> Vec<(&'static str, u64)> {
        self.programs.missed()
    }

    fn observes(&self, signal: u32) -> bool {
        self.observes.get(signal as usize).copied().unwrap_or(false)
    }

    fn polled(&self) -> Vec<(&'static str, &'static str)> {
        let mut methods = Vec::new();
        if self.listeners.is_some() {
            methods.push((POLLED_LISTEN, "exact"));
            if !self.counts_overflows() {
                let overflow = SIGNAL_NAMES[SIGNAL_LISTEN_OVERFLOW as usize];
                methods.push((overflow, "inferred"));
            }
        }
        if self.ports.is_some() {
            let exact = self.time_waits.is_some();
            methods.push((POLLED_PORTS, if exact { "exact" } else { "inferred" }));
        }
        methods
    }

    fn reset_reason(&self, index: u32) -> String {
        self.reasons.name(index).into_owned()
    }

    fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }
}

impl KernelControl for Attached {
    fn free_account(&self, account: u32) {
        if let Some(time_waits) = &self.time_waits {
            time_waits.free(account);
        }
    }

    fn take_sockopt_failures(&self, keys: &[SockoptKey]) -> Vec<(SockoptKey, u64)> {
        self.sockopt.take(keys)
    }

    fn free_slot(&self, index: u32) {
        let account = self.slots.free(index);
        if let Some(time_waits) = &self.time_waits {
            time_waits.outlives(account);
        }
    }
}
