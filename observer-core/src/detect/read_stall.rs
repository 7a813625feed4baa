//! Connections wait for peers that do not answer, read or acknowledge; or programs give up before they do.

use std::marker::PhantomData;

use observer_common::{WAIT_PEER, WAIT_PEER_ACK, WAIT_PEER_FIRST_BYTE, WAIT_PEER_WINDOW};

use super::{
    anomaly::Anomaly,
    cause::{self, Explanation},
    detector::{Assessment, At, Detector, all, share},
    finding::{Awaited, Breakdown, Evidence, Severity, Waiting},
    sample::Connecting,
    settings::Thresholds,
    windows::{Counters, Window},
};
use crate::walk::{UNANSWERED_SECONDS, Waits};

/// Seconds that are looked back: at once if most connections are given up, and at programs that try every few seconds.
const SECONDS: [u64; 2] = [10, 60];

/// The connections that ended in some seconds.
#[derive(Debug)]
struct Ended {
    gave_up: Window,
    all: Window,
    accepted: Window,
}

/// State of the detector.
#[derive(Debug)]
pub struct ReadStall<S> {
    totals: Counters<3>,
    ended: [Ended; SECONDS.len()],
    /// The one of those by which connections are given up, if that is what it is about; of the last sample.
    by_ended: Option<usize>,
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

/// Of connections that wait for peers, the part that waits for the one with the most. Processes of a name may be of
/// programs that have nothing to do with each other, and then there is no such peer.
fn with_one_peer<S: Connecting>(sample: &S) -> f64 {
    let peers = Waiting::by_peer(waiting(sample));
    let most = peers.first().map(|it| it.connections);
    let sum: u32 = peers.iter().map(|it| it.connections).sum();
    share(most.unwrap_or(0).into(), sum.into())
}

impl<S> ReadStall<S> {
    /// Whether it is about connections that were given up, not about those that wait.
    #[must_use]
    pub fn is_of_ended(&self) -> bool {
        self.by_ended.is_some()
    }
}

impl Ended {
    fn new(seconds: u64) -> Self {
        Self {
            gave_up: Window::new(seconds),
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

    fn score(&self, waits: &Waits, seconds: f64, thresholds: &Thresholds) -> f64 {
        let gave_up = self.gave_up.sum() as f64;
        all(&[
            gave_up / thresholds.gave_up,
            self.gave_up.seconds_with(0.0) as f64 / seconds,
            share(gave_up, self.all(waits) as f64) / thresholds.gave_up_share,
        ])
    }
}

impl<S: Connecting> ReadStall<S> {
    /// The score by connections that wait.
    fn waiting(sample: &S, thresholds: &Thresholds) -> f64 {
        let waits = sample.waits();
        let in_use = f64::from(waits.in_use());
        let (owed, unanswered) = (
            f64::from(owed(waits)),
            f64::from(unanswered(waits, thresholds.read_stall)),
        );
        let both = owed + unanswered;
        let score = all(&[
            owed / thresholds.read_stall,
            share(owed, in_use) / thresholds.read_stall_share,
        ])
        // A proxy has a connection to a client for each to a server.
        .max(all(&[
            both / thresholds.read_stall,
            share(both, waits.in_use_of_clients.into()).min(1.0)
                / thresholds.read_stall_answer_share,
        ]));
        match S::IS_NAME && score > 0.0 {
            true => all(&[
                score,
                with_one_peer(sample) / thresholds.read_stall_peer_share,
                share(waits.owed_by_program.into(), both) / thresholds.read_stall_owed_share,
            ]),
            false => score,
        }
    }
}

impl<S: Connecting> Detector for ReadStall<S> {
    const ANOMALY: Anomaly = Anomaly::ReadStall;
    type Sample = S;

    fn new(_: &Thresholds) -> Self {
        Self {
            totals: Counters::default(),
            ended: SECONDS.map(Ended::new),
            by_ended: None,
            least: f64::INFINITY,
            of: PhantomData,
        }
    }

    fn wants_walk(&self, _: &S, _: &Thresholds) -> Option<bool> {
        Some(false)
    }

    fn is_settled(&self) -> bool {
        self.ended.iter().all(|it| it.gave_up.sum() == 0)
    }

    fn assess(&mut self, sample: &S, at: &At<'_>) -> Assessment {
        let thresholds = at.thresholds;
        let counts = sample.counts();
        let [gave_up, all, accepted] =
            self.totals
                .since([counts.gave_up, counts.ended, counts.accepted]);
        for ended in &mut self.ended {
            ended.gave_up.add(at.span(), gave_up);
            ended.all.add(at.span(), all);
            ended.accepted.add(at.span(), accepted);
        }
        self.least = thresholds.read_stall;
        let waiting = Self::waiting(sample, thresholds);
        let seconds = [thresholds.gave_up_seconds, thresholds.gave_up_slow_seconds];
        let score = |it: usize| self.ended[it].score(sample.waits(), seconds[it], thresholds);
        let scores = [0, 1].map(score);
        let is_enough = |it: &usize| scores[*it] >= 1.0 && waiting < 1.0;
        self.by_ended = (0..SECONDS.len()).find(is_enough);
        let score = scores.into_iter().fold(waiting, f64::max);
        Assessment {
            raise: (score >= 1.0).then_some(Severity::Warning),
            calm: score < thresholds.read_stall_clear_share,
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
            waiting: owed(waits) + answers,
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
