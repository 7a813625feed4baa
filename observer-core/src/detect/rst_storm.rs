//! Connections are reset for longer than a restart takes: at six of ten seconds for a process, at 54 of 60 for
//! a name, whose processes may live too short to be blamed.

mod resetting;

use std::{cmp::Reverse, marker::PhantomData, time::Duration};

use observer_common::GAVE_UP_RESET;

use self::resetting::Resetting;

use super::{
    anomaly::Anomaly,
    cause::{self, Cause, Explanation},
    detector::{Assessment, At, Detector, Settled, all, share},
    finding::{Breakdown, Direction, Evidence, PeerShare, Severity},
    sample::{ConnectResult, Counts, Name, Process, ReceivedReset, SentReset},
    settings::Thresholds,
    windows::{Counters, Recent, Window, approach},
};

/// Longest time in which a storm that failed TLS handshakes may explain waits for their finding.
const FOR_HANDSHAKES: Duration = Duration::from_secs(5);

/// RSTs of one direction.
#[derive(Debug)]
struct Side {
    window: Window,
    /// Mean per second, in which bursts are capped.
    base: f64,
    /// Seconds for which the storm has been raised.
    raised: f64,
    share: f64,
    score: f64,
}

/// State of the detector.
#[derive(Debug)]
pub struct RstStorm<S> {
    /// Seconds that were watched.
    seen: f64,
    /// When it was assessed last.
    assessed_at: Duration,
    /// Whether time without RSTs has said what is normal since it was last assessed.
    learns: bool,
    /// Whether the baseline is known.
    mature: bool,
    sent: Side,
    received: Side,
    ended: Window,
    totals: (
        Counters<{ SentReset::COUNT }>,
        Counters<{ ReceivedReset::COUNT }>,
        Counters<1>,
    ),
    recent: (
        Recent<{ SentReset::COUNT }>,
        Recent<{ ReceivedReset::COUNT }>,
    ),
    handshakes_failed: (Counters<1>, Recent<1>),
    /// Connections that were reset after they had waited for an answer.
    gave_up: (Counters<1>, Recent<1>),
    /// Since when it has been a storm.
    over_since: Option<Duration>,
    of: PhantomData<S>,
}

/// Values common to both directions.
struct Rules<'a> {
    at: &'a At<'a>,
    /// Whether this time says what is normal.
    learns: bool,
    mature: bool,
    hot: f64,
    half_life: f64,
}

impl Side {
    fn new(seconds: u64) -> Self {
        Self {
            window: Window::new(seconds),
            base: 0.0,
            raised: 0.0,
            share: 0.0,
            score: 0.0,
        }
    }

    fn assess<S: Resetting>(&mut self, count: u64, ended: u64, rules: &Rules<'_>) -> Assessment {
        let thresholds = rules.at.thresholds;
        self.window.add(rules.at.span(), count);
        let rate = self.window.per_second();
        self.share = share(
            self.window.sum() as f64,
            ended.max(self.window.sum()) as f64,
        );
        let (need, share) = match rules.mature {
            true => (
                thresholds.rst_rate.max(thresholds.rst_ratio * self.base),
                S::share(thresholds, rate / self.base.max(1.0)),
            ),
            false => (thresholds.rst_rate_new, thresholds.rst_share_new),
        };
        let hot = self.window.seconds_with(thresholds.rst_hot_share * need) as f64;
        self.score = all(&[rate / need, hot / rules.hot, self.share / share]);
        let critical = rate >= thresholds.rst_critical_ratio * need;
        let calm = rate
            < thresholds
                .rst_clear_rate
                .max(thresholds.rst_clear_ratio * self.base);
        self.learn(count, rate, rules);
        let severity = if critical {
            Severity::Critical
        } else {
            Severity::Warning
        };
        Assessment {
            raise: (self.score >= 1.0).then_some(severity),
            calm,
            score: self.score,
            time_left: None,
        }
    }

    /// Moves the baseline. A storm must not: it would hide itself from the next process of its name.
    fn learn(&mut self, count: u64, rate: f64, rules: &Rules<'_>) {
        let elapsed = rules.at.elapsed;
        if elapsed.is_zero() || elapsed > rules.at.pace.gap() {
            return;
        }
        let thresholds = rules.at.thresholds;
        if rules.at.raised {
            self.raised += elapsed.as_secs_f64();
            if self.raised >= thresholds.rst_chronic_seconds {
                self.base = rate;
            }
            return;
        }
        self.raised = 0.0;
        let cap = match rules.mature {
            true => thresholds.rst_burst_ratio * (self.base + 1.0),
            false => thresholds.rst_rate_new,
        };
        let now = count as f64 / elapsed.as_secs_f64();
        let elapsed = rules.at.pace.scaled(elapsed);
        if rules.learns {
            approach(&mut self.base, now.min(cap), elapsed, rules.half_life);
        }
    }
}

/// Share of the peers that are clients from which the connections are those of a server, also of a proxy.
const CLIENTS: f64 = 0.9;

fn are_clients(peers: &[PeerShare]) -> bool {
    let clients = peers.iter().filter(|it| it.is_client);
    clients.map(|it| it.share).sum::<f64>() > CLIENTS
}

fn only_serves(counts: &Counts) -> bool {
    counts.accepted > 0 && counts.connects[ConnectResult::Ok as usize] == 0
}

/// Connections that data reached after they were closed, if they are at least half of those that ended: of a proxy, which
/// has a connection to a client for each to a server, of those with the one side.
#[must_use]
pub fn cut_off(counts: &Counts) -> u64 {
    let opened = counts.connects[ConnectResult::Ok as usize];
    // Those that live are among the totals.
    let one_side = counts.ended - (counts.ended / 2).min(opened.min(counts.accepted));
    let cut_off: u64 = [SentReset::DataAfterClose, SentReset::UnreadAfterShutdown]
        .map(|it| counts.resets_sent[it as usize])
        .iter()
        .sum();
    match 2 * cut_off >= one_side {
        true => cut_off,
        false => 0,
    }
}

/// The cause of data that arrives after close().
#[must_use]
pub fn cut_off_cause(counts: &Counts) -> &'static Cause {
    cut_off_by(only_serves(counts))
}

fn cut_off_by(serves: bool) -> &'static Cause {
    match serves {
        true => &cause::CLOSES_FIRST,
        false => &cause::HALF_CLOSE,
    }
}

impl<S: Resetting> RstStorm<S> {
    /// What it will have learned if nothing happens until then.
    fn learned(&self, until: Duration, at: &At<'_>) -> Learned {
        let idle = match self.learns {
            true => at.pace.scaled(until.saturating_sub(self.assessed_at)),
            false => Duration::ZERO,
        };
        let young = (S::mature(at.thresholds) - self.seen).max(0.0);
        let young = Duration::from_secs_f64(young.min(idle.as_secs_f64()));
        let [sent, received] = [self.sent.base, self.received.base].map(|mut base| {
            approach(&mut base, 0.0, young, S::half_life_new(at.thresholds));
            let half_life = at.thresholds.rst_half_life_seconds;
            approach(&mut base, 0.0, idle.saturating_sub(young), half_life);
            base
        });
        Learned {
            seen: self.seen + idle.as_secs_f64(),
            sent,
            received,
        }
    }

    /// The direction with the higher score.
    fn direction(&self) -> Direction {
        match self.received.score > self.sent.score {
            true => Direction::Received,
            false => Direction::Sent,
        }
    }

    /// Whether it is of RSTs received.
    #[must_use]
    pub fn is_received(&self) -> bool {
        self.direction() == Direction::Received
    }

    /// Whether most of it is close() with unread data.
    #[must_use]
    pub fn is_unread_data(&self) -> bool {
        let sent = self.recent.0.sums();
        let unread = sent[SentReset::UnreadData as usize];
        self.direction() == Direction::Sent && 2 * unread > sent.iter().sum()
    }

    /// RSTs per second in the direction with the higher score.
    #[must_use]
    pub fn rate(&self) -> f64 {
        let side = match self.direction() {
            Direction::Sent => &self.sent,
            Direction::Received => &self.received,
        };
        side.window.sum() as f64 / S::SECONDS as f64
    }

    /// Whether TLS handshakes that failed are the cause of most.
    #[must_use]
    pub fn is_of_handshakes(&self, sample: &S) -> bool {
        self.is_mostly(&cause::HANDSHAKES_FAIL, sample)
    }

    /// Whether most are of connections that waited for an answer in vain.
    #[must_use]
    pub fn is_of_waits(&self, sample: &S) -> bool {
        self.is_mostly(&cause::GIVES_UP, sample)
    }

    fn is_mostly(&self, cause: &Cause, sample: &S) -> bool {
        let causes = cause::explain(&self.causes(sample));
        causes.first().is_some_and(|it| it.cause == cause)
    }

    /// The causes of the direction with the higher score, with how many RSTs they explain.
    fn causes(&self, sample: &S) -> Vec<(&'static Cause, u64)> {
        let mut causes = match self.direction() {
            Direction::Sent => self.sent_causes(sample.counts(), &sample.culprits().resets_sent),
            Direction::Received => self.received_causes(),
        };
        self.explain(&mut causes);
        causes
    }

    /// The causes of RSTs sent to these peers, with how many they explain.
    fn sent_causes(&self, counts: &Counts, peers: &[PeerShare]) -> Vec<(&'static Cause, u64)> {
        let sent = self.recent.0.sums();
        let count = |class: SentReset| sent[class as usize];
        let serves = only_serves(counts) || are_clients(peers);
        let after_shutdown = count(SentReset::UnreadAfterShutdown);
        let unread = match serves {
            true => &cause::CLOSES_UNREAD,
            false => &cause::UNREAD,
        };
        let lingered = count(SentReset::LingerZero);
        let [gave_up] = self.gave_up.1.sums();
        let gave_up = gave_up.min(lingered);
        vec![
            (cut_off_by(serves), count(SentReset::DataAfterClose)),
            (&cause::HALF_CLOSE, if serves { 0 } else { after_shutdown }),
            // A server that answers early ends its side by shutdown() first.
            (
                unread,
                count(SentReset::UnreadData) + if serves { after_shutdown } else { 0 },
            ),
            (&cause::GIVES_UP, gave_up),
            (&cause::LINGER_ZERO, lingered - gave_up),
            (&cause::DISCONNECT, count(SentReset::Disconnect)),
            (&cause::UNACCEPTED, count(SentReset::Unaccepted)),
            (&cause::ABORTED, count(SentReset::Aborted)),
            (&cause::PEERS_SILENT, count(SentReset::Keepalive)),
            (&cause::ORPHANS, count(SentReset::Orphan)),
            (&cause::LISTENER_RESETS, count(SentReset::Listener)),
            (&cause::OLD_CONNECTION, count(SentReset::InvalidAck)),
            (&cause::OTHER_RESETS, count(SentReset::Other)),
        ]
    }

    /// Takes what TLS handshakes that failed explain off the first of these causes. A connection is closed after such a
    /// failure, in one of several ways.
    fn explain(&self, causes: &mut Vec<(&'static Cause, u64)>) {
        const ON_PURPOSE: [&Cause; 3] = [&cause::LINGER_ZERO, &cause::DISCONNECT, &cause::ABORTED];
        let [failed] = self.handshakes_failed.1.sums();
        let all: u64 = causes.iter().map(|(_, count)| count).sum();
        if 2 * failed < all {
            return;
        }
        let mut left = failed;
        causes.sort_by_key(|(_, count)| Reverse(*count));
        for (cause, count) in causes.iter_mut() {
            if !ON_PURPOSE.contains(cause) {
                let part = left.min(*count);
                *count -= part;
                left -= part;
            }
        }
        causes.push((&cause::HANDSHAKES_FAIL, failed - left));
    }

    fn received_causes(&self) -> Vec<(&'static Cause, u64)> {
        let received = self.recent.1.sums();
        let count = |class: ReceivedReset| received[class as usize];
        vec![
            (&cause::PEER_LEFT, count(ReceivedReset::CloseWait)),
            (&cause::PEER_ABORTS, count(ReceivedReset::Established)),
            (&cause::BOTH_CLOSING, count(ReceivedReset::BothClosing)),
            (&cause::OTHER_RESETS, count(ReceivedReset::Other)),
        ]
    }
}

impl RstStorm<Process> {
    /// Starts with the baseline of the process's name, if it has one: a share for each of its running processes.
    pub fn inherit(&mut self, name: &RstStorm<Name>, running: u32, at: &At<'_>) {
        let learned = name.learned(at.now.saturating_sub(at.elapsed), at);
        if learned.seen >= Name::mature(at.thresholds) {
            let running = f64::from(running.max(1));
            self.sent.base = learned.sent / running;
            self.received.base = learned.received / running;
            self.seen = Process::mature(at.thresholds);
        }
    }
}

/// What has been learned of RSTs.
struct Learned {
    seen: f64,
    /// Baselines.
    sent: f64,
    received: f64,
}

impl<S: Resetting> Detector for RstStorm<S> {
    const ANOMALY: Anomaly = Anomaly::RstStorm;
    type Sample = S;

    fn new(_: &Thresholds) -> Self {
        Self {
            seen: 0.0,
            assessed_at: Duration::ZERO,
            learns: false,
            mature: false,
            sent: Side::new(S::SECONDS),
            received: Side::new(S::SECONDS),
            ended: Window::new(S::SECONDS),
            totals: Default::default(),
            recent: Default::default(),
            handshakes_failed: Default::default(),
            gave_up: Default::default(),
            over_since: None,
            of: PhantomData,
        }
    }

    fn assess(&mut self, sample: &S, at: &At<'_>) -> Assessment {
        let thresholds = at.thresholds;
        if let Some(until) = at.idle_until {
            let learned = self.learned(until, at);
            (self.seen, self.sent.base) = (learned.seen, learned.sent);
            self.received.base = learned.received;
        }
        self.assessed_at = at.now;
        let counts = sample.counts();
        let sent = self.totals.0.since(counts.resets_sent);
        let received = self.totals.1.since(counts.resets_received);
        let [ended] = self.totals.2.since([counts.ended]);
        self.recent.0.add(at.now, sent);
        self.recent.1.add(at.now, received);
        let failed = &mut self.handshakes_failed;
        failed
            .1
            .add(at.now, failed.0.since([counts.handshakes_failed()]));
        let of = &mut self.gave_up;
        of.1.add(at.now, of.0.since([counts.gave_up[GAVE_UP_RESET]]));
        self.ended.add(at.span(), ended);
        self.mature = self.seen >= S::mature(thresholds);
        let events = ended + sent.iter().chain(&received).sum::<u64>();
        self.learns = sample.is_running() || events > 0;
        let rules = Rules {
            at,
            learns: self.learns,
            mature: self.mature,
            hot: S::hot(thresholds),
            half_life: match self.mature {
                true => thresholds.rst_half_life_seconds,
                false => S::half_life_new(thresholds),
            },
        };
        let ended = self.ended.sum();
        let sent = self.sent.assess::<S>(sent.iter().sum(), ended, &rules);
        let received = self
            .received
            .assess::<S>(received.iter().sum(), ended, &rules);
        let elapsed = at.elapsed.min(at.pace.gap());
        if self.learns {
            self.seen += at.pace.scaled(elapsed).as_secs_f64();
        }
        let raise = sent.raise.max(received.raise);
        let since = self.over_since.unwrap_or(at.now);
        self.over_since = raise.map(|_| since);
        let may_be_explained = at.now.saturating_sub(since) < FOR_HANDSHAKES
            && !at.raised
            && self.is_of_handshakes(sample);
        Assessment {
            raise: raise.filter(|_| !may_be_explained),
            calm: sent.calm && received.calm,
            score: sent.score.max(received.score),
            time_left: None,
        }
    }

    fn settled(&self) -> Settled {
        Settled::any_if(self.sent.window.sum() + self.received.window.sum() == 0)
    }

    fn comes_last(&self, sample: &S) -> bool {
        self.is_received() && sample.peer().is_some()
    }

    fn evidence(&self, sample: &S) -> (Evidence, Vec<Explanation>) {
        let direction = self.direction();
        let culprits = sample.culprits();
        let (side, peers) = match direction {
            Direction::Sent => (&self.sent, &culprits.resets_sent),
            Direction::Received => (&self.received, &culprits.resets_received),
        };
        let names = SentReset::NAMES.iter().copied();
        let sent = Breakdown::new(names.zip(self.recent.0.sums()));
        let names = ReceivedReset::NAMES.iter().copied();
        let received = Breakdown::new(names.zip(self.recent.1.sums()));
        let evidence = Evidence::Resets {
            direction,
            per_second: side.window.per_second(),
            baseline: self.mature.then_some(side.base),
            share: side.share,
            sent,
            received,
            peer_pid: sample.peer().map(|peer| peer.tgid),
            peer: sample.peer_labels().cloned(),
            peers: peers.clone(),
        };
        (evidence, cause::explain(&self.causes(sample)))
    }
}
