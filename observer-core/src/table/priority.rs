//! The order in which processes are shown: those with recent failures, then those with the most sockets and descriptors.

use std::{
    cmp::Ordering,
    time::{Duration, Instant},
};

use observer_common::{CounterMetric, METRICS, Metrics, Part, Slot};

/// A selected process is shown for at least this time, unless it ends or others have failures.
const STAY: Duration = Duration::from_secs(60);
/// Weight of one failure, in sockets and descriptors.
const FAILURE: f64 = 100.0;
/// Half-life of the weight of a failure.
const HALF_LIFE: Duration = Duration::from_secs(60);
/// Factor by which the weight of another process must exceed that of one that is shown, to replace it.
const HYSTERESIS: f64 = 1.25;

/// Why a process is shown or not.
#[derive(Debug, Default)]
pub(super) struct Priority {
    pub shown: bool,
    since: Option<Instant>,
    /// Failures of all kinds, and when they were read.
    failures: Option<(u64, Instant)>,
    /// Those of the last minutes, older ones in part.
    recent: f64,
    weight: f64,
}

impl Priority {
    /// Updates from a reading of the process. The first one sets the start only, because earlier
    /// failures may be old.
    pub fn update(&mut self, slot: &Slot, open_fds: u64, now: Instant) {
        let failures = failures(slot);
        if let Some((before, at)) = self.failures.replace((failures, now)) {
            let passed = now.saturating_duration_since(at);
            let half_lives = passed.as_secs_f64() / HALF_LIFE.as_secs_f64();
            let new = failures.saturating_sub(before) as f64;
            self.recent = self.recent * (-half_lives).exp2() + new;
        }
        let sockets = slot.sockets.max(0) as f64;
        self.weight = FAILURE * self.recent + sockets + open_fds as f64;
    }

    pub fn show(&mut self, shown: bool, now: Instant) {
        if self.shown != shown {
            self.shown = shown;
            self.since = Some(now);
        }
    }

    /// Whether it has been shown for less than the minimum time.
    fn stays(&self, now: Instant) -> bool {
        let young = |since| now.saturating_duration_since(since) < STAY;
        self.shown && self.since.is_some_and(young)
    }

    /// Processes with a greater value are shown first: those with recent failures, then those within
    /// the minimum time, then those with the greatest weight.
    pub fn compare(&self, other: &Self, now: Instant) -> Ordering {
        let class = |it: &Self| (it.recent >= 1.0, it.stays(now));
        let weight = |it: &Self| it.weight * if it.shown { HYSTERESIS } else { 1.0 };
        let by_class = class(self).cmp(&class(other));
        by_class.then_with(|| weight(self).total_cmp(&weight(other)))
    }
}

/// Failures of all kinds.
fn failures(slot: &Slot) -> u64 {
    let counts = slot.counters();
    let of_part = |signal: &Metrics, part: &Part, from: usize| -> u64 {
        let first = signal.index_of(part.offset);
        counts[first + from..first + part.len()].iter().sum()
    };
    let of_counter = |signal: &Metrics, counter: &CounterMetric| -> u64 {
        let Some(from) = counter.failures_from else {
            return 0;
        };
        let parts = counter.parts.iter();
        parts.map(|part| of_part(signal, part, from)).sum()
    };
    let of_signal = |signal: &Metrics| -> u64 {
        let counters = signal.counters.iter();
        counters.map(|counter| of_counter(signal, counter)).sum()
    };
    METRICS.iter().map(of_signal).sum()
}

#[cfg(test)]
mod tests {
    use observer_common::{ESTABLISHED, SYN_SENT};

    use super::*;

    #[test]
    fn failures_are_what_the_signals_call_so() {
        let mut slot = Slot::zeroed();
        slot.connect.results[0] = 1;
        slot.accept.accepted = 1;
        slot.retransmit.segments = 1;
        slot.state.transitions[usize::from(SYN_SENT)][usize::from(ESTABLISHED)] = 1;
        slot.time_wait.entered[0] = 1;
        slot.connect.seconds.buckets[0] = 1;
        assert_eq!(failures(&slot), 0);
        let last = slot.connect.results.len() - 1;
        slot.connect.results[1] = 1;
        slot.connect.results[last] = 1;
        slot.state.errors[0] = 1;
        slot.bind.failed[0][0] = 1;
        slot.bind.failed[1][0] = 1;
        slot.ports.exhausted[0] = 1;
        slot.fd.exhausted[0] = 1;
        slot.reset.sent[0] = 1;
        slot.reset.received[1] = 1;
        slot.time_wait.overflows = 1;
        assert_eq!(failures(&slot), 10);
    }
}
