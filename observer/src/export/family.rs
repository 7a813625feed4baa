//! Every metric this program exports, in one table: name, type, help.
//!
//! Names and labels are a contract with dashboards and alerts.

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Only grows, except at a restart.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

impl Type {
    /// As the text format spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric: all series of one name.
#[derive(Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Type,
    /// For the person who is woken up by it.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($family:ident, $name:literal, $kind:ident, $help:literal;)+) => {
        /// Names a metric of [`METRICS`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each one is documented by its help text")]
        pub enum Family {
            $($family,)+
        }

        /// All metrics, in the order of [`Family`], which is the order of the exposition.
        pub const METRICS: &[Metric] = &[
            $(Metric { name: $name, kind: Type::$kind, help: $help },)+
        ];
    };
}

metrics! {
    Connections, "socket_connections", Gauge,
        "TCP sockets now in each state, by owning process. CLOSE_WAIT that only grows is a program that does not close.";
    Transitions, "socket_state_transitions_total", Counter,
        "TCP state transitions of the process's sockets.";
    Connects, "socket_connects_total", Counter,
        "Finished connection attempts by result: ok, or the errno that connect() met.";
    Accepts, "socket_accepts_total", Counter,
        "Connections taken by accept().";
    ConnectSeconds, "socket_connect_seconds", Histogram,
        "Time from SYN to ESTABLISHED of outgoing connections. Steps at 1, 3 and 7 seconds are lost SYNs.";
    ConnectionAge, "socket_conn_age_seconds", Histogram,
        "Age at the end of connections that had been established.";
    CloseWaitSeconds, "socket_close_wait_seconds", Histogram,
        "Time spent in CLOSE_WAIT, that is between the peer's close and our own. Counted when the socket leaves it.";
    Resets, "socket_resets_total", Counter,
        "RST segments by direction and reason. A received one is told apart by the state it found the connection in.";
    TimeWait, "socket_time_wait", Gauge,
        "Sockets in TIME_WAIT that the process left behind. Where both ends are not seen (observer_signal_info, method), inferred from entries of the last 60 seconds and held against the kernel's total.";
    TimeWaitEntered, "socket_time_wait_entered_total", Counter,
        "Sockets that entered TIME_WAIT, by the substate they began in: FIN_WAIT2 when the peer had not closed yet. Near 470 per second towards one address, the default port range runs out.";
    TimeWaitEnded, "socket_time_wait_ended_total", Counter,
        "Sockets that left TIME_WAIT. Shown where that is seen.";
    TimeWaitOverflows, "socket_time_wait_overflows_total", Counter,
        "Sockets closed without a TIME_WAIT, because the kernel had no bucket for it (net.ipv4.tcp_max_tw_buckets) or no memory. Shown where that is seen.";
    PortsExhausted, "socket_ephemeral_ports_exhausted_total", Counter,
        "Searches for a local port that found none, by the call that made them. Neither a clash of explicitly bound sockets nor an address that is not local counts.";
    SetsockoptFailures, "socket_setsockopt_failures_total", Counter,
        "setsockopt() calls that failed, by option and errno.";
    FdExhausted, "socket_fd_exhausted_total", Counter,
        "socket() and accept() calls that failed for want of descriptors or memory. EMFILE is the process's limit, ENFILE the host's.";
    Retransmits, "socket_retransmits_total", Counter,
        "Retransmitted TCP segments.";
    ListenBacklog, "socket_listen_backlog", Gauge,
        "Connections that wait for the process to accept them, by listening address.";
    ListenBacklogMax, "socket_listen_backlog_max", Gauge,
        "Connections that may wait to be accepted: the lesser of listen()'s backlog and net.core.somaxconn. One more is let in.";
    ListenOverflows, "socket_listen_overflows_total", Counter,
        "Connection requests dropped because the accept queue was full: the process does not accept fast enough, or the backlog is too short.";
    SynDrops, "socket_syn_drops_total", Counter,
        "Connection requests that the listener dropped for whatever reason, a full accept queue included.";
    PortsUsed, "socket_ephemeral_ports_used", Gauge,
        "Local ports that the process uses towards a destination, from one source address. TIME_WAIT is use.";
    PortsAvailable, "socket_ephemeral_ports_available", Gauge,
        "Local ports that connect() may choose from for each destination: ip_local_port_range less reserved and bound ports.";
    PortsRatio, "socket_ephemeral_ports_ratio", Gauge,
        "Part of the available local ports that all processes together use towards this destination. At 1, connect() fails with EADDRNOTAVAIL.";
    OpenFds, "socket_process_open_fds", Gauge,
        "Open file descriptors of the watched process.";
    MaxFds, "socket_process_max_fds", Gauge,
        "Soft limit on open file descriptors of the watched process.";
    FdHighWater, "socket_process_open_fds_high_water", Gauge,
        "The most file descriptors the watched process was seen to have open.";
    OpenSockets, "socket_process_open_sockets", Gauge,
        "Live TCP sockets of the process, in any state but CLOSE and TIME_WAIT. Those of an exited process are kernel orphans or inherited.";
    Events, "observer_events_total", Counter,
        "Kernel events by what became of them: counted for a process, counted as unattributed, or lost to a full map. The three add up to observer_events_seen_total.";
    EventsSeen, "observer_events_seen_total", Counter,
        "Kernel events that the hooks of a signal saw.";
    HookAttached, "observer_hook_attached", Gauge,
        "1 where a hook is attached, 0 where it is not: unsupported, refused, or a cheaper hook of the same signal serves. `observer check` says why.";
    SignalInfo, "observer_signal_info", Gauge,
        "Signals that are observed, and whether their numbers are exact or inferred. A signal that is not here has no metrics.";
    MapEntries, "observer_map_entries", Gauge,
        "Entries in a BPF map now.";
    MapCapacity, "observer_map_capacity", Gauge,
        "The most entries a BPF map can hold.";
    MapFull, "observer_map_full_total", Counter,
        "Insertions refused because a BPF map was full. Above 0, events are counted as lost to their process, and gauges of live sockets are too low: raise the limit (--max-connections, --max-processes).";
    Records, "observer_records_total", Counter,
        "Records that the kernel programs wrote to the ring buffer. None while nobody reads them: with --log-events, those that may tell of a failure.";
    RecordsLost, "observer_records_lost_total", Counter,
        "Records lost because the ring buffer was full. Detail is missing then, no count is.";
    RunSeconds, "observer_bpf_run_seconds_total", Counter,
        "Time spent in a BPF program. Present while kernel.bpf_stats_enabled is 1.";
    Runs, "observer_bpf_runs_total", Counter,
        "Runs of a BPF program. Present while kernel.bpf_stats_enabled is 1.";
    MissedRuns, "observer_bpf_missed_runs_total", Counter,
        "Runs that the kernel left out because the program was already running on that CPU. Where there is a program of the same name with again in it, that one makes up for it; else they are events that were not counted.";
    TimeWaitDrift, "observer_time_wait_drift_sockets", Gauge,
        "Sockets in TIME_WAIT counted here minus the kernel's own number. Negative: some are older than the observer. Positive, where they are inferred: sockets left early, or the kernel ran out of TIME_WAIT buckets.";
    Processes, "observer_processes", Gauge,
        "Processes in the table: shown under their own pid, running in pid=\"other\", or exited and not yet folded into pid=\"exited\".";
    ExitedGroups, "observer_exited_groups", Gauge,
        "Groups of exited processes, by name and unit, the one without a name included. Past --max-processes, those that were added to longest ago become part of that one.";
    BuildInfo, "observer_build_info", Gauge,
        "Always 1; the labels say which build is running.";
    ScrapeDuration, "observer_scrape_duration_seconds", Gauge,
        "Time it took to collect this scrape.";
    ProcessCpu, "process_cpu_seconds_total", Counter,
        "User and system CPU time spent by the observer itself.";
    ProcessOpenFds, "process_open_fds", Gauge,
        "Open file descriptors of the observer itself.";
    ProcessMaxFds, "process_max_fds", Gauge,
        "Soft limit on open file descriptors of the observer itself.";
    ProcessVirtualMemory, "process_virtual_memory_bytes", Gauge,
        "Virtual memory of the observer itself.";
    ProcessResidentMemory, "process_resident_memory_bytes", Gauge,
        "Resident memory of the observer itself.";
    ProcessStartTime, "process_start_time_seconds", Gauge,
        "Start time of the observer itself, in seconds since the Unix epoch.";
    ProcessThreads, "process_threads", Gauge,
        "Threads of the observer itself.";
}

impl Family {
    /// The metric's name, type and help.
    #[must_use]
    pub fn metric(self) -> &'static Metric {
        &METRICS[self as usize]
    }
}
