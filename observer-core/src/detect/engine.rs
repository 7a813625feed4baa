//! Runs all detectors over a sample. One incident has one finding: what another finding explains is not raised.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use super::{
    anomaly::Anomaly,
    board::Board,
    close_wait_leak::CloseWaitLeak,
    connect_failures::ConnectFailures,
    detector::{Assessment, At, Detector, seconds},
    fd_exhaustion::FdExhaustion,
    fd_leak::FdLeak,
    finding::{Change, Direction, Evidence, Finding, Holder, Severity, Subject},
    flag::{Flag, Step},
    host::Host,
    idle_pool_leak::IdlePoolLeak,
    listen_overflow::ListenOverflow,
    port_exhaustion::PortExhaustion,
    program_not_reading::ProgramNotReading,
    quic_0rtt_lost::Quic0RttLost,
    read_stall::ReadStall,
    recorded_peers::Suspected,
    rst_storm::RstStorm,
    sample::{Listener, Name, Namespace, Ports, Process, Sample, Source},
    settings::Thresholds,
    silent_peers::SilentPeers,
    syn_scan::{self, SynScan},
    time_wait::{TimeWaitOverflow, TimeWaitSurge},
    tls_stall::TlsStall,
    windows::Pace,
};
use crate::table::Labels;
use observer_common::ProcessKey;

/// A subject that is not in the samples for this time is forgotten. A finding of it is over.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Maximum number of sources of segments for closed ports that are watched.
const SOURCES: usize = 1_000;
/// A source whose last segment for a closed port is longer ago has stopped.
const RECENT: Duration = Duration::from_secs(60);

/// One detector of one subject.
struct Watch<D> {
    detector: D,
    flag: Flag,
    /// When it was in a sample.
    seen: Duration,
    hidden_until: Option<Duration>,
    /// Of the last assessment.
    score: f64,
}

/// Score from which a finding is suspected.
const SUSPECTED: f64 = 0.5;

impl<D> Watch<D> {
    fn is_hidden(&self, now: Duration) -> bool {
        self.hidden_until.is_some_and(|until| now < until)
    }

    /// Whether it is raised, or half way to it, so that it is worth knowing more.
    fn is_suspected(&self) -> bool {
        self.flag.raised().is_some() || self.score >= SUSPECTED
    }
}

type Watches<D> = HashMap<Subject, Watch<D>>;

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

/// The labels of the only holder, or of the name with the largest share, because the process with
/// the largest share changes often. A raised finding keeps its labels while they are those of a
/// holder, or while no holder is known.
fn most(holders: &[Holder], raised: Option<&Arc<Labels>>) -> Option<Arc<Labels>> {
    if let Some(raised) = raised {
        let is_raised = |holder: &Holder| match raised.pid() {
            Some(_) => holder.labels == *raised,
            None => holder.labels.name_key() == raised.name_key(),
        };
        if holders.is_empty() || holders.iter().any(is_raised) {
            return Some(Arc::clone(raised));
        }
    }
    if let [only] = holders {
        return Some(Arc::clone(&only.labels));
    }
    let mut names: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for Holder { labels, count, .. } in holders {
        *names.entry(labels.name_key()).or_default() += count;
    }
    let ((comm, unit), _) = names.into_iter().max_by_key(|(_, count)| *count)?;
    Some(Arc::new(Labels::name(comm, unit)))
}

/// A part of a sample that findings are about.
trait Part {
    fn subject(&self) -> Subject;

    /// Whom a finding names; `raised` is whom it has named so far.
    fn labels(&self, _raised: Option<&Arc<Labels>>) -> Option<Arc<Labels>> {
        None
    }
}

impl Part for Process {
    fn subject(&self) -> Subject {
        Subject::Process(self.key)
    }

    fn labels(&self, _: Option<&Arc<Labels>>) -> Option<Arc<Labels>> {
        Some(Arc::clone(&self.labels))
    }
}

impl Part for Name {
    fn subject(&self) -> Subject {
        Subject::Name(Arc::clone(&self.labels))
    }

    fn labels(&self, _: Option<&Arc<Labels>>) -> Option<Arc<Labels>> {
        Some(Arc::clone(&self.labels))
    }
}

impl Part for Ports {
    fn subject(&self) -> Subject {
        self.subject.clone()
    }

    fn labels(&self, raised: Option<&Arc<Labels>>) -> Option<Arc<Labels>> {
        most(&self.holders, raised)
    }
}

impl Part for Listener {
    fn subject(&self) -> Subject {
        Subject::Listener(self.place)
    }

    fn labels(&self, raised: Option<&Arc<Labels>>) -> Option<Arc<Labels>> {
        most(&self.holders, raised)
    }
}

impl Part for Namespace {
    fn subject(&self) -> Subject {
        Subject::Namespace(self.netns)
    }
}

impl Part for Source {
    fn subject(&self) -> Subject {
        Subject::Source {
            netns: self.netns,
            address: self.address,
        }
    }
}

/// One pass over the parts of one kind.
struct Pass<'a> {
    at: At<'a>,
    board: &'a mut Board,
    host: &'a Host,
    sample: &'a Sample,
    /// Names with listeners whose accept queues overflow.
    overflowing: &'a HashSet<(&'a str, &'a str)>,
}

impl Pass<'_> {
    /// `begin` makes the detector of a new subject; `is_explained` says whether another finding explains it.
    fn run<D: Detector<Sample: Part>>(
        &mut self,
        watches: &mut Watches<D>,
        parts: &[D::Sample],
        begin: impl Fn(&D::Sample) -> D,
        is_explained: impl Fn(&D, &D::Sample, &Board) -> bool,
    ) {
        let hold = D::hold(self.at.thresholds);
        let mut loud = Vec::new();
        for part in parts {
            let subject = part.subject();
            let watch = watches.entry(subject.clone()).or_insert_with(|| Watch {
                detector: begin(part),
                flag: Flag::default(),
                seen: self.at.now,
                hidden_until: None,
                score: 0.0,
            });
            watch.seen = self.at.now;
            self.at.raised = watch.flag.raised().is_some() || watch.is_hidden(self.at.now);
            let assessment = watch.detector.assess(part, &self.at);
            watch.score = assessment.score;
            if self.at.raised || assessment.raise.is_some() {
                loud.push((watch.detector.comes_last(part), subject, part, assessment));
            }
        }
        loud.sort_by_key(|(last, ..)| *last);
        for (_, subject, part, assessment) in loud {
            let Some(watch) = watches.get_mut(&subject) else {
                continue;
            };
            if is_explained(&watch.detector, part, self.board) {
                watch.hidden_until = seconds(self.at.thresholds.hidden_seconds)
                    .map(|hidden| self.at.now.saturating_add(hidden));
                if watch.flag.hide() {
                    self.board.clear(D::ANOMALY, &subject, self.at.now);
                }
                continue;
            }
            let hidden = watch.is_hidden(self.at.now);
            let raised = watch.flag.raised().is_some();
            if !raised && (hidden || !self.board.admits(D::ANOMALY, &subject)) {
                continue;
            }
            let step = watch.flag.step(&assessment, hold, &self.at);
            if step == Step::Clear {
                self.board.clear(D::ANOMALY, &subject, self.at.now);
            }
            let Some((since, severity)) = watch.flag.raised() else {
                continue;
            };
            let raised = self.board.raised(D::ANOMALY, &subject);
            if assessment.calm
                && let Some(raised) = raised
            {
                // What it sees now is not what it was raised for.
                let held = Finding {
                    severity,
                    score: assessment.score,
                    time_left: assessment.time_left,
                    ..raised.clone()
                };
                self.board.put(held);
                continue;
            }
            let (evidence, mut causes) = watch.detector.evidence(part);
            let labels = part.labels(raised.and_then(|it| it.labels.as_ref()));
            let netns = raised.and_then(|it| it.netns);
            let netns = netns.or_else(|| self.host.netns(&subject, self.sample));
            let name = labels.as_deref().map(Labels::name_key);
            let overflows = name.is_some_and(|it| self.overflowing.contains(&it));
            self.host.advise(&mut causes, netns, overflows);
            let finding = Finding {
                anomaly: D::ANOMALY,
                subject,
                labels,
                netns,
                severity,
                score: assessment.score,
                time_left: assessment.time_left,
                since,
                evidence,
                causes,
            };
            let now = self.at.now;
            match step {
                Step::Raise => self.board.report(now, Change::Raised(finding.clone())),
                Step::Update => self.board.report(now, Change::Updated(finding.clone())),
                Step::Rest | Step::Keep | Step::Clear => {}
            }
            self.board.put(finding);
        }
        self.forget(watches, hold);
    }

    /// For findings that no other explains.
    fn run_alone<D: Detector<Sample: Part>>(
        &mut self,
        watches: &mut Watches<D>,
        parts: &[D::Sample],
    ) {
        let thresholds = self.at.thresholds;
        self.run(watches, parts, |_| D::new(thresholds), |_, _, _| false);
    }

    /// Subjects that no longer exist count as below the threshold.
    fn forget<D: Detector>(&mut self, watches: &mut Watches<D>, hold: f64) {
        watches.retain(|subject, watch| {
            if watch.seen == self.at.now {
                return true;
            }
            let gone = Assessment {
                calm: true,
                ..Assessment::default()
            };
            if watch.flag.step(&gone, hold, &self.at) == Step::Clear {
                self.board.clear(D::ANOMALY, subject, self.at.now);
            }
            let forgotten = self.at.now.saturating_sub(watch.seen) >= FORGOTTEN;
            watch.flag.raised().is_some() || !forgotten
        });
    }
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
                of_process.into_iter().any(is_raised)
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
