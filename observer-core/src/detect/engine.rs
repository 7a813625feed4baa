//! Runs all detectors over a sample. One incident has one finding: what another finding explains is not raised.

mod pass;

use std::{collections::HashMap, time::Duration};

use self::pass::{Part as _, Pass, Watch, Watches};
use super::{
    anomaly::Anomaly,
    board::Board,
    close_wait_leak::CloseWaitLeak,
    connect_failures::ConnectFailures,
    detector::{At, Detector},
    fd_exhaustion::FdExhaustion,
    fd_leak::FdLeak,
    finding::{Change, Direction, Evidence, Severity, Subject},
    host::Host,
    idle_pool_leak::IdlePoolLeak,
    listen_overflow::ListenOverflow,
    port_exhaustion::PortExhaustion,
    program_not_reading::ProgramNotReading,
    quic_0rtt_lost::Quic0RttLost,
    read_stall::ReadStall,
    recorded_peers::Suspected,
    rst_storm::RstStorm,
    sample::{Listener, Name, Process, Sample, Source},
    settings::Thresholds,
    silent_peers::SilentPeers,
    syn_scan::{self, SynScan},
    time_wait::{TimeWaitOverflow, TimeWaitSurge},
    tls_stall::TlsStall,
    windows::Pace,
};
use crate::table::Labels;
use observer_common::ProcessKey;

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
    board: Board,
    ports: Watches<PortExhaustion>,
    fd_exhaustion: Watches<FdExhaustion>,
    fd_leak: Watches<FdLeak>,
    close_wait_leak: Watches<CloseWaitLeak>,
    read_stall: Watches<ReadStall>,
    program_not_reading: Watches<ProgramNotReading>,
    idle_pool_leak: Watches<IdlePoolLeak>,
    tls_stall: Watches<TlsStall>,
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

/// Whether it is raised for a process of the name.
fn is_raised_for_process(board: &Board, anomaly: Anomaly, name: &Labels) -> bool {
    board.all_raised(anomaly).any(|finding| {
        let labels = finding.labels.as_ref();
        matches!(finding.subject, Subject::Process(_))
            && labels.is_some_and(|it| it.name_key() == name.name_key())
    })
}

/// Whether the ports that searches failed for are a finding.
fn is_exhausted(board: &Board, failed_at: Option<&Subject>) -> bool {
    let finding = failed_at.and_then(|it| board.raised(Anomaly::PortExhaustion, it));
    finding.is_some()
}

/// Whether the local process at the other end sends the RSTs.
fn is_sent_by_peer(board: &Board, process: &Process) -> bool {
    let peer = process.reset_peer.map(Subject::Process);
    let storm = peer.and_then(|peer| board.raised(Anomaly::RstStorm, &peer));
    storm.is_some_and(|storm| {
        matches!(
            storm.evidence,
            Evidence::Resets {
                direction: Direction::Sent,
                ..
            }
        )
    })
}

/// Whether a process at its descriptor limit is among the holders.
fn is_out_of_descriptors(board: &Board, listener: &Listener) -> bool {
    board.all_raised(Anomaly::FdExhaustion).any(|finding| {
        // By name: workers accept what their parent listens for.
        let is_holder = |labels: &Labels| {
            let mut holders = listener.holders.iter().map(|holder| &holder.labels);
            holders.any(|it| it.name_key() == labels.name_key())
        };
        let labels = finding.labels.as_deref();
        finding.severity == Severity::Critical && labels.is_some_and(is_holder)
    })
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
            board: Board::default(),
            ports: Watches::new(),
            fd_exhaustion: Watches::new(),
            fd_leak: Watches::new(),
            close_wait_leak: Watches::new(),
            read_stall: Watches::new(),
            program_not_reading: Watches::new(),
            idle_pool_leak: Watches::new(),
            tls_stall: Watches::new(),
            quic_0rtt_lost: Watches::new(),
            connect_failures: Watches::new(),
            connect_failures_of_names: Watches::new(),
            silent_peers: Watches::new(),
            silent_peers_of_names: Watches::new(),
            rst_storm: Watches::new(),
            rst_storm_of_names: Watches::new(),
            time_wait_surge: Watches::new(),
            time_wait_overflow: Watches::new(),
            listen_overflow: Watches::new(),
            syn_scan: Watches::new(),
        }
    }

    /// Changes the thresholds from the next sample on. Findings and baselines stay.
    pub fn set_thresholds(&mut self, thresholds: Thresholds) {
        self.thresholds = thresholds;
    }

    /// How far samples are apart from now on; a second before this is called.
    pub fn set_pace(&mut self, tick: Duration) {
        self.pace = Pace::new(tick);
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

    /// Sources of segments for closed ports within the last minute that are no scan.
    #[must_use]
    pub fn strays(&self) -> &[Source] {
        &self.strays
    }

    /// Processes whose descriptors have grown steadily for over an hour without being a finding, with their growth per
    /// second.
    pub fn growing(&self) -> impl Iterator<Item = (ProcessKey, f64)> {
        self.fd_leak.iter().filter_map(|(subject, watch)| {
            let Subject::Process(key) = subject else {
                return None;
            };
            let is_raised = |it: Anomaly| self.board.raised(it, subject).is_some();
            let growth = watch.detector.long_growth(&self.thresholds)?;
            let is_found = [
                Anomaly::FdLeak,
                Anomaly::FdExhaustion,
                Anomaly::CloseWaitLeak,
                Anomaly::IdlePoolLeak,
            ]
            .into_iter()
            .any(is_raised);
            (!is_found).then_some((*key, growth))
        })
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

    /// What is raised or may come, so that records of it are worth reading.
    #[must_use]
    pub fn suspected(&self) -> Suspected {
        fn any<D>(watches: &Watches<D>) -> bool {
            watches.values().any(Watch::is_suspected)
        }
        Suspected {
            connects: any(&self.connect_failures) || any(&self.connect_failures_of_names),
            resets: any(&self.rst_storm) || any(&self.rst_storm_of_names),
            silence: any(&self.silent_peers) || any(&self.silent_peers_of_names),
        }
    }

    /// Evaluates a sample, later than the previous one. Findings that explain others are evaluated first.
    pub fn step(&mut self, sample: &Sample) -> Vec<Change> {
        let thresholds = &self.thresholds;
        let last = self.last.replace(sample.now).unwrap_or(sample.now);
        self.board.begin(sample.now);
        // As of the last sample: those are assessed below, and a finding of them may be hidden.
        let overflowing = sample.listeners.iter().filter(|it| {
            let watch = self.listen_overflow.get(&it.subject());
            watch.is_some_and(|watch| watch.detector.overflows() || watch.flag.raised().is_some())
        });
        let overflowing = overflowing.flat_map(|it| &it.holders);
        let overflowing = overflowing.map(|it| it.labels.name_key()).collect();
        let mut pass = Pass {
            at: At {
                now: sample.now,
                elapsed: sample.now.saturating_sub(last),
                pace: self.pace,
                raised: false,
                thresholds,
            },
            board: &mut self.board,
            host: &self.host,
            sample,
            overflowing: &overflowing,
        };
        pass.run_alone(&mut self.ports, &sample.ports);
        pass.run(
            &mut self.time_wait_surge,
            &sample.ports,
            |_| Detector::new(thresholds),
            |_, ports, board| {
                let exhausted = board.raised(Anomaly::PortExhaustion, &ports.subject);
                exhausted.is_some()
            },
        );
        pass.run_alone(&mut self.time_wait_overflow, &sample.namespaces);
        pass.run_alone(&mut self.fd_exhaustion, &sample.processes);
        pass.run_alone(&mut self.fd_leak, &sample.processes);
        pass.run_alone(&mut self.close_wait_leak, &sample.processes);
        pass.run_alone(&mut self.read_stall, &sample.processes);
        pass.run_alone(&mut self.program_not_reading, &sample.processes);
        pass.run_alone(&mut self.tls_stall, &sample.processes);
        pass.run_alone(&mut self.quic_0rtt_lost, &sample.processes);
        pass.run(
            &mut self.idle_pool_leak,
            &sample.processes,
            |_| Detector::new(thresholds),
            |_, process, board| board.raised(Anomaly::FdLeak, &process.subject()).is_some(),
        );
        pass.run(
            &mut self.listen_overflow,
            &sample.listeners,
            |_| Detector::new(thresholds),
            |_, listener, board| is_out_of_descriptors(board, listener),
        );
        let failed_at = &sample.searches_failed_at;
        pass.run(
            &mut self.connect_failures,
            &sample.processes,
            |_| Detector::new(thresholds),
            |detector: &ConnectFailures<Process>, process, board| {
                let at = failed_at.processes.get(&process.key);
                detector.is_without_ports() && is_exhausted(board, at)
            },
        );
        pass.run(
            &mut self.connect_failures_of_names,
            &sample.names,
            |_| Detector::new(thresholds),
            |detector: &ConnectFailures<Name>, name, board| {
                let at = failed_at.names.get(&name.labels);
                is_raised_for_process(board, Anomaly::ConnectFailures, &name.labels)
                    || detector.is_without_ports() && is_exhausted(board, at)
            },
        );
        pass.run(
            &mut self.silent_peers,
            &sample.processes,
            |_| Detector::new(thresholds),
            |_, process, board| {
                board
                    .raised(Anomaly::ReadStall, &process.subject())
                    .is_some()
            },
        );
        pass.run(
            &mut self.silent_peers_of_names,
            &sample.names,
            |_| Detector::new(thresholds),
            |_, name, board| {
                let of_process = [Anomaly::SilentPeers, Anomaly::ReadStall];
                let is_raised = |it| is_raised_for_process(board, it, &name.labels);
                // Connections of programs that have ended: nobody keeps them any more.
                name.labels.is_of_several() || of_process.into_iter().any(is_raised)
            },
        );
        let names: HashMap<(&str, &str), &Name> = sample
            .names
            .iter()
            .map(|name| (name.labels.name_key(), name))
            .collect();
        let of_names = &self.rst_storm_of_names;
        pass.run(
            &mut self.rst_storm,
            &sample.processes,
            |process| {
                let mut detector = RstStorm::<Process>::new(thresholds);
                let name = names.get(&process.labels.name_key());
                if let Some(name) = name
                    && let Some(of_name) = of_names.get(&name.subject())
                {
                    detector.inherit(&of_name.detector, name.running, thresholds);
                }
                detector
            },
            |detector, process, board| {
                let exhausted = board.raised(Anomaly::FdExhaustion, &process.subject());
                exhausted.is_some() && detector.is_unread_data()
                    || detector.is_received() && is_sent_by_peer(board, process)
            },
        );
        let of_processes = &self.rst_storm;
        pass.run(
            &mut self.rst_storm_of_names,
            &sample.names,
            |_| Detector::new(thresholds),
            |detector, name, board| {
                is_raised_for_process(board, Anomaly::RstStorm, &name.labels)
                    || sample.processes.iter().any(|process| {
                        let (of, labels) = (&process.labels, &name.labels);
                        let watch = of_processes.get(&process.subject());
                        of.name_key() == labels.name_key()
                            && watch.is_some_and(|watch| watch.is_hidden(sample.now))
                    })
                    || detector.is_unread_data()
                        && is_raised_for_process(board, Anomaly::FdExhaustion, &name.labels)
            },
        );
        // Source addresses are easily forged, so only those that may be a scan are watched, and not any number.
        let mut room = SOURCES.saturating_sub(self.syn_scan.len());
        let is_watched = |source: &&Source| {
            if self.syn_scan.contains_key(&source.subject()) {
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
        pass.run_alone(&mut self.syn_scan, &sources);
        self.board.new_changes()
    }
}
