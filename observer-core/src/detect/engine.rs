//! Runs all detectors over a sample. One incident has one finding: what another finding explains is not raised.

mod explained;
mod known;
mod part;
mod pass;
mod watches;

use std::{collections::HashMap, slice, sync::Arc, time::Duration};

use self::{
    explained::{
        FailingClients, FullListeners, are_handshakes, are_unanswered,
        handshakes_at_full_listeners, is_at_full_listeners, is_exhausted, is_given_up_by_peer,
        is_out_of_descriptors, is_raised_for_process, is_reset_by_peer, is_sent_by_peer,
        stalls_at_full_listeners,
    },
    part::Part,
    pass::Pass,
    watches::{Rows, WalkTime, Watches},
};
use super::{
    anomaly::Anomaly,
    board::Board,
    close_wait_leak::CloseWaitLeak,
    connect_failures::ConnectFailures,
    detector::{At, Detector},
    fd_exhaustion::FdExhaustion,
    fd_leak::FdLeak,
    finding::{Change, PeerShare},
    host::Host,
    idle_pool_leak::IdlePoolLeak,
    listen_overflow::ListenOverflow,
    port_exhaustion::PortExhaustion,
    program_not_reading::ProgramNotReading,
    quic_0rtt_lost::Quic0RttLost,
    read_stall::ReadStall,
    rst_storm::RstStorm,
    sample::{ConnectResult, Name, Process, Sample, Source},
    settings::Thresholds,
    silent_peers::SilentPeers,
    syn_scan::{self, SynScan},
    time_wait::{TimeWaitOverflow, TimeWaitSurge},
    tls_failures::TlsFailures,
    tls_stall::TlsStall,
    windows::Pace,
};
use crate::table::Labels;

/// Maximum number of sources of segments for closed ports that are watched.
const SOURCES: usize = 1_000;
/// A source whose last segment for a closed port is longer ago has stopped.
const RECENT: Duration = Duration::from_secs(60);

/// All detectors and findings. Deterministic: the sample has the time.
pub struct Engine {
    thresholds: Thresholds,
    pace: Pace,
    last: Option<Duration>,
    host: Host,
    /// Sources of segments for closed ports that are no scan, as of the last sample.
    strays: Vec<Source>,
    /// Destinations of refused connects by name, as of the last sample.
    refused: HashMap<Arc<Labels>, Vec<PeerShare>>,
    board: Board,
    walk_time: WalkTime,
    rows: AllRows,
    ports: Watches<PortExhaustion>,
    fd_exhaustion: Watches<FdExhaustion>,
    fd_leak: Watches<FdLeak>,
    close_wait_leak: Watches<CloseWaitLeak>,
    read_stall: Watches<ReadStall<Process>>,
    read_stall_of_names: Watches<ReadStall<Name>>,
    program_not_reading: Watches<ProgramNotReading>,
    idle_pool_leak: Watches<IdlePoolLeak>,
    tls_stall: Watches<TlsStall>,
    tls_failures: Watches<TlsFailures<Process>>,
    tls_failures_of_names: Watches<TlsFailures<Name>>,
    quic_0rtt_lost: Watches<Quic0RttLost>,
    connect_failures: Watches<ConnectFailures<Process>>,
    connect_failures_of_names: Watches<ConnectFailures<Name>>,
    silent_peers: Watches<SilentPeers<Process>>,
    silent_peers_of_names: Watches<SilentPeers<Name>>,
    rst_storm: Watches<RstStorm<Process>>,
    rst_storm_of_names: Watches<RstStorm<Name>>,
    time_wait_surge: Watches<TimeWaitSurge>,
    time_wait_overflow: Watches<TimeWaitOverflow>,
    listen_overflow: Watches<ListenOverflow>,
    syn_scan: Watches<SynScan>,
}

/// The subjects that are watched, by kind.
#[derive(Default)]
struct AllRows {
    processes: Rows,
    names: Rows,
    ports: Rows,
    listeners: Rows,
    namespaces: Rows,
    sources: Rows,
}

impl Engine {
    /// Nothing is raised yet.
    #[must_use]
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            pace: Pace::default(),
            last: None,
            host: Host::default(),
            strays: Vec::new(),
            refused: HashMap::new(),
            board: Board::default(),
            walk_time: WalkTime::default(),
            rows: AllRows::default(),
            ports: Watches::default(),
            fd_exhaustion: Watches::default(),
            fd_leak: Watches::default(),
            close_wait_leak: Watches::default(),
            read_stall: Watches::default(),
            read_stall_of_names: Watches::default(),
            program_not_reading: Watches::default(),
            idle_pool_leak: Watches::default(),
            tls_stall: Watches::default(),
            tls_failures: Watches::default(),
            tls_failures_of_names: Watches::default(),
            quic_0rtt_lost: Watches::default(),
            connect_failures: Watches::default(),
            connect_failures_of_names: Watches::default(),
            silent_peers: Watches::default(),
            silent_peers_of_names: Watches::default(),
            rst_storm: Watches::default(),
            rst_storm_of_names: Watches::default(),
            time_wait_surge: Watches::default(),
            time_wait_overflow: Watches::default(),
            listen_overflow: Watches::default(),
            syn_scan: Watches::default(),
        }
    }

    /// Changes the thresholds from the next sample on. Findings and baselines stay.
    pub fn set_thresholds(&mut self, thresholds: Thresholds) {
        self.thresholds = thresholds;
        self.forget_events();
    }

    /// All processes and names are assessed at the next sample.
    fn forget_events(&mut self) {
        self.rows.processes.forget_events();
        self.rows.names.forget_events();
    }

    /// How far samples are apart from now on; a second before this is called.
    pub fn set_pace(&mut self, tick: Duration) {
        let pace = Pace::new(tick);
        if self.pace != pace {
            self.pace = pace;
            self.forget_events();
        }
    }

    /// What is known of the host from now on; nothing before this is called.
    pub fn set_host(&mut self, host: Host) {
        self.host = host;
    }

    /// What is known of the host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Findings and their history.
    #[must_use]
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// The same, to raise findings without a detector.
    #[cfg(any(test, feature = "testing"))]
    pub fn board_mut(&mut self) -> &mut Board {
        &mut self.board
    }

    /// Evaluates a sample, later than the previous one. Findings that explain others are evaluated first.
    pub fn step(&mut self, sample: &Sample) -> Vec<Change> {
        let thresholds = &self.thresholds;
        let last = self.last.replace(sample.now).unwrap_or(sample.now);
        let elapsed = sample.now.saturating_sub(last);
        self.board.begin(sample.now);
        let rows = &mut self.rows;
        rows.processes.begin(sample.now, &sample.processes);
        rows.names.begin(sample.now, &sample.names);
        rows.ports.begin(sample.now, &sample.ports);
        rows.listeners.begin(sample.now, &sample.listeners);
        rows.namespaces.begin(sample.now, &sample.namespaces);
        // As of the last sample: those are assessed below, and a finding of them may be hidden.
        let overflowing = (0..).zip(&sample.listeners).filter(|(index, _)| {
            let watch = self.listen_overflow.get(rows.listeners.of_part(*index));
            watch.is_some_and(|watch| watch.detector.overflows() || watch.flag.raised().is_some())
        });
        let overflowing = overflowing.flat_map(|(_, it)| &it.holders);
        let overflowing = overflowing.map(|it| it.labels.name_key()).collect();
        let at = At {
            now: sample.now,
            elapsed,
            idle_until: None,
            pace: self.pace,
            raised: false,
            thresholds,
        };
        let mut pass = Pass {
            at,
            board: &mut self.board,
            host: &self.host,
            sample,
            walk_time: &self.walk_time,
            overflowing: &overflowing,
        };
        pass.run_alone(&mut self.ports, &mut rows.ports, &sample.ports);
        pass.run(
            &mut self.time_wait_surge,
            &mut rows.ports,
            &sample.ports,
            |_, ports, board| board.is_found(Anomaly::PortExhaustion, &ports.subject),
        );
        pass.run_alone(
            &mut self.time_wait_overflow,
            &mut rows.namespaces,
            &sample.namespaces,
        );
        pass.run_alone(
            &mut self.fd_exhaustion,
            &mut rows.processes,
            &sample.processes,
        );
        pass.run(
            &mut self.listen_overflow,
            &mut rows.listeners,
            &sample.listeners,
            |_, listener, board| is_out_of_descriptors(board, listener),
        );
        let full = FullListeners::new(
            &sample.listeners,
            &self.listen_overflow,
            &rows.listeners,
            &at,
        );
        pass.run_alone(&mut self.fd_leak, &mut rows.processes, &sample.processes);
        pass.run_alone(
            &mut self.close_wait_leak,
            &mut rows.processes,
            &sample.processes,
        );
        pass.run(
            &mut self.tls_stall,
            &mut rows.processes,
            &sample.processes,
            |_, process, _| handshakes_at_full_listeners(&full, process),
        );
        pass.run(
            &mut self.read_stall,
            &mut rows.processes,
            &sample.processes,
            |detector, process, board| {
                stalls_at_full_listeners(&full, detector, process)
                    || board.is_found(Anomaly::TlsStall, &process.subject())
                        && detector.is_of_handshakes(process)
            },
        );
        pass.run_alone(
            &mut self.program_not_reading,
            &mut rows.processes,
            &sample.processes,
        );
        pass.run(
            &mut self.read_stall_of_names,
            &mut rows.names,
            &sample.names,
            |detector, name, board| {
                let of_process = [Anomaly::ReadStall, Anomaly::TlsStall];
                let is_raised = |it| is_raised_for_process(board, it, &name.labels);
                name.labels.is_of_several()
                    || of_process.into_iter().any(is_raised)
                    || stalls_at_full_listeners(&full, detector, name)
            },
        );
        pass.run_alone(
            &mut self.quic_0rtt_lost,
            &mut rows.processes,
            &sample.processes,
        );
        pass.run(
            &mut self.idle_pool_leak,
            &mut rows.processes,
            &sample.processes,
            |_, process, board| board.is_found(Anomaly::FdLeak, &process.subject()),
        );
        let failed_at = &sample.searches_failed_at;
        pass.run(
            &mut self.connect_failures,
            &mut rows.processes,
            &sample.processes,
            |detector: &ConnectFailures<Process>, process, board| {
                let at = failed_at.processes.get(&process.key);
                detector.is_without_ports() && is_exhausted(board, at)
                    || is_at_full_listeners(&full, &detector.all_destinations(process))
            },
        );
        pass.run(
            &mut self.connect_failures_of_names,
            &mut rows.names,
            &sample.names,
            |detector: &ConnectFailures<Name>, name, board| {
                let at = failed_at.names.get(&name.labels);
                is_raised_for_process(board, Anomaly::ConnectFailures, &name.labels)
                    || detector.is_without_ports() && is_exhausted(board, at)
                    || is_at_full_listeners(&full, &detector.all_destinations(name))
            },
        );
        pass.run(
            &mut self.silent_peers,
            &mut rows.processes,
            &sample.processes,
            |_, process, board| board.is_found(Anomaly::ReadStall, &process.subject()),
        );
        pass.run(
            &mut self.silent_peers_of_names,
            &mut rows.names,
            &sample.names,
            |_, name, board| {
                let of_process = [Anomaly::SilentPeers, Anomaly::ReadStall];
                let is_raised = |it| is_raised_for_process(board, it, &name.labels);
                let stalls = board.is_found(Anomaly::ReadStall, &name.subject());
                // Connections of programs that have ended: nobody keeps them any more.
                name.labels.is_of_several() || stalls || of_process.into_iter().any(is_raised)
            },
        );
        let names: HashMap<(&str, &str), (usize, &Name)> = (0..)
            .zip(&sample.names)
            .map(|(index, name)| (name.labels.name_key(), (index, name)))
            .collect();
        let of_names = &self.rst_storm_of_names;
        let failing = FailingClients::new(
            sample,
            (&self.tls_failures, &rows.processes),
            (&self.tls_failures_of_names, &rows.names),
        );
        pass.run_with(
            &mut self.rst_storm,
            &mut rows.processes,
            &sample.processes,
            |process| {
                let mut detector = RstStorm::<Process>::new(thresholds);
                let name = names.get(&process.labels.name_key());
                if let Some((index, name)) = name
                    && let Some(of_name) = of_names.get(rows.names.of_part(*index))
                {
                    detector.inherit(&of_name.detector, name.running, &at);
                }
                detector
            },
            |detector, process, board| {
                board.is_found(Anomaly::FdExhaustion, &process.subject())
                    && detector.is_unread_data()
                    || board.is_found(Anomaly::ReadStall, &process.subject())
                        && detector.is_of_waits(process)
                    || detector.is_received()
                        && (is_sent_by_peer(board, process)
                            || is_given_up_by_peer(board, process)
                            || failing.are_of(detector.rate(), &process.labels, process.reset_peer))
                    || detector.is_of_handshakes(process)
                        && (are_handshakes(board, &process.labels, process.reset_peer)
                            || failing.are_of(detector.rate(), &process.labels, None))
            },
        );
        let of_processes = &self.rst_storm;
        pass.run(
            &mut self.rst_storm_of_names,
            &mut rows.names,
            &sample.names,
            |detector, name, board| {
                is_raised_for_process(board, Anomaly::RstStorm, &name.labels)
                    || (0..).zip(&sample.processes).any(|(index, process)| {
                        let (of, labels) = (&process.labels, &name.labels);
                        let watch = of_processes.get(rows.processes.of_part(index));
                        of.name_key() == labels.name_key()
                            && watch.is_some_and(|watch| watch.is_hidden(sample.now))
                    })
                    || detector.is_unread_data()
                        && is_raised_for_process(board, Anomaly::FdExhaustion, &name.labels)
                    || board.is_found(Anomaly::ReadStall, &name.subject())
                        && detector.is_of_waits(name)
                    || detector.is_received() && failing.are_of(detector.rate(), &name.labels, None)
                    || detector.is_of_handshakes(name)
                        && (are_handshakes(board, &name.labels, None)
                            || failing.are_of(detector.rate(), &name.labels, None))
            },
        );
        // After the storms, which wait for these if handshakes may be their cause.
        pass.run(
            &mut self.tls_failures,
            &mut rows.processes,
            &sample.processes,
            |_, process, board| {
                let subject = process.subject();
                are_unanswered(board, &process.culprits.short, |it| it.subject == subject)
                    || is_reset_by_peer(board, process)
                    || is_at_full_listeners(&full, slice::from_ref(&process.culprits.short))
            },
        );
        pass.run(
            &mut self.tls_failures_of_names,
            &mut rows.names,
            &sample.names,
            |_, name, board| {
                is_raised_for_process(board, Anomaly::TlsFailures, &name.labels)
                    || are_unanswered(board, &name.culprits.short, |it| {
                        let labels = it.labels.as_deref();
                        labels.is_some_and(|it| it.name_key() == name.labels.name_key())
                    })
                    || is_at_full_listeners(&full, slice::from_ref(&name.culprits.short))
            },
        );
        let refused = sample.names.iter().filter_map(|name| {
            let mut to = name.culprits.connects.clone();
            to.retain(|it| it.reason == Some(ConnectResult::Refused.name()));
            let to = PeerShare::largest(to);
            (!to.is_empty()).then(|| (Arc::clone(&name.labels), to))
        });
        self.refused = refused.collect();
        // Source addresses are easily forged, so only those that may be a scan are watched, and not any number.
        let mut room = SOURCES.saturating_sub(rows.sources.len());
        let is_watched = |source: &&Source| {
            if rows.sources.get(&source.subject()).is_some() {
                return true;
            }
            let scans = f64::from(syn_scan::ports(source)) >= thresholds.scan_ports && room > 0;
            room -= usize::from(scans);
            scans
        };
        let (sources, strays) = sample.sources.iter().partition(is_watched);
        let sources: Vec<Source> = sources;
        self.strays = strays;
        let is_recent = |it: &Source| sample.now.saturating_sub(it.last_at) < RECENT;
        self.strays.retain(is_recent);
        rows.sources.begin(sample.now, &sources);
        pass.run_alone(&mut self.syn_scan, &mut rows.sources, &sources);
        let wants_walks = [
            self.close_wait_leak.any_wants_walks,
            self.read_stall.any_wants_walks,
            self.read_stall_of_names.any_wants_walks,
            self.tls_stall.any_wants_walks,
            self.program_not_reading.any_wants_walks,
            self.connect_failures.any_wants_walks,
            self.connect_failures_of_names.any_wants_walks,
            self.listen_overflow.any_wants_walks,
        ];
        self.walk_time.step(elapsed, wants_walks.contains(&true));
        self.board.new_changes()
    }
}
