//! The metrics of one process: hooks by way of the slot's counters.
//!
//! What is shown when nothing happened: counters that exist once per process are shown
//! from the start, so that `rate()` sees their first step; those with further labels
//! (a transition, an errno, an RST reason) appear with their first event, and so does a
//! state's gauge, which from then on returns to an honest 0. A histogram appears with its
//! first observation, since an empty one is twenty lines of nothing.

use std::collections::BTreeMap;

use observer_common::{
    AGE_BOUNDS, BUCKETS, CLOSE, CLOSE_WAIT_BOUNDS, CONNECT_BOUNDS, Histogram, PORT_SEARCHES,
    SIGNAL_ACCEPT, SIGNAL_CONNECT, SIGNAL_FD, SIGNAL_PORTS, SIGNAL_RESET_RECEIVED,
    SIGNAL_RESET_SENT, SIGNAL_RETRANSMIT, SIGNAL_SETSOCKOPT, SIGNAL_STATE, SIGNAL_TIME_WAIT,
    SIGNALS, STATES, Slot, TIME_WAIT, TIME_WAIT_SUBSTATES, state_name,
};

use super::{
    family::Family,
    names::{Index, Names, Tables},
    sink::{Number, Sink},
};
use crate::table::{Failure, Failures, Kind, Labels, Resources, SeriesView};

/// Writes the metrics of one series after the other.
pub(super) struct Writer<'a> {
    pub sink: &'a mut dyn Sink,
    pub names: &'a dyn Names,
    pub tables: &'a Tables,
    /// By signal; what is not observed is not shown, rather than shown as 0.
    pub observed: [bool; SIGNALS],
}

impl Writer<'_> {
    pub fn write(&mut self, view: &SeriesView<'_>) {
        let labels = view.labels;
        let counts = view.counts;
        let observed = |signal: u32| self.observed[signal as usize];
        let (sent, received) = (observed(SIGNAL_RESET_SENT), observed(SIGNAL_RESET_RECEIVED));
        if sent {
            self.resets(labels, "sent", &counts.resets_sent);
        }
        if received {
            self.resets(labels, "received", &counts.resets_received);
        }
        if view.kind == Kind::NoSocket {
            // By its nature it has nothing else.
            return;
        }
        let observed = self.observed;
        let observed = |signal: u32| observed[signal as usize];
        let live = counts.live_by_state();
        if observed(SIGNAL_STATE) {
            self.states(labels, counts, &live);
            self.histogram(Family::ConnectionAge, labels, &AGE_BOUNDS, &counts.age);
            self.histogram(
                Family::CloseWaitSeconds,
                labels,
                &CLOSE_WAIT_BOUNDS,
                &counts.close_wait,
            );
        }
        if observed(SIGNAL_CONNECT) {
            let index = &self.tables.connects;
            self.indexed(Family::Connects, labels, "result", index, &counts.connects);
            self.histogram(
                Family::ConnectSeconds,
                labels,
                &CONNECT_BOUNDS,
                &counts.connect,
            );
        }
        if observed(SIGNAL_ACCEPT) {
            self.one(Family::Accepts, labels, counts.accepts);
        }
        if observed(SIGNAL_TIME_WAIT) {
            self.one(Family::TimeWait, labels, view.time_wait);
            self.time_wait_entered(labels, &counts.time_wait_entered);
        }
        if let Some(ended) = view.time_wait_ended {
            self.one(Family::TimeWaitEnded, labels, ended);
            self.one(
                Family::TimeWaitOverflows,
                labels,
                counts.time_wait_overflows,
            );
        }
        if observed(SIGNAL_PORTS) {
            for (call, &count) in PORT_SEARCHES.into_iter().zip(&counts.ports_exhausted) {
                if count != 0 {
                    let extra = [("call", call)];
                    self.sink
                        .sample(Family::PortsExhausted, Some(labels), &extra, count.into());
                }
            }
        }
        if observed(SIGNAL_SETSOCKOPT) {
            self.failures(labels, view.failures);
        }
        if observed(SIGNAL_FD) {
            let index = &self.tables.fd_errnos;
            self.indexed(
                Family::FdExhausted,
                labels,
                "errno",
                index,
                &counts.fd_exhausted,
            );
        }
        if observed(SIGNAL_RETRANSMIT) {
            self.one(Family::Retransmits, labels, counts.retransmits);
        }
        if observed(SIGNAL_STATE) && view.kind != Kind::Exited {
            self.one(Family::OpenSockets, labels, open_sockets(&live));
        }
        if let Kind::Process { resources, .. } = view.kind {
            self.resources(labels, resources);
        }
    }

    fn one(&mut self, family: Family, labels: &Labels, value: impl Into<Number>) {
        self.sink.sample(family, Some(labels), &[], value.into());
    }

    fn time_wait_entered(&mut self, labels: &Labels, entered: &[u64]) {
        for (substate, &count) in TIME_WAIT_SUBSTATES.into_iter().zip(entered) {
            if count != 0
                && let Some(name) = state_name(substate)
            {
                let extra = [("substate", name)];
                self.sink
                    .sample(Family::TimeWaitEntered, Some(labels), &extra, count.into());
            }
        }
    }

    fn states(&mut self, labels: &Labels, counts: &Slot, live: &[i64; STATES]) {
        let mut entered = [0; STATES];
        for row in &counts.transitions {
            for (entered, count) in entered.iter_mut().zip(row) {
                *entered |= count;
            }
        }
        for state in 1..STATES as u8 {
            let Some(name) = state_name(state) else {
                continue;
            };
            // A socket in CLOSE is not alive, and TIME_WAIT has a metric of its own.
            let shown = state != CLOSE && state != TIME_WAIT;
            let column = usize::from(state);
            let touched = counts.adjust[column] != 0 || entered[column] != 0;
            if shown && touched {
                self.sink.sample(
                    Family::Connections,
                    Some(labels),
                    &[("state", name)],
                    clamp(live[column]).into(),
                );
            }
            for (to, &count) in (0_u8..).zip(&counts.transitions[column]) {
                if count != 0
                    && let Some(to) = state_name(to)
                {
                    self.sink.sample(
                        Family::Transitions,
                        Some(labels),
                        &[("from", name), ("to", to)],
                        count.into(),
                    );
                }
            }
        }
    }

    fn resets(&mut self, labels: &Labels, direction: &str, counts: &[u64]) {
        let index = if direction == "sent" {
            &self.tables.resets_sent
        } else {
            &self.tables.resets_received
        };
        index.nonzero(counts, |reason, count| {
            self.sink.sample(
                Family::Resets,
                Some(labels),
                &[("direction", direction), ("reason", reason)],
                count.into(),
            );
        });
    }

    fn indexed(
        &mut self,
        family: Family,
        labels: &Labels,
        name: &'static str,
        index: &Index,
        counts: &[u64],
    ) {
        index.nonzero(counts, |value, count| {
            self.sink
                .sample(family, Some(labels), &[(name, value)], count.into());
        });
    }

    fn failures(&mut self, labels: &Labels, failures: &Failures) {
        // Two kinds may have the same names, for instance two types of unknown sockets.
        let mut by_name: BTreeMap<[String; 5], u64> = BTreeMap::new();
        for (kind, count) in failures {
            let named = if *kind == Failure::REST {
                std::array::from_fn(|_| "other".to_owned())
            } else {
                [
                    self.names.family(kind.family),
                    self.names
                        .protocol(kind.family, kind.protocol, kind.socket_type),
                    self.names.level(kind.level),
                    self.names.option(kind.level, kind.option),
                    self.names.errno(kind.errno),
                ]
            };
            *by_name.entry(named).or_default() += count;
        }
        for ([family, protocol, level, option, errno], count) in &by_name {
            let extra = [
                ("family", family.as_str()),
                ("protocol", protocol),
                ("level", level),
                ("option", option),
                ("errno", errno),
            ];
            self.sink.sample(
                Family::SetsockoptFailures,
                Some(labels),
                &extra,
                (*count).into(),
            );
        }
    }

    fn resources(&mut self, labels: &Labels, resources: Resources) {
        let Resources {
            open_fds,
            max_fds,
            fd_high_water,
        } = resources;
        for (family, value) in [
            (Family::OpenFds, open_fds),
            (Family::MaxFds, max_fds),
            (Family::FdHighWater, fd_high_water),
        ] {
            if let Some(value) = value {
                self.one(family, labels, value);
            }
        }
    }

    fn histogram(
        &mut self,
        family: Family,
        labels: &Labels,
        bounds: &'static [u64; BUCKETS - 1],
        histogram: &Histogram,
    ) {
        if histogram.buckets.iter().any(|&count| count != 0) {
            self.sink.histogram(family, labels, bounds, histogram);
        }
    }
}

fn clamp(value: i64) -> u64 {
    // Two CPUs may be seen out of order, so a gauge may be below zero for a moment.
    value.max(0) as u64
}

/// Sockets in any state but CLOSE and TIME_WAIT. Not `Slot::sockets`, which goes on counting
/// a socket that was handed to another process until its next transition.
pub(super) fn open_sockets(live: &[i64; STATES]) -> u64 {
    (1..STATES)
        .filter(|state| ![usize::from(CLOSE), usize::from(TIME_WAIT)].contains(state))
        .map(|state| clamp(live[state]))
        .sum()
}
