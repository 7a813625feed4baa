//! Connections wait for peers that do not answer, read or acknowledge; or programs give up before they do.

use std::marker::PhantomData;

use observer_common::{
    GAVE_UP_RESET, GAVE_UPS, WAIT_PEER, WAIT_PEER_ACK, WAIT_PEER_FIRST_BYTE, WAIT_PEER_WINDOW,
};

use super::{
    anomaly::Anomaly,
    cause::{self, Explanation},
    detector::{Assessment, At, Detector, SUSPECTED, Settled, all, share},
    finding::{Awaited, Breakdown, Evidence, Severity, Waiting},
    sample::{Connecting, Process},
    settings::Thresholds,
    tls_stall,
    windows::{Counters, Window},
};
use crate::walk::{UNANSWERED_SECONDS, Waits};

/// Seconds that are looked back: at once if most connections are given up, and at programs that try every few seconds.
const SECONDS: [u64; 2] = [10, 60];

/// The connections that ended in some seconds.
#[derive(Debug)]
struct Ended {
    gave_up: Window,
    /// Of those, the ones that were reset.
    reset: Window,
    all: Window,
    accepted: Window,
}

/// State of the detector.
#[derive(Debug)]
pub struct ReadStall<S> {
    totals: Counters<2>,
    gave_up: Counters<GAVE_UPS>,
    ended: [Ended; SECONDS.len()],
    /// The one of those by which connections are given up, if that is what it is about; of the last sample.
    by_ended: Option<usize>,
    /// Whether so many were given up that a walk must tell whether they were ignored.
    may_give_up: bool,
    /// See [`unanswered`].
    least: f64,
    of: PhantomData<S>,
}

/// The kinds of wait for a peer, which it owes something.
const OWED: [u8; 3] = [WAIT_PEER_FIRST_BYTE, WAIT_PEER_WINDOW, WAIT_PEER_ACK];

fn owed(waits: &Waits) -> u32 {
    OWED.iter().map(|it| waits.stalled_for(*it).0).sum()
}

/// Requests without an answer: also those that follow an answer at once, if the program owes `least` first answers itself.
fn unanswered(waits: &Waits, least: f64) -> u32 {
    let believed = f64::from(waits.owed_by_program) >= least;
    waits.unanswered
        + if believed {
            waits.unanswered_at_once
        } else {
            0
        }
}

/// The connections that wait for peers.
pub(super) fn waiting<S: Connecting>(sample: &S) -> impl Iterator<Item = &Awaited> + Clone {
    let is_for_peer = |it: u8| OWED.contains(&it) || it == WAIT_PEER;
    // Only those that were counted are named, but for these: they are named once they are believed.
    let at_once = sample.waits().unanswered_at_once > 0;
    let all = sample.awaited().iter().filter(move |it| {
        let wait = &it.wait;
        let is_long = wait.longest_ms >= UNANSWERED_SECONDS * 1000;
        wait.is_judged || at_once && wait.waits_for == WAIT_PEER && is_long
    });
    all.filter(move |it| is_for_peer(it.wait.waits_for))
}

impl<S> ReadStall<S> {
    /// Whether it is about connections that were given up, not about those that wait.
    #[must_use]
    pub fn is_of_ended(&self) -> bool {
        self.by_ended.is_some()
    }
}

impl ReadStall<Process> {
    /// Whether half of the connections wait for the first byte of a TLS handshake.
    #[must_use]
    pub fn is_of_handshakes(&self, process: &Process) -> bool {
        let waits = &process.waits;
        let (first_byte, _) = waits.stalled_for(WAIT_PEER_FIRST_BYTE);
        let handshakes = tls_stall::as_client(process).min(first_byte);
        !self.is_of_ended() && 2 * handshakes >= owed(waits) + unanswered(waits, self.least)
    }
}

impl Ended {
    fn new(seconds: u64) -> Self {
        Self {
            gave_up: Window::new(seconds),
            reset: Window::new(seconds),
            all: Window::new(seconds),
            accepted: Window::new(seconds),
        }
    }

    /// Those that ended, and those that live and are in use. A proxy has a connection to a client for
    /// each to a server: only the one side is counted.
    fn all(&self, waits: &Waits) -> u64 {
        let ended = self.all.sum().max(self.gave_up.sum());
        let of_clients = (ended / 2).min(self.accepted.sum());
        ended - of_clients + u64::from(waits.in_use_of_clients)
    }

    /// By numbers alone.
    fn score(&self, waits: &Waits, seconds: f64, thresholds: &Thresholds) -> f64 {
        let gave_up = self.gave_up.sum() as f64;
        all(&[
            gave_up / thresholds.gave_up,
            self.gave_up.seconds_with(0.0) as f64 / seconds,
            share(gave_up, self.all(waits) as f64) / thresholds.gave_up_share,
        ])
    }

    /// Whether the peers do not notice that the program has gone, as they do if they only had nothing to say. A program that
    /// expects nothing does not reset its connections either; of those it does, that is unknown.
    fn is_ignored(&self, not_closed_by_peer: u32, thresholds: &Thresholds) -> bool {
        let gave_up = self.gave_up.sum() as f64;
        let ignored = self.reset.sum() as f64 + f64::from(not_closed_by_peer);
        ignored >= thresholds.gave_up_open_share * gave_up
    }
}

impl<S: Connecting> ReadStall<S> {
    /// The score by connections that wait.
    fn waiting(sample: &S, thresholds: &Thresholds) -> f64 {
        if S::IS_NAME {
            return Self::workers(sample, thresholds);
        }
        let waits = sample.waits();
        let in_use = f64::from(waits.in_use());
        let (owed, unanswered) = (
            f64::from(owed(waits)),
            f64::from(unanswered(waits, thresholds.read_stall)),
        );
        let both = owed + unanswered;
        all(&[
            owed / thresholds.read_stall,
            share(owed, in_use) / thresholds.read_stall_share,
        ])
        // A proxy has a connection to a client for each to a server.
        .max(all(&[
            both / thresholds.read_stall,
            share(both, waits.in_use_of_clients.into()).min(1.0)
                / thresholds.read_stall_answer_share,
        ]))
    }

    /// The same of the processes of a name, of which those waits are known that may be for requests of their clients.
    fn workers(sample: &S, thresholds: &Thresholds) -> f64 {
        let waits = sample.waits();
        let peers = Waiting::by_peer(waiting(sample));
        let waiting: u32 = peers.iter().map(|it| it.connections).sum();
        let with_one = peers.first().map_or(0, |it| it.connections);
        let waiting = f64::from(waiting);
        all(&[
            waiting / thresholds.read_stall,
            share(waiting, waits.in_use_of_clients.into()).min(1.0)
                / thresholds.read_stall_answer_share,
            share(with_one.into(), waiting) / thresholds.read_stall_peer_share,
            share(waits.owed_by_program.into(), waiting) / thresholds.read_stall_owed_share,
        ])
    }
}

impl<S: Connecting> Detector for ReadStall<S> {
    const ANOMALY: Anomaly = Anomaly::ReadStall;
    type Sample = S;

    fn new(_: &Thresholds) -> Self {
        Self {
            totals: Counters::default(),
            gave_up: Counters::default(),
            ended: SECONDS.map(Ended::new),
            by_ended: None,
            may_give_up: false,
            least: f64::INFINITY,
            of: PhantomData,
        }
    }

    fn wants_walk(&self, _: &S, _: &Thresholds) -> Option<bool> {
        // Whether peers notice it.
        Some(self.may_give_up)
    }

    fn settled(&self) -> Settled {
        Settled::any_if(self.ended.iter().all(|it| it.gave_up.sum() == 0))
    }

    fn assess(&mut self, sample: &S, at: &At<'_>) -> Assessment {
        let thresholds = at.thresholds;
        let counts = sample.counts();
        let [all, accepted] = self.totals.since([counts.ended, counts.accepted]);
        let kinds = self.gave_up.since(counts.gave_up);
        let (gave_up, reset) = (kinds.iter().sum(), kinds[GAVE_UP_RESET]);
        for ended in &mut self.ended {
            ended.gave_up.add(at.span(), gave_up);
            ended.reset.add(at.span(), reset);
            ended.all.add(at.span(), all);
            ended.accepted.add(at.span(), accepted);
        }
        self.least = thresholds.read_stall;
        let waiting = Self::waiting(sample, thresholds);
        let seconds = [thresholds.gave_up_seconds, thresholds.gave_up_slow_seconds];
        self.may_give_up = false;
        let mut scores = [0.0; SECONDS.len()];
        for ((score, ended), seconds) in scores.iter_mut().zip(&self.ended).zip(seconds) {
            let numbers = ended.score(sample.waits(), seconds, thresholds);
            self.may_give_up |= numbers >= 1.0;
            *score = match ended.is_ignored(sample.not_closed_by_peer(), thresholds) {
                true => numbers,
                false => numbers.min(SUSPECTED),
            };
        }
        let best = usize::from(scores[1] > scores[0]);
        let is_it = scores[best] > waiting && scores[best] > SUSPECTED;
        self.by_ended = is_it.then_some(best);
        let score = waiting.max(scores[best]);
        Assessment {
            raise: (score >= 1.0).then_some(Severity::Warning),
            calm: waiting < thresholds.read_stall_clear_share && self.by_ended.is_none(),
            score,
            time_left: None,
        }
    }

    fn evidence(&self, sample: &S) -> (Evidence, Vec<Explanation>) {
        let waits = sample.waits();
        if let Some(by) = self.by_ended {
            let evidence = Evidence::GaveUp {
                gave_up: self.ended[by].gave_up.sum(),
                connections: self.ended[by].all(waits),
                seconds: SECONDS[by],
                peers: sample.culprits().gave_up.clone(),
            };
            return (evidence, cause::explain(&[(&cause::GAVE_UP, 1)]));
        }
        let [first_byte, window, ack] = OWED.map(|it| waits.stalled_for(it));
        let peers = waiting(sample);
        let answers = unanswered(waits, self.least);
        let longest_ms = peers.clone().map(|it| it.wait.longest_ms);
        // Those of further peers, too.
        let longest_ms = longest_ms.chain([first_byte.1, window.1, ack.1]).max();
        let evidence = Evidence::Waits {
            waiting: match S::IS_NAME {
                true => peers.clone().map(|it| it.wait.connections).sum(),
                false => owed(waits) + answers,
            },
            connections: waits.connections,
            reasons: Breakdown::new([
                ("peer_first_byte", first_byte.0.into()),
                ("peer_window", window.0.into()),
                ("peer_ack", ack.0.into()),
                ("answer", answers.into()),
            ]),
            longest_seconds: f64::from(longest_ms.unwrap_or(UNANSWERED_SECONDS * 1000)) / 1e3,
            peers: Waiting::most(peers),
        };
        let causes = [
            (&cause::NO_FIRST_BYTE, first_byte.0.into()),
            (&cause::NO_ANSWER, answers.into()),
            (&cause::PEER_NOT_READING, window.0.into()),
            (&cause::NOT_RECEIVED, ack.0.into()),
        ];
        (evidence, cause::explain(&causes))
    }
}
