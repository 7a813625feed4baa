//! TLS handshakes that do not end.

use std::time::Duration;

use observer_common::{
    TLS_CLIENT, TLS_ROLES, TLS_SERVER, TLS_UNKNOWN, WAIT_PEER_FIRST_BYTE, WAIT_UNUSED,
};

use super::{
    anomaly::Anomaly,
    cause::{self, Explanation},
    detector::{Assessment, At, Detector, Settled, all, share},
    finding::{Awaited, Breakdown, Evidence, Severity, Waiting},
    sample::Process,
    settings::Thresholds,
};

/// Longest time in which a finding waits for the walk that names its peers.
const FOR_PEERS: Duration = Duration::from_secs(5);

/// The same of a walk that finds whom a server owes an answer: since `--stall-after`, which is longer.
const FOR_OWED: Duration = Duration::from_secs(10);

/// State of the detector.
#[derive(Debug)]
pub struct TlsStall {
    /// Since when the score has been 1 or more.
    since: Option<Duration>,
}

impl Detector for TlsStall {
    const ANOMALY: Anomaly = Anomaly::TlsStall;
    type Sample = Process;

    fn new(_: &Thresholds) -> Self {
        Self { since: None }
    }

    fn settled(&self) -> Settled {
        Settled::any_if(self.since.is_none())
    }

    fn wants_walk(&self, sample: &Process, _: &Thresholds) -> Option<bool> {
        Some(self.since.is_some() && !is_known(sample))
    }

    fn assess(&mut self, sample: &Process, at: &At<'_>) -> Assessment {
        let (thresholds, handshakes) = (at.thresholds, &sample.handshakes);
        let slow = f64::from(handshakes.slow.iter().sum::<u32>());
        let score = all(&[
            slow / thresholds.tls_stall,
            share(slow, connections(sample).into()) / thresholds.tls_stall_share,
        ]);
        self.since = (score >= 1.0).then(|| self.since.unwrap_or(at.now));
        let patience = match handshakes.slow[TLS_SERVER as usize] > as_client(sample) {
            true => FOR_OWED,
            false => FOR_PEERS,
        };
        let is_complete =
            |since: Duration| is_known(sample) || at.now.saturating_sub(since) >= patience;
        Assessment {
            raise: (self.since.is_some_and(is_complete)).then_some(Severity::Warning),
            calm: score < thresholds.tls_stall_clear_share,
            score,
            time_left: None,
        }
    }

    fn evidence(&self, sample: &Process) -> (Evidence, Vec<Explanation>) {
        let handshakes = &sample.handshakes;
        let slow = TLS_ROLES
            .iter()
            .copied()
            .zip(handshakes.slow.map(u64::from));
        let evidence = Evidence::Waits {
            waiting: handshakes.slow.iter().sum(),
            connections: connections(sample),
            reasons: Breakdown::new(slow),
            longest_seconds: longest(sample).as_secs_f64(),
            peers: Waiting::most(silent(sample)),
        };
        let of = |role: u32| u64::from(handshakes.slow[role as usize]);
        let as_server = of(TLS_SERVER);
        let silent_clients: u32 = silent(sample)
            .filter(|it| it.wait.waits_for == WAIT_UNUSED)
            .map(|it| it.wait.connections)
            .sum();
        let owed = u64::from(sample.waits.owed_by_program);
        let held_up = owed.min(as_server.saturating_sub(silent_clients.into()));
        let not_finished = match owed > as_server {
            // Some are of other requests: either may be.
            true => as_server,
            false => as_server - held_up,
        };
        let causes = [
            (&cause::HANDSHAKES_UNANSWERED, of(TLS_CLIENT)),
            (&cause::HANDSHAKES_NOT_FINISHED, not_finished),
            (&cause::HANDSHAKES_HELD_UP, held_up),
            (&cause::HANDSHAKES_STUCK, of(TLS_UNKNOWN)),
        ];
        (evidence, cause::explain(&causes))
    }
}

/// Slow handshakes that are, or may be, those of a client.
pub(super) fn as_client(sample: &Process) -> u32 {
    [TLS_CLIENT, TLS_UNKNOWN]
        .map(|role| sample.handshakes.slow[role as usize])
        .iter()
        .sum()
}

/// Peers on the other side of slow handshakes that have sent nothing at all, as of the last walk.
fn silent(sample: &Process) -> impl Iterator<Item = &Awaited> {
    let slow = |role: u32| {
        sample.handshakes.slow[role as usize] + sample.handshakes.slow[TLS_UNKNOWN as usize] > 0
    };
    let (as_client, as_server) = (slow(TLS_CLIENT), slow(TLS_SERVER));
    sample
        .peers
        .iter()
        .filter(move |it| match it.wait.waits_for {
            WAIT_PEER_FIRST_BYTE => as_client,
            WAIT_UNUSED => as_server,
            _ => false,
        })
}

/// Whether a walk has seen who waits for whom.
fn is_known(sample: &Process) -> bool {
    silent(sample).next().is_some() || sample.waits.owed_by_program > 0
}

/// The longest handshake in progress.
fn longest(sample: &Process) -> Duration {
    sample
        .handshakes
        .oldest
        .iter()
        .max()
        .copied()
        .unwrap_or_default()
}

/// Connections of the process, as of the last walk, which may be older than the handshakes.
fn connections(sample: &Process) -> u32 {
    let in_progress = sample.handshakes.in_progress.iter().sum();
    sample.waits.connections.max(in_progress)
}
