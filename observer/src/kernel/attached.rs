//! The interface to the attached programs and their maps.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use anyhow::Context as _;
use aya::Ebpf;
use aya_log::EbpfLogger;
use observer_common::{
    CpuStats, FULL_MAP_NAMES, ListenerSample, MAP_CONNECTIONS, MAP_LISTENERS, MAP_NETNS,
    MAP_PROCESSES, MAP_SOCKOPT, MAP_TIME_WAIT_COUNTS, MAP_TIME_WAITS, MAP_TLS, MAP_UDP_SOCKETS,
    MAX_TLS_HANDSHAKES, PortSpace, ProcessKey, SIGNAL_LISTEN_OVERFLOW, SIGNAL_NAMES,
    SIGNAL_SETSOCKOPT, SIGNAL_TLS, SIGNALS, SLOT_OVERFLOW, Slot, SocketSeen, SockoptKey,
    TimeWaitCount, TlsSeen,
};
use observer_core::{
    contract::{
        KernelControl, KernelSource, MapFill, POLLED_LISTEN, POLLED_PORTS, ProgramRuns, Verdict,
    },
    detect,
    names::ResetReasons,
    net::sysctls,
    sync::lock,
};
use tracing::debug;

use super::{
    facts::sysctls::SysctlFields,
    hooks::{
        listen::max_listeners, reset, state::BACKUP_PROGRAMS, time_wait, udp::max_udp_sockets,
    },
    loader::{Loaded, backup},
    maps::{
        listeners::Listeners,
        open_files::{OpenFiles, Resynced},
        ports::Ports,
        ring::Stream,
        slots::Slots,
        sockopt::SockoptFailures,
        sources::Sources,
        stats::{Stats, decided},
        sweep::Connections,
        time_wait::TimeWaits,
        tls::Tls,
    },
    options::LoadOptions,
    program_stats::ProgramStats,
    uprobes::Uprobes,
};

/// Number of resynchronisations after which entries of sockets whose end was missed are removed, which
/// reads the whole map of connections.
const SWEEP_EVERY: u32 = 20;

/// Attached programs and their maps. Dropping it detaches them.
pub struct Attached {
    /// Locked before `open_files`.
    ebpf: Mutex<Ebpf>,
    open_files: Mutex<OpenFiles>,
    /// UDP sockets with drops at the last walk over open files, because that keeps `open_files` locked.
    udp_sockets: AtomicU64,
    /// Processes that had any UDP socket then.
    udp_processes: Mutex<Vec<ProcessKey>>,
    slots: Slots,
    stats: Stats,
    sockopt: SockoptFailures,
    connections: Connections,
    time_waits: TimeWaits,
    /// Absent where the kernel cannot iterate over the map.
    listeners: Option<Mutex<Listeners>>,
    /// Absent where the kernel cannot iterate over a map.
    ports: Option<Ports>,
    /// Absent where no program sees RSTs without a socket.
    sources: Option<Sources>,
    /// Absent where TLS handshakes are not observed.
    tls: Option<Tls>,
    sysctls: SysctlFields,
    programs: ProgramStats,
    backups_attached: AtomicBool,
    log: Mutex<Option<EbpfLogger<&'static dyn log::Log>>>,
    verdicts: Vec<Verdict>,
    reasons: ResetReasons,
    observes: [bool; SIGNALS],
    max_connections: u64,
    max_sockopt: u64,
    max_listeners: u64,
    max_udp_sockets: u64,
}

impl Attached {
    /// Takes the maps out of the loaded object.
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
            uprobes,
            backups_attached,
            untested: _,
            absent: _,
            reset_reasons,
            sysctls,
        } = loaded;
        // Iterators are attached to maps before those are taken out of the object.
        let ports = available(Ports::new(&ebpf));
        let sources = available(Sources::new(&ebpf));
        let listeners = available(Listeners::new(&mut ebpf)).map(Mutex::new);
        let of_uprobes: Vec<_> = uprobes.iter().flat_map(Uprobes::programs).collect();
        let tls = uprobes
            .map(|uprobes| Tls::new(&mut ebpf, uprobes))
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
            udp_sockets: AtomicU64::new(0),
            udp_processes: Mutex::default(),
            slots: Slots::new(&mut ebpf)?,
            stats: Stats::new(&mut ebpf)?,
            sockopt: SockoptFailures::new(&mut ebpf)?,
            connections: Connections::new(&mut ebpf)?,
            time_waits: TimeWaits::new(&mut ebpf)?,
            listeners,
            ports,
            sources,
            tls,
            sysctls,
            programs: ProgramStats::new(
                &ebpf,
                programs.into_iter().chain(backups),
                of_uprobes.into_iter(),
            ),
            ebpf: Mutex::new(ebpf),
            backups_attached: AtomicBool::new(backups_attached),
            log: Mutex::new(log),
            verdicts,
            reasons: ResetReasons::new(reset_reasons),
            observes,
            max_connections: u64::from(options.max_connections),
            max_sockopt: u64::from(options.max_sockopt_failures),
            max_listeners: u64::from(max_listeners(options.max_connections)),
            max_udp_sockets: u64::from(max_udp_sockets(options.max_connections)),
        };
        attached.set_records(options.record_mask);
        Ok((attached, stream))
    }

    /// Reads the statistics of the programs, and attaches the backup programs once the kernel has
    /// skipped a run of a program that has one. Not before, because they have a cost.
    pub fn make_up_for_missed_runs(&self) {
        self.programs.read();
        if self.backups_attached.load(Ordering::Relaxed) {
            return;
        }
        if backup::is_needed(&self.programs.missed()) {
            // Only once: a program that cannot be attached now cannot be attached later.
            self.backups_attached.store(true, Ordering::Relaxed);
            backup::attach(&mut lock(&self.ebpf));
        }
    }

    /// Finds sockets older than the daemon and changes of owners. Every [`SWEEP_EVERY`]th time,
    /// removes entries of sockets whose end more than ten minutes ago no program saw, and that no
    /// process has open.
    ///
    /// # Errors
    ///
    /// When the iterator is not attached or cannot be read.
    pub fn resync(&self) -> anyhow::Result<Resynced> {
        let (resynced, udp_processes) = {
            let mut ebpf = lock(&self.ebpf);
            lock(&self.open_files).resync(&mut ebpf)?
        };
        self.udp_sockets
            .store(resynced.udp_sockets, Ordering::Relaxed);
        *lock(&self.udp_processes) = udp_processes;
        if resynced.epoch.is_multiple_of(SWEEP_EVERY) {
            let swept = self
                .connections
                .sweep(resynced.epoch, &self.slots, &self.stats);
            if swept > 0 {
                debug!(swept, "removed entries of sockets whose end was missed");
            }
        }
        Ok(resynced)
    }

    /// Sets the kinds of record that the kernel programs write, among those that
    /// [`LoadOptions::record_mask`] allows; one bit per `RECORD_` number. Writing a record costs as
    /// much as all counters.
    pub fn set_records(&self, mask: u32) {
        self.stats.set_records(mask);
    }

    /// Forwards log messages of the kernel programs since the last call.
    pub fn flush_log(&self) {
        if let Some(log) = &mut *lock(&self.log) {
            log.flush();
        }
    }

    /// Every listening socket as it is now, and those that ended since the last call. `None`
    /// if this kernel does not support reading them.
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

    /// Shows every connection and every socket in TIME_WAIT to `visit`, and returns the ports of the network
    /// namespaces that have any in use. Finds the sockets that left TIME_WAIT, if no hook counts that.
    /// `None` if this kernel does not support the walk.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn walk(
        &self,
        visit: impl FnMut(SocketSeen),
    ) -> anyhow::Result<Option<Vec<Box<PortSpace>>>> {
        let ports = self.ports.as_ref();
        ports
            .map(|ports| ports.walk(|| self.has_time_waits(), visit))
            .transpose()
    }

    /// Whether the map of sockets in TIME_WAIT may have entries. Going through its empty buckets takes as long as some
    /// hundred connections.
    fn has_time_waits(&self) -> bool {
        // If a network namespace found no room, its sockets are not counted.
        let is_counted = self.stats.sum().map_full[MAP_NETNS as usize] == 0;
        !is_counted || self.time_waits.is_any()
    }

    /// The sysctls of the network namespaces that [`Self::walk`] returned, by inode number.
    #[must_use]
    pub fn sysctls(&self, spaces: &[Box<PortSpace>]) -> BTreeMap<u32, sysctls::Values> {
        let values = spaces.iter().map(|it| (it.netns, self.sysctls.values(it)));
        values.collect()
    }

    /// Counts the sockets that left TIME_WAIT since the last call, if no hook counts that.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn find_ended_time_waits(&self) -> anyhow::Result<()> {
        self.ports
            .as_ref()
            .map_or(Ok(()), Ports::find_ended_time_waits)
    }

    /// Makes room in the map of network namespaces, if it runs low: forgets those without sockets in
    /// TIME_WAIT that are not in `living`, inode numbers.
    pub fn forget_netns(&self, living: &HashSet<u32>) {
        self.time_waits.forget_netns(living);
    }

    /// Processes that had UDP sockets open at the last walk over open files.
    #[must_use]
    pub fn udp_processes(&self) -> Vec<ProcessKey> {
        lock(&self.udp_processes).clone()
    }

    /// TLS handshakes: the probed files, and handshakes in progress. `None` if they are not observed.
    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Counts handshakes in progress of processes that have ended as failed.
    pub fn end_handshakes(&self, abandoned: &[TlsSeen]) {
        if let Some(tls) = &self.tls {
            for seen in abandoned.iter().filter(|seen| tls.remove(seen)) {
                let slot = match self.slots.count_failed_handshake(seen) {
                    true => seen.handshake.slot,
                    false => SLOT_OVERFLOW,
                };
                self.stats.count_outcome(SIGNAL_TLS, slot);
            }
        }
    }

    /// Sources of segments for closed ports within the last minute. Empty if no program sees RSTs
    /// without a socket, which the verdicts of `reset_sent_no_socket` show.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn scan_sources(&self) -> anyhow::Result<Vec<detect::Source>> {
        let Some(sources) = &self.sources else {
            return Ok(Vec::new());
        };
        sources
            .read()
            .context("cannot read the sources of segments for closed ports")
    }
}

impl KernelSource for Attached {
    fn slot_limit(&self) -> u32 {
        self.slots.limit()
    }

    fn read_slot(&self, index: u32, slot: &mut Slot) {
        let read = |slot: &mut Slot| self.slots.read(index, slot);
        self.stats.read_slot(index, slot, read);
    }

    fn read_slot_identity(&self, index: u32, slot: &mut Slot) {
        self.slots.read_identity(index, slot);
    }

    fn time_wait_count(&self, number: u32) -> TimeWaitCount {
        self.time_waits.count(number)
    }

    fn time_wait_by_netns(&self) -> Vec<(u32, TimeWaitCount)> {
        self.time_waits.by_netns()
    }

    fn sockopt_failures(&self) -> Vec<(SockoptKey, u64)> {
        let outcomes = self.stats.sum().outcomes[SIGNAL_SETSOCKOPT as usize];
        self.sockopt.read(decided(&outcomes))
    }

    fn stats(&self) -> CpuStats {
        let mut stats = self.stats.totals();
        count_skipped(&mut stats, &self.programs.missed());
        stats
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
        let udp_sockets = self.udp_sockets.load(Ordering::Relaxed);
        let netns = self.time_waits.by_netns();
        let time_waits = netns.iter().map(|(_, count)| count.live()).sum();
        let counts = self.time_waits.lingering() + processes;
        let max_counts = self.time_waits.max_counts();
        vec![
            fill(MAP_CONNECTIONS, connections, self.max_connections),
            fill(MAP_PROCESSES, processes, self.slots.capacity()),
            fill(MAP_SOCKOPT, self.sockopt.len(), self.max_sockopt),
            fill(MAP_LISTENERS, listeners, self.max_listeners),
            fill(MAP_TIME_WAITS, time_waits, self.max_connections),
            fill(MAP_TIME_WAIT_COUNTS, counts, max_counts),
            fill(MAP_NETNS, netns.len() as u64, self.time_waits.max_netns()),
            fill(
                MAP_TLS,
                self.tls.as_ref().map_or(0, Tls::in_progress),
                u64::from(MAX_TLS_HANDSHAKES),
            ),
            fill(MAP_UDP_SOCKETS, udp_sockets, self.max_udp_sockets),
        ]
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
            methods.push((POLLED_PORTS, "exact"));
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
    fn free_time_wait_count(&self, number: u32) {
        self.time_waits.free(number);
    }

    fn take_sockopt_failures(&self, keys: &[SockoptKey]) -> Vec<(SockoptKey, u64)> {
        self.sockopt.take(keys)
    }

    fn retire_slot(&self, index: u32) {
        self.slots.retire(index);
    }

    fn free_slot(&self, index: u32) {
        self.time_waits.outlives(self.slots.free(index));
    }
}

/// Counts skipped runs as lost events, for programs of which each run is one event and that have no
/// backup. `missed` has the skipped runs of each program.
fn count_skipped(stats: &mut CpuStats, missed: &[(&'static str, u64)]) {
    for (program, runs) in missed {
        let lost = [&reset::LOST_WHEN_SKIPPED[..], &time_wait::LOST_WHEN_SKIPPED];
        let mut lost = lost.into_iter().flatten();
        let signal = lost.find(|(name, _)| name == program);
        if let Some((_, signal)) = signal {
            let outcomes = &mut stats.outcomes[*signal as usize];
            outcomes.seen += runs;
            outcomes.lost += runs;
        }
    }
}

#[cfg(test)]
mod tests {
    use observer_common::{Pod as _, SIGNAL_RESET_SENT, SIGNAL_STATE, SIGNAL_TIME_WAIT};

    use super::*;

    #[test]
    fn skipped_runs_without_a_backup_are_lost_events() {
        let mut stats = CpuStats::read_from(&[0; size_of::<CpuStats>()]).unwrap();
        let missed = [
            ("reset_sent_tp_btf", 3),
            ("state_tp_btf", 5),
            ("bind_fexit", 7),
            ("time_wait_begin_fexit", 2),
        ];
        count_skipped(&mut stats, &missed);
        let of = |signal: u32| {
            let outcomes = stats.outcomes[signal as usize];
            (outcomes.seen, outcomes.lost, outcomes.counted)
        };
        assert_eq!(of(SIGNAL_RESET_SENT), (3, 3, 0));
        assert_eq!(of(SIGNAL_STATE), (0, 0, 0));
        assert_eq!(of(SIGNAL_TIME_WAIT), (2, 2, 0));
    }
}
