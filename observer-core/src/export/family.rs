//! Every metric this program exports: name, type, unit, labels, hooks, help, and a query that uses
//! it. Counters of slots are described by their signals (`observer_common::METRICS`), all others here.
//! The tables of docs/metrics.md are written from both.
//!
//! Names and labels are a contract with dashboards and alerts.

use observer_common::{CounterMetric, HistogramMetric, METRICS as SIGNALS, ProcessMetric};

use super::metric::{Metric, Scope, Type};

/// Names a metric of [`METRICS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family(usize);

macro_rules! metrics {
    ($($family:ident: $name:literal, $kind:ident, $scope:ident, $unit:literal, $labels:expr, $hooks:literal,
        $help:literal, $query:literal;)+) => {
        enum Listed {
            $($family,)+
        }

        #[expect(missing_docs, reason = "each one is documented by its help text")]
        #[expect(non_upper_case_globals, reason = "used like the variants of an enum")]
        impl Family {
            $(pub const $family: Self = Self(Listed::$family as usize);)+
        }

        /// The metrics that are listed here.
        const LISTED: &[Metric] = &[
            $(Metric {
                name: $name,
                kind: Type::$kind,
                scope: Scope::$scope,
                unit: $unit,
                labels: &$labels,
                hooks: $hooks,
                help: $help,
                query: $query,
            },)+
        ];
    };
}

metrics! {
    Connections: "socket_connections", Gauge, Name, "sockets", ["state"],
        "`inet_sock_set_state`; `task_file` at the start",
        "Current number of TCP sockets by state. Until it is accepted, a connection counts for the process of its listener.",
        "sum by (comm, unit) (socket_connections{state=\"CLOSE_WAIT\"}) > 10";
    StrayResets: "socket_stray_resets_total", Counter, Host, "segments", ["reason"],
        "`tcp_send_reset`; before 6.10 `tcp_v[46]_send_reset`",
        "RST segments sent in reply to segments that match no socket: port scans, and clients of a service that is not running.",
        "rate(socket_stray_resets_total[5m]) > 10";
    TimeWait: "socket_time_wait", Gauge, Name, "sockets", [],
        "`inet_twsk_alloc`, `tcp_twsk_destructor`; else `inet_sock_set_state`, `bpf_map_elem`",
        "Current number of sockets in TIME_WAIT.",
        "topk(5, sum by (comm, unit) (socket_time_wait))";
    TimeWaitEnded: "socket_time_wait_ended_total", Counter, Name, "sockets", [],
        "`tcp_twsk_destructor`, else `bpf_map_elem`",
        "Sockets that left TIME_WAIT, for any reason. Counted up to --reconcile-interval late if tcp_twsk_destructor is not hooked.",
        "sum by (comm) (rate(socket_time_wait_ended_total[5m]))";
    SetsockoptFailures: "socket_setsockopt_failures_total", Counter, Name, "calls", ["family", "protocol", "level", "option", "errno"],
        "`__sys_setsockopt`, else `sys_exit_setsockopt`",
        "Failed setsockopt() calls on sockets of any kind.",
        "sum by (comm, option, errno) (increase(socket_setsockopt_failures_total[1h])) > 0";
    ListenBacklog: "socket_listen_backlog", Gauge, Name, "connections", ["address", "netns"],
        "`bpf_map_elem`",
        "Connections waiting for accept() by listening address, summed over all sockets of the address.",
        "sum by (comm, address) (socket_listen_backlog) > 100";
    ListenBacklogMax: "socket_listen_backlog_max", Gauge, Name, "connections", ["address", "netns"],
        "`bpf_map_elem`",
        "Maximum number of connections waiting for accept(): the minimum of the backlog given to listen() and net.core.somaxconn, summed over all sockets of the address. The kernel lets one more wait per socket.",
        "socket_listen_backlog / socket_listen_backlog_max > 0.8";
    ListenFullest: "socket_listen_backlog_fullest_ratio", Gauge, Name, "ratio", ["address", "netns"],
        "`bpf_map_elem`",
        "Backlog divided by its maximum, for the socket of the address with the highest value. With SO_REUSEPORT, one full queue drops connections even though the sum is far below the maximum.",
        "max by (comm, unit, address) (socket_listen_backlog_fullest_ratio) > 0.8";
    ListenOverflows: "socket_listen_overflows_total", Counter, Name, "segments", ["address", "netns"],
        "`tcp_conn_request`, `tcp_v[46]_syn_recv_sock`; else inferred",
        "Connection requests dropped because the accept queue was full: the process does not accept fast enough, or the backlog is too short.",
        "sum by (comm, unit, address) (rate(socket_listen_overflows_total[5m])) > 0";
    ListenDrops: "socket_listen_drops_total", Counter, Name, "segments", ["address", "netns"],
        "`bpf_map_elem`",
        "Segments that the listening socket dropped, whatever the reason: the increase of sk_drops since the observer first saw the socket. Not a number of connection requests: the kernel also counts ACKs that TCP_DEFER_ACCEPT ignores, and stray FINs and RSTs.",
        "sum by (comm, address) (rate(socket_listen_drops_total[5m]))";
    PortsUsed: "socket_ephemeral_ports_used", Gauge, Name, "ports", ["source", "destination", "netns"],
        "`bpf_map_elem`",
        "Local ports in use by destination and source address, including those of sockets in TIME_WAIT.",
        "topk(5, sum by (comm, destination) (socket_ephemeral_ports_used))";
    PortsBlocked: "socket_ephemeral_ports_blocked", Gauge, Name, "ports", ["source", "destination", "netns"],
        "`bpf_map_elem`",
        "Local ports in use that connect() cannot use for this destination now. A port in TIME_WAIT that net.ipv4.tcp_tw_reuse allows to reuse is not blocked.",
        "topk(5, sum by (comm, destination) (socket_ephemeral_ports_blocked))";
    PortsRatio: "socket_ephemeral_ports_ratio", Gauge, Name, "ratio, 0 to 1", ["source", "destination", "netns"],
        "`bpf_map_elem`",
        "Fraction of the available local ports that is blocked for this destination by all processes together. At 1, connect() fails with EADDRNOTAVAIL.",
        "max by (comm, unit, source, destination) (socket_ephemeral_ports_ratio) > 0.8";
    Unguarded: "socket_unguarded_connections", Gauge, Name, "sockets", [],
        "`bpf_map_elem`",
        "Sockets in ESTABLISHED without data for over 60 s, with neither SO_KEEPALIVE nor TCP_USER_TIMEOUT: the program does not notice if the peer vanishes. Absent while there are none.",
        "topk(5, socket_unguarded_connections)";
    Stalled: "socket_stalled_connections", Gauge, Name, "sockets", ["reason"],
        "`bpf_map_elem`",
        "Connections that had waited for the program or the peer for --stall-after or longer at the last walk over connections, by reason. The program has not accepted the connection (program_accept), or not read data (program_read) or the peer's FIN (program_eof). The peer has closed its receive window (peer_window), does not acknowledge (peer_ack), or has sent nothing since the connection began (peer_first_byte). Absent while there are none.",
        "topk(5, sum by (comm, unit, reason) (socket_stalled_connections))";
    StalledSeconds: "socket_stalled_seconds_max", Gauge, Name, "seconds", ["reason"],
        "`bpf_map_elem`",
        "Longest wait of the stalled connections: a lower bound.",
        "max by (comm, unit, reason) (socket_stalled_seconds_max) > 60";
    Quiet: "socket_quiet_connections", Gauge, Name, "sockets", ["turn", "quiet"],
        "`bpf_map_elem`",
        "Connections in ESTABLISHED on which nothing is unread, unsent or unacknowledged and which have carried no data for this many seconds or longer (10 includes 60). The turn is the peer's if a client sent last, the program's if a server received last, else nobody's. It is inferred: protocols that push, and HTTP/2, may differ. A pool that leaks is turn=nobody, quiet=600. Absent while there are none.",
        "topk(5, sum by (comm, unit) (socket_quiet_connections{turn=\"nobody\",quiet=\"600\"}))";
    LiveAge: "socket_live_conn_age_seconds", GaugeHistogram, Name, "seconds", [],
        "`bpf_map_elem`",
        "Age of the connections that are in ESTABLISHED or CLOSE_WAIT now, since they began or the observer found them. Buckets go down as well: use them without rate().",
        "histogram_quantile(0.99, sum by (comm, le) (socket_live_conn_age_seconds_bucket))";
    TlsInProgress: "socket_tls_handshakes_in_progress", Gauge, Name, "handshakes", ["role"],
        "`bpf_map_elem`",
        "TLS handshakes that have begun and not ended, as of the last tick. Absent while there are none.",
        "topk(5, sum by (comm, unit, role) (socket_tls_handshakes_in_progress))";
    TlsOldest: "socket_tls_handshake_oldest_seconds", Gauge, Name, "seconds", ["role"],
        "`bpf_map_elem`",
        "Age of the oldest TLS handshake in progress. A handshake that a program abandoned stays in progress until the program frees the connection.",
        "max by (comm, unit, role) (socket_tls_handshake_oldest_seconds) > 10";
    UnitInfo: "socket_unit_info", Gauge, Host, "1", ["unit", "kind", "container_id", "pod_uid"],
        "/proc, cgroups",
        "Always 1. Describes each value of the label unit: its kind and, for a container, its id and the uid of its Kubernetes pod.",
        "sum by (pod_uid) (rate(socket_resets_total[5m]) * on (instance, unit) group_left (pod_uid) socket_unit_info{pod_uid!=\"\"})";
    PortsAvailable: "socket_ephemeral_ports_available", Gauge, Host, "ports", ["netns"],
        "`bpf_map_elem`",
        "Local ports that connect() can choose from for each destination: ip_local_port_range without reserved and bound ports.",
        "min by (netns) (socket_ephemeral_ports_available) < 10000";
    Sysctl: "socket_sysctl", Gauge, Host, "as sysctl(8) shows it", ["name", "netns"],
        "`bpf_map_elem`; /proc/sys",
        "Value of a sysctl by network namespace, for namespaces with sockets; those of the whole host have an empty `netns`. ip_local_port_range has two names, ending in _low and _high.",
        "socket_sysctl{name=\"net.core.somaxconn\"} < 1024";
    ProcessConnections: "socket_process_connections", Gauge, Process, "sockets", ["state"],
        "`inet_sock_set_state`; `task_file` at the start",
        "Current number of TCP sockets of the process by state.",
        "topk(5, socket_process_connections{state=\"CLOSE_WAIT\"})";
    ProcessStalled: "socket_process_stalled_connections", Gauge, Process, "sockets", ["reason"],
        "`bpf_map_elem`",
        "Connections of the process that had waited for the program or the peer for --stall-after or longer, by reason.",
        "topk(5, socket_process_stalled_connections)";
    ProcessTimeWait: "socket_process_time_wait", Gauge, Process, "sockets", [],
        "`inet_twsk_alloc`, `tcp_twsk_destructor`; else `inet_sock_set_state`, `bpf_map_elem`",
        "Current number of sockets in TIME_WAIT of the process.",
        "topk(5, socket_process_time_wait)";
    ProcessSetsockoptFailures: "socket_process_setsockopt_failures_total", Counter, Process, "calls", ["family", "protocol", "level", "option", "errno"],
        "`__sys_setsockopt`, else `sys_exit_setsockopt`",
        "Failed setsockopt() calls of the process on sockets of any kind.",
        "increase(socket_process_setsockopt_failures_total[1h]) > 0";
    OpenSockets: "socket_process_open_sockets", Gauge, Process, "sockets", [],
        "`inet_sock_set_state`",
        "TCP sockets of the process in any state except CLOSE and TIME_WAIT.",
        "topk(5, socket_process_open_sockets)";
    OpenFds: "socket_process_open_fds", Gauge, Process, "descriptors", [],
        "/proc",
        "Open file descriptors of the process, of all kinds, at the last count (--fd-interval).",
        "socket_process_open_fds / socket_process_max_fds > 0.8";
    MaxFds: "socket_process_max_fds", Gauge, Process, "descriptors", [],
        "/proc",
        "Soft limit on open file descriptors of the process (RLIMIT_NOFILE).",
        "min by (comm) (socket_process_max_fds)";
    FdHighWater: "socket_process_open_fds_high_water", Gauge, Process, "descriptors", [],
        "/proc",
        "Maximum number of open file descriptors of the process at any count. A peak between two counts is not seen.",
        "socket_process_open_fds_high_water / socket_process_max_fds > 0.9";
    ProcessListenBacklog: "socket_process_listen_backlog", Gauge, Process, "connections", ["address", "netns"],
        "`bpf_map_elem`",
        "Connections waiting for accept() of the process, by listening address. Absent while there are none.",
        "topk(5, socket_process_listen_backlog / socket_process_listen_backlog_max)";
    ProcessListenBacklogMax: "socket_process_listen_backlog_max", Gauge, Process, "connections", ["address", "netns"],
        "`bpf_map_elem`",
        "Maximum number of connections waiting for accept() of the process. Absent while none is waiting.",
        "socket_process_listen_backlog_max < 128";
    ProcessListenOverflows: "socket_process_listen_overflows_total", Counter, Process, "segments", ["address", "netns"],
        "`tcp_conn_request`, `tcp_v[46]_syn_recv_sock`; else inferred",
        "Connection requests dropped because the process's accept queue was full.",
        "rate(socket_process_listen_overflows_total[5m]) > 0";
    ProcessPortsUsed: "socket_process_ephemeral_ports_used", Gauge, Process, "ports", ["source", "destination", "netns"],
        "`bpf_map_elem`",
        "Local ports that the process uses, by destination and source address, including those of sockets in TIME_WAIT.",
        "topk(5, socket_process_ephemeral_ports_used)";
    Anomaly: "socket_anomaly", Gauge, Finding, "0, 1 or 2", ["anomaly", "pid", "comm", "unit"],
        "",
        "What is wrong: 1 is a warning, 2 critical, 0 that it was over within the last hour. Of several findings with the same labels, such as two destinations of a process, the worst.",
        "max by (anomaly, comm, unit) (socket_anomaly) == 2";
    AnomalyScore: "socket_anomaly_score", Gauge, Finding, "ratio", ["anomaly", "pid", "comm", "unit"],
        "",
        "Statistic of the finding divided by its threshold: 1 is just enough to raise it. Absent after the finding has cleared.",
        "max by (anomaly, comm, unit) (socket_anomaly_score) > 3";
    AnomalyTimeLeft: "socket_anomaly_time_left_seconds", Gauge, Finding, "seconds", ["anomaly", "pid", "comm", "unit"],
        "",
        "Time until calls fail at the present rate. Absent if there is no forecast.",
        "min by (anomaly, comm, unit) (socket_anomaly_time_left_seconds) < 600";
    Anomalies: "socket_anomalies_total", Counter, Finding, "findings", ["anomaly", "comm", "unit"],
        "",
        "How often the finding was raised since the observer started.",
        "sum by (anomaly, comm, unit) (increase(socket_anomalies_total[1d])) > 5";
    FindingsUnlisted: "observer_findings_unlisted", Gauge, Observer, "findings", ["limit"],
        "",
        "Findings that would be raised if there were room: beyond 5 of an anomaly about processes of one name (name), 20 of an anomaly or 100 in all with the labels of one unit (unit), or 200 in all (all).",
        "observer_findings_unlisted{limit!=\"name\"} > 0";
    Events: "observer_events_total", Counter, Observer, "events", ["signal", "outcome"],
        "",
        "Kernel events by outcome: counted for a process, counted as unattributed, or lost because a map was full. Their sum is observer_events_seen_total, except for events during the scrape.",
        "observer_events_total{outcome=\"lost\"} > 0";
    EventsSeen: "observer_events_seen_total", Counter, Observer, "events", ["signal"],
        "",
        "Kernel events for which the programs of a signal ran.",
        "abs(observer_events_seen_total - on (signal) sum by (signal) (observer_events_total)) > 100";
    HookAttached: "observer_hook_attached", Gauge, Observer, "0 or 1", ["signal", "attach_type", "hook"],
        "",
        "1 if the hook is attached, 0 if not: unsupported, disabled, refused, or not needed because another hook of the signal is attached. `observer check` shows the reason.",
        "observer_hook_attached == 1";
    SignalInfo: "observer_signal_info", Gauge, Observer, "1", ["signal", "method"],
        "",
        "Always 1 for a signal that is observed; the method is exact or inferred. A signal without this series has no metrics.",
        "absent(observer_signal_info{signal=\"state\"})";
    SignalMissing: "observer_signal_missing", Gauge, Observer, "1", ["signal", "reason"],
        "",
        "Always 1 for a signal without an attached hook; the reason is disabled (by a setting), unsupported (by the running kernel), refused (permissions, tracefs or the verifier) or broken (it failed the self-test, and no fallback is left).",
        "observer_signal_missing{reason=~\"refused|broken\"}";
    MapEntries: "observer_map_entries", Gauge, Observer, "entries", ["map"],
        "",
        "Current number of entries of a BPF map.",
        "observer_map_entries / observer_map_capacity > 0.8";
    MapCapacity: "observer_map_capacity", Gauge, Observer, "entries", ["map"],
        "",
        "Maximum number of entries of a BPF map.",
        "observer_map_capacity{map=\"connections\"}";
    MapFull: "observer_map_full_total", Counter, Observer, "insertions", ["map"],
        "",
        "Insertions that failed because the BPF map was full, or because one process had seven eighths of it (connections, listeners). If it grows, events are lost and gauges of live sockets are too low: raise the limit (--max-connections, --max-tracked-processes).",
        "increase(observer_map_full_total[1h]) > 0";
    Records: "observer_records_total", Counter, Observer, "records", ["kind"],
        "",
        "Records that the kernel programs wrote to the ring buffer. With --log-events, they write records of all kinds that can describe a failure; otherwise only of failed bind() and listen() calls, and of those with which a suspected finding names peers, until a minute after the suspicion.",
        "rate(observer_records_total[5m])";
    RecordsLost: "observer_records_lost_total", Counter, Observer, "records", ["kind"],
        "",
        "Records lost because the ring buffer was full. The log lines of --log-events are incomplete, findings may name fewer peers, and `observer doctor` fewer addresses of failed binds; counters are not affected.",
        "increase(observer_records_lost_total[1h]) > 0";
    RunSeconds: "observer_bpf_run_seconds_total", Counter, Observer, "seconds", ["program"],
        "",
        "Run time of a BPF program. Present while kernel.bpf_stats_enabled is 1.",
        "sum(rate(observer_bpf_run_seconds_total[5m]))";
    Runs: "observer_bpf_runs_total", Counter, Observer, "runs", ["program"],
        "",
        "Runs of a BPF program. Present while kernel.bpf_stats_enabled is 1.",
        "rate(observer_bpf_run_seconds_total[5m]) / rate(observer_bpf_runs_total[5m])";
    MissedRuns: "observer_bpf_missed_runs_total", Counter, Observer, "runs", ["program"],
        "",
        "Runs that the kernel skipped because the program was already running on that CPU. If there is a backup program (its name contains `again`), it handles the event; otherwise the event is not counted.",
        "rate(observer_bpf_missed_runs_total[5m])";
    Processes: "observer_processes", Gauge, Observer, "processes", ["state"],
        "",
        "Tracked processes by state: shown by pid, hidden (because of --max-processes or a filter), or exited with open sockets.",
        "observer_processes{state=\"hidden\"} > 0";
    NamesKept: "observer_names", Gauge, Observer, "names", [],
        "",
        "Names (comm and unit) with series of their own. Beyond --max-names, further names count for <other>.",
        "observer_names";
    NamesEvicted: "observer_names_evicted_total", Counter, Observer, "names", [],
        "",
        "Names removed to make room for others. They had no running process; their series ended.",
        "increase(observer_names_evicted_total[1h]) > 0";
    WalkSeconds: "observer_walk_seconds", Gauge, Observer, "seconds", [],
        "",
        "Duration of the last walk over connections.",
        "observer_walk_seconds";
    WalkInterval: "observer_walk_interval_seconds", Gauge, Observer, "seconds", [],
        "",
        "Time between the ends of the last two walks over connections. Metrics from walks (ports, stalled and quiet connections) are at most this old.",
        "observer_walk_interval_seconds > 60";
    TlsFiles: "observer_tls_files", Gauge, Observer, "files", ["library", "how"],
        "",
        "Programs and libraries whose TLS handshakes are observed, by how their functions were found: behind OpenSSL's method tables (state_machine), by symbol, or in Go's table of functions (pclntab).",
        "absent(observer_tls_files)";
    BuildInfo: "observer_build_info", Gauge, Observer, "1", ["version", "revision"],
        "",
        "Always 1. The labels identify the running build.",
        "count by (version) (observer_build_info)";
    ScrapeDuration: "observer_scrape_duration_seconds", Gauge, Observer, "seconds", [],
        "",
        "Time to collect this scrape, without sending it.",
        "observer_scrape_duration_seconds > 0.1";
    ProcessCpu: "process_cpu_seconds_total", Counter, Observer, "seconds", [],
        "",
        "User and system CPU time spent by the observer itself.",
        "rate(process_cpu_seconds_total[5m]) > 0.1";
    ProcessOpenFds: "process_open_fds", Gauge, Observer, "descriptors", [],
        "",
        "Open file descriptors of the observer itself.",
        "process_open_fds / process_max_fds > 0.8";
    ProcessMaxFds: "process_max_fds", Gauge, Observer, "descriptors", [],
        "",
        "Soft limit on open file descriptors of the observer itself.",
        "process_max_fds";
    ProcessVirtualMemory: "process_virtual_memory_bytes", Gauge, Observer, "bytes", [],
        "",
        "Virtual memory of the observer itself.",
        "process_virtual_memory_bytes";
    ProcessResidentMemory: "process_resident_memory_bytes", Gauge, Observer, "bytes", [],
        "",
        "Resident memory of the observer itself.",
        "process_resident_memory_bytes > 500e6";
    ProcessStartTime: "process_start_time_seconds", Gauge, Observer, "seconds since 1970", [],
        "",
        "Start time of the observer itself, in seconds since the Unix epoch.",
        "time() - process_start_time_seconds < 600";
    ProcessThreads: "process_threads", Gauge, Observer, "threads", [],
        "",
        "Threads of the observer itself.",
        "process_threads";
}

impl Family {
    /// Its description.
    #[must_use]
    pub fn metric(self) -> &'static Metric {
        &METRICS[self.0]
    }

    /// Its place in [`METRICS`].
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }
}

/// Number of metrics of counters in slots: by name, by process, and histograms.
const OF_SLOTS: [usize; 3] = {
    let mut numbers = [0; 3];
    let mut signal = 0;
    while signal < SIGNALS.len() {
        let counters = SIGNALS[signal].counters;
        numbers[0] += counters.len();
        let mut counter = 0;
        while counter < counters.len() {
            numbers[1] += counters[counter].process.is_some() as usize;
            counter += 1;
        }
        numbers[2] += SIGNALS[signal].histograms.len();
        signal += 1;
    }
    numbers
};

/// Number of all metrics.
const LENGTH: usize = LISTED.len() + OF_SLOTS[0] + OF_SLOTS[1] + OF_SLOTS[2];

/// All metrics, in the order of the exposition: those listed above, then those that the signals
/// describe: counters by name, counters by process, and histograms.
pub const METRICS: &[Metric] = &{
    let mut all = [LISTED[0]; LENGTH];
    let mut at = 0;
    while at < LISTED.len() {
        all[at] = LISTED[at];
        at += 1;
    }
    let mut of_process = at + OF_SLOTS[0];
    let mut of_histogram = of_process + OF_SLOTS[1];
    let mut signal = 0;
    while signal < SIGNALS.len() {
        let counters = SIGNALS[signal].counters;
        let mut counter = 0;
        while counter < counters.len() {
            all[at] = by_name(&counters[counter]);
            at += 1;
            if let Some(process) = &counters[counter].process {
                all[of_process] = by_process(&counters[counter], process);
                of_process += 1;
            }
            counter += 1;
        }
        let histograms = SIGNALS[signal].histograms;
        let mut histogram = 0;
        while histogram < histograms.len() {
            all[of_histogram] = of_histograms(&histograms[histogram]);
            of_histogram += 1;
            histogram += 1;
        }
        signal += 1;
    }
    all
};

const fn by_name(counter: &CounterMetric) -> Metric {
    Metric {
        name: counter.name,
        kind: Type::Counter,
        scope: Scope::Name,
        unit: counter.unit,
        labels: counter.labels,
        hooks: counter.hooks,
        help: counter.help,
        query: counter.query,
    }
}

const fn by_process(counter: &CounterMetric, process: &ProcessMetric) -> Metric {
    Metric {
        name: process.name,
        scope: Scope::Process,
        help: process.help,
        query: process.query,
        ..by_name(counter)
    }
}

const fn of_histograms(histogram: &'static HistogramMetric) -> Metric {
    Metric {
        name: histogram.name,
        kind: Type::Histogram,
        scope: Scope::Name,
        unit: "seconds",
        labels: match &histogram.label {
            Some((name, _)) => std::slice::from_ref(name),
            None => &[],
        },
        hooks: histogram.hooks,
        help: histogram.help,
        query: histogram.query,
    }
}

/// Goes through the metrics of counters in slots, in the order in which the signals describe them.
pub(super) struct OfSlots {
    name: usize,
    process: usize,
    histogram: usize,
}

impl OfSlots {
    /// Before the first.
    pub const START: Self = Self {
        name: LISTED.len(),
        process: LISTED.len() + OF_SLOTS[0],
        histogram: LISTED.len() + OF_SLOTS[0] + OF_SLOTS[1],
    };

    /// The metrics of the next counters: by name, and by process.
    pub fn counters(&mut self, counter: &CounterMetric) -> (Family, Option<Family>) {
        let name = next(&mut self.name);
        let process = counter.process.as_ref().map(|_| next(&mut self.process));
        (name, process)
    }

    /// The metric of the next histogram.
    pub fn histogram(&mut self) -> Family {
        next(&mut self.histogram)
    }
}

fn next(place: &mut usize) -> Family {
    *place += 1;
    Family(*place - 1)
}
