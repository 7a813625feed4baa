//! Most connects of a process or name fail.

use std::{collections::BTreeMap, marker::PhantomData, net::IpAddr, time::Duration};

use super::{
    anomaly::Anomaly,
    attempts::{Attempts, FAST, SLOW},
    cause::{self, Cause, Explanation},
    detector::{Assessment, At, Detector, SUSPECTED, Settled, share},
    finding::{Breakdown, Evidence, PeerShare, Scanned, Severity},
    sample::{ConnectResult, Connecting, Counts},
    settings::Thresholds,
    windows::{Counters, Recent},
};

/// Results that do not count if some connects succeed: without IPv6, half of all attempts always end with ENETUNREACH.
const IGNORABLE: [ConnectResult; 3] = [
    ConnectResult::NetUnreachable,
    ConnectResult::FamilyNotSupported,
    ConnectResult::Canceled,
];

/// The failures among these results if some connects succeed. EADDRNOTAVAIL counts once for each
/// failed port search; otherwise the source address is not local.
fn beside_successes(
    mut results: [u64; ConnectResult::COUNT],
    searches: u64,
) -> [u64; ConnectResult::COUNT] {
    for ignorable in IGNORABLE {
        results[ignorable as usize] = 0;
    }
    let no_address = &mut results[ConnectResult::AddressNotAvailable as usize];
    *no_address = searches.min(*no_address);
    results
}

/// State of the detector.
#[derive(Debug)]
pub struct ConnectFailures<S> {
    fast: Attempts,
    slow: Attempts,
    /// The same without a failure for each success, for programs that fall back to another address.
    beyond: [Attempts; 2],
    /// When they were last known to.
    fell_back_at: Option<Duration>,
    /// Whether the slow window speaks.
    is_slow: bool,
    totals: Counters<{ ConnectResult::COUNT }>,
    searches: Counters<1>,
    recent: Recent<{ ConnectResult::COUNT }>,
    recent_searches: Recent<1>,
    refused_by_icmp: Counters<1>,
    recent_by_icmp: Recent<1>,
    /// Of the last sample.
    scanned: Option<Scanned>,
    was_raised: bool,
    of: PhantomData<S>,
}

impl<S> ConnectFailures<S> {
    /// Whether most failures are failed searches for a port.
    #[must_use]
    pub fn is_without_ports(&self) -> bool {
        let failed = self.failures().iter().sum::<u64>();
        let [searches] = self.recent_searches.sums();
        2 * searches > failed
    }

    /// The window that speaks.
    fn speaking(&self) -> &Attempts {
        if self.is_slow { &self.slow } else { &self.fast }
    }

    /// Recent failures by result.
    fn failures(&self) -> [u64; ConnectResult::COUNT] {
        let mut results = self.recent.sums();
        results[ConnectResult::Ok as usize] = 0;
        if self.speaking().alone() {
            return results;
        }
        let [searches] = self.recent_searches.sums();
        let beside = beside_successes(results, searches);
        // If these are the only recent failures, they are the cause.
        match beside.iter().any(|&count| count > 0) {
            true => beside,
            false => results,
        }
    }

    /// These destinations of recorded failures, without those of results that are no failures here.
    fn destinations(&self, recorded: &[PeerShare]) -> Vec<PeerShare> {
        let (recent, failures) = (self.recent.sums(), self.failures());
        let is_ignored = |it: &PeerShare| {
            let mut names = ConnectResult::NAMES.iter();
            let result = names.position(|name| it.reason == Some(*name));
            result.is_some_and(|result| recent[result] > 0 && failures[result] == 0)
        };
        let (ignored, failed): (Vec<_>, Vec<_>) = recorded.iter().cloned().partition(is_ignored);
        let rest = 1.0 - ignored.iter().map(|it| it.share).sum::<f64>();
        let of_rest = failed.into_iter().map(|it| PeerShare {
            share: it.share / rest,
            ..it
        });
        PeerShare::largest(of_rest.collect())
    }

    /// The destinations of failures, and of sockets that wait.
    pub fn all_destinations(&self, sample: &S) -> [Vec<PeerShare>; 2]
    where
        S: Connecting,
    {
        let culprits = sample.culprits();
        let failed = self.destinations(&culprits.connects);
        [failed, culprits.connecting.clone()]
    }

    /// `recorded` are destinations of failures.
    fn causes(&self, recorded: &[PeerShare]) -> Vec<(&'static Cause, u64)> {
        let [by_icmp] = self.recent_by_icmp.sums();
        let [searches] = self.recent_searches.sums();
        let mut causes = causes(self.failures(), by_icmp, searches);
        for (cause, count) in &mut causes {
            if *cause == &cause::NOTHING_LISTENS {
                if self.scanned.is_some() {
                    *cause = &cause::SCANS;
                    break;
                }
                let elsewhere = (*count as f64 * elsewhere(recorded)).round() as u64;
                *count -= elsewhere;
                causes.push((&cause::LISTENS_ELSEWHERE, elsewhere));
                break;
            }
        }
        causes
    }
}

/// The address to which most failures are, if so many of its ports refused.
fn scanned(recorded: &[PeerShare], least: f64) -> Option<Scanned> {
    let mut ports: BTreeMap<IpAddr, (u32, f64)> = BTreeMap::new();
    let refused = Some(ConnectResult::Refused.name());
    for it in recorded.iter().filter(|it| it.reason == refused) {
        let (ports, share) = ports.entry(it.address).or_default();
        *ports += 1;
        *share += it.share;
    }
    let all: f64 = recorded.iter().map(|it| it.share).sum();
    let is_scan = |ports: u32, share: f64| f64::from(ports) >= least && 2.0 * share > all;
    let mut ports = ports.into_iter();
    let found = ports.find(|(_, (ports, share))| is_scan(*ports, *share));
    found.map(|(address, (ports, _))| Scanned { address, ports })
}

/// The part of refused connects to ports on which programs listen at other addresses.
fn elsewhere(recorded: &[PeerShare]) -> f64 {
    let refused = Some(ConnectResult::Refused.name());
    let refused = recorded.iter().filter(|it| it.reason == refused);
    let sum = |of: &mut dyn Iterator<Item = &PeerShare>| of.map(|it| it.share).sum::<f64>();
    let elsewhere = refused.clone().filter(|it| it.elsewhere.is_some());
    share(sum(&mut { elsewhere }), sum(&mut { refused }))
}

/// How long a program that falls back is known to, also when the server restarts or ends with it: longer than the window.
const FELL_BACK: Duration = Duration::from_secs(15);

/// Whether the program may try again at the loopback address of the other family: a name like `localhost` has both, and
/// programs listen at one of them.
fn falls_back(recorded: &[PeerShare]) -> bool {
    let is_other = |it: &PeerShare, at: &IpAddr| {
        at.is_ipv4() != it.address.is_ipv4() && (at.is_loopback() || at.is_unspecified())
    };
    let falls = recorded.iter().filter(|it| {
        let elsewhere = it.elsewhere.as_ref();
        let addresses = elsewhere.map_or(&[][..], |it| &it.addresses);
        it.address.is_loopback() && addresses.iter().any(|at| is_other(it, at))
    });
    falls.map(|it| it.share).sum::<f64>() > 0.9
}

/// The scores of the two windows.
fn scores([fast, slow]: [&Attempts; 2], thresholds: &Thresholds) -> (f64, f64) {
    let fast = fast.score(
        thresholds.connect_failure_seconds,
        thresholds.connect_failures,
        thresholds.connect_failure_share,
    );
    let slow = slow.score(
        thresholds.connect_slow_failure_seconds,
        thresholds.connect_failures,
        thresholds.connect_slow_failure_share,
    );
    (fast, slow)
}

/// The causes of failures, with how many they explain: by result, of which refusals without an RST and failed searches for
/// a port are known.
fn causes(
    results: [u64; ConnectResult::COUNT],
    by_icmp: u64,
    searches: u64,
) -> Vec<(&'static Cause, u64)> {
    let by_icmp = by_icmp.min(results[ConnectResult::Refused as usize]);
    let no_port = searches.min(results[ConnectResult::AddressNotAvailable as usize]);
    let of = |cause, result: ConnectResult| (cause, results[result as usize]);
    vec![
        (
            &cause::NOTHING_LISTENS,
            results[ConnectResult::Refused as usize] - by_icmp,
        ),
        (&cause::REFUSED_BY_ICMP, by_icmp),
        of(&cause::SYN_DROPPED, ConnectResult::TimedOut),
        of(&cause::OWN_TIMEOUT, ConnectResult::GaveUp),
        of(&cause::CANCELLED, ConnectResult::Canceled),
        of(&cause::NO_NEIGHBOUR, ConnectResult::HostUnreachable),
        of(&cause::NO_ROUTE, ConnectResult::NetUnreachable),
        of(&cause::FIREWALL_ICMP, ConnectResult::Icmp),
        of(&cause::DENIED, ConnectResult::Denied),
        (&cause::NO_LOCAL_PORT, no_port),
        (
            &cause::LOCAL_ADDRESS,
            results[ConnectResult::AddressNotAvailable as usize] - no_port,
        ),
        of(&cause::NO_FAMILY, ConnectResult::FamilyNotSupported),
        of(&cause::NO_WAY, ConnectResult::Invalid),
        of(&cause::OTHER_ERRNO, ConnectResult::Other),
    ]
}

/// Failures of a client of which no connect succeeds, by result. Attempts that it cancels itself, and those that end at
/// this host because it has no route or no address of the family, are none.
#[must_use]
pub fn failed_connects(counts: &Counts) -> Breakdown {
    if counts.connects[ConnectResult::Ok as usize] > 0 {
        return Breakdown::default();
    }
    let failed = beside_successes(counts.connects, counts.port_searches_failed);
    Breakdown::new(ConnectResult::NAMES.iter().copied().zip(failed))
}

/// The causes of such failures.
#[must_use]
pub fn connect_causes(counts: &Counts) -> Vec<Explanation> {
    let searches = counts.port_searches_failed;
    let failed = beside_successes(counts.connects, searches);
    let by_icmp = counts.refused_by_icmp.unwrap_or_default();
    cause::explain(&causes(failed, by_icmp, searches))
}

impl<S: Connecting> Detector for ConnectFailures<S> {
    const ANOMALY: Anomaly = Anomaly::ConnectFailures;
    type Sample = S;

    fn new(_: &Thresholds) -> Self {
        Self {
            fast: Attempts::new(FAST),
            slow: Attempts::new(SLOW),
            beyond: [FAST, SLOW].map(Attempts::new),
            fell_back_at: None,
            is_slow: false,
            totals: Counters::default(),
            searches: Counters::default(),
            recent: Recent::default(),
            recent_searches: Recent::default(),
            refused_by_icmp: Counters::default(),
            recent_by_icmp: Recent::default(),
            scanned: None,
            was_raised: false,
            of: PhantomData,
        }
    }

    fn wants_walk(&self, sample: &S, thresholds: &Thresholds) -> Option<bool> {
        // They may be stuck: only a walk can tell.
        Some(f64::from(sample.connecting()) >= thresholds.connect_waiting)
    }

    fn settled(&self) -> Settled {
        Settled::any_if(!self.fast.has_failures() && self.scanned.is_none())
    }

    fn assess(&mut self, sample: &S, at: &At<'_>) -> Assessment {
        let thresholds = at.thresholds;
        if std::mem::replace(&mut self.was_raised, at.raised) && !at.raised {
            // One failure would raise it again with those of the finding that is over.
            self.slow = Attempts::new(SLOW);
        }
        let results = self.totals.since(sample.counts().connects);
        let [searches] = self.searches.since([sample.counts().port_searches_failed]);
        self.recent.add(at.now, results);
        self.recent_searches.add(at.now, [searches]);
        let by_icmp = sample.counts().refused_by_icmp.unwrap_or_default();
        let by_icmp = self.refused_by_icmp.since([by_icmp]);
        self.recent_by_icmp.add(at.now, by_icmp);
        let ok = results[ConnectResult::Ok as usize];
        let failed = beside_successes(results, searches).iter().sum::<u64>() - ok;
        let ignorable = results.iter().sum::<u64>() - ok - failed;
        for attempts in [&mut self.fast, &mut self.slow] {
            attempts.add(at.span(), ok, failed, ignorable);
        }
        let beyond = failed.saturating_sub(ok);
        for attempts in &mut self.beyond {
            attempts.add(at.span(), ok, beyond, ignorable);
        }
        let (fast, slow) = scores([&self.fast, &self.slow], thresholds);
        // Failures remain in the long window for two minutes after they left the short one.
        let goes_on = self.fast.share() > thresholds.connect_clear_share;
        let slow = if goes_on { slow } else { 0.0 };
        let waiting = f64::from(sample.waiting()) / thresholds.connect_waiting;
        self.is_slow = slow >= 1.0 && fast < 1.0;
        let (recorded, least) = (&sample.culprits().connects, thresholds.scan_ports);
        // Of many ports, those that were tried once are soon forgotten.
        let has_failed = self.slow.failed() > 0;
        let goes_on = |_: &Scanned| recorded.iter().all(|it| it.share * least < 1.0);
        let scanned = scanned(recorded, least).or(self.scanned.filter(goes_on));
        self.scanned = scanned.filter(|_| has_failed);
        let severity = match self.speaking().alone() && self.scanned.is_none() {
            true => Severity::Critical,
            false => Severity::Warning,
        };
        let mut score = fast.max(slow);
        let mut clear = self.fast.share();
        if falls_back(recorded) {
            self.fell_back_at = Some(at.now);
        }
        let fell_back = |it: Duration| at.now.saturating_sub(it) < FELL_BACK;
        if self.fell_back_at.is_some_and(fell_back) {
            let [of_10, of_120] = &self.beyond;
            let (fast, slow) = scores([of_10, of_120], thresholds);
            // Records say so, and are to be read on.
            score = score.min(fast.max(slow).max(SUSPECTED));
            clear = of_10.share();
        }
        score = score.max(waiting);
        let is_calm = clear <= thresholds.connect_clear_share;
        Assessment {
            raise: (score >= 1.0).then_some(severity),
            calm: waiting < 1.0 && is_calm,
            score,
            time_left: None,
        }
    }

    fn evidence(&self, sample: &S) -> (Evidence, Vec<Explanation>) {
        let attempts = self.speaking();
        let names = ConnectResult::NAMES.iter().copied();
        let failed = attempts.failed();
        let evidence = Evidence::Connects {
            failed,
            attempts: failed + attempts.succeeded(),
            seconds: attempts.seconds(),
            waiting: sample.waiting(),
            results: Breakdown::new(names.zip(self.recent.sums())),
            peers: self.destinations(&sample.culprits().connects),
            waiting_peers: sample.culprits().connecting.clone(),
            scanned: self.scanned,
        };
        let mut causes = self.causes(&sample.culprits().connects);
        if failed == 0 {
            causes = vec![(&cause::SYN_DROPPED, sample.waiting().into())];
        }
        (evidence, cause::explain(&causes))
    }
}
