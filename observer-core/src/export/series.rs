//! The metrics of a name and of a process, from the counters of slots.
//!
//! Series without events: counters without additional labels are present from the start, so that
//! `rate()` sees their first increase; those with labels (a transition, an errno, an RST reason)
//! appear with their first event. A gauge of a name is shown as 0 while a process of the name runs,
//! and ends with the last one. A histogram appears with its first observation, because an empty one
//! takes thirteen lines. A process shows no gauges that are 0, except its descriptors.

use std::{borrow::Cow, collections::BTreeMap};

use observer_common::{
    CLOSE, SIGNAL_RESET_SENT, SIGNAL_SETSOCKOPT, SIGNAL_STATE, SIGNAL_TIME_WAIT, SIGNALS, STATES,
    Slot, TIME_WAIT, state_name,
};

use super::{
    counters::Counters,
    family::Family,
    names::Index,
    sink::{Number, Sink},
};
use crate::{
    names::{errno_name, family_name, level_name, option_name, protocol_name},
    process::Unit,
    table::{Failure, Failures, Kind, Labels, Resources, SeriesView},
};

/// The metrics with a series per process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessMetrics {
    /// Gauges and counters
    #[default]
    All,
    /// Sockets, ports and descriptors in use
    Gauges,
    /// None: everything is by name
    None,
}

/// Writes the metrics of names and processes.
pub(super) struct Writer<'a> {
    pub sink: &'a mut dyn Sink,
    pub counters: &'a Counters,
    /// Names of [`ResetCounters::sent`](observer_common::ResetCounters).
    pub reset_reasons: &'a Index,
    /// By signal. A signal that is not observed is absent, rather than 0.
    pub observed: [bool; SIGNALS],
    pub process_metrics: ProcessMetrics,
}

impl Writer<'_> {
    pub fn write(&mut self, view: &SeriesView<'_>) {
        match (view.kind, self.process_metrics) {
            (Kind::Name { alive }, _) => self.name(view, alive),
            (Kind::Process { shown: false, .. }, _)
            | (Kind::Process { .. }, ProcessMetrics::None) => {}
            (Kind::Process { resources, .. }, metrics) => {
                self.process_gauges(view, resources);
                if metrics == ProcessMetrics::All {
                    let counts = view.counts.counters();
                    self.counters
                        .process(self.sink, &self.observed, view.labels, counts);
                    if self.observes(SIGNAL_SETSOCKOPT) {
                        let family = Family::ProcessSetsockoptFailures;
                        self.failures(family, view.labels, view.failures);
                    }
                }
            }
        }
    }

    /// RSTs sent in reply to segments that match no socket.
    pub fn stray_resets(&mut self, counts: &Slot) {
        if self.observes(SIGNAL_RESET_SENT) {
            let Self {
                reset_reasons,
                sink,
                ..
            } = self;
            reset_reasons.nonzero(&counts.reset.sent, |reason, count| {
                let extra = [("reason", reason)];
                sink.sample(Family::StrayResets, None, &extra, count.into());
            });
        }
    }

    /// Describes each value of the label `unit`.
    pub fn units(&mut self, units: &BTreeMap<&str, &Unit>) {
        for (name, unit) in units {
            let extra = [
                ("unit", *name),
                ("kind", unit.kind.label()),
                ("container_id", unit.container_id.as_str()),
                ("pod_uid", unit.pod_uid.as_str()),
            ];
            self.sink.sample(Family::UnitInfo, None, &extra, 1.into());
        }
    }

    fn observes(&self, signal: u32) -> bool {
        self.observed[signal as usize]
    }

    fn name(&mut self, view: &SeriesView<'_>, alive: bool) {
        let labels = view.labels;
        let counts = view.counts.counters();
        self.counters
            .name(self.sink, &self.observed, labels, counts);
        if self.observes(SIGNAL_STATE) {
            self.states(labels, view.counts, alive);
        }
        if self.observes(SIGNAL_TIME_WAIT) && (alive || view.time_wait > 0) {
            self.one(Family::TimeWait, labels, view.time_wait);
        }
        if let Some(ended) = view.time_wait_ended {
            self.one(Family::TimeWaitEnded, labels, ended);
        }
        if self.observes(SIGNAL_SETSOCKOPT) {
            self.failures(Family::SetsockoptFailures, labels, view.failures);
        }
    }

    fn process_gauges(&mut self, view: &SeriesView<'_>, resources: Resources) {
        let labels = view.labels;
        if self.observes(SIGNAL_STATE) {
            let live = view.counts.live_by_state();
            for (state, name) in live_states() {
                let live = clamp(live[usize::from(state)]);
                if live > 0 {
                    let extra = [("state", name)];
                    let family = Family::ProcessConnections;
                    self.sink.sample(family, Some(labels), &extra, live.into());
                }
            }
            self.one(Family::OpenSockets, labels, open_sockets(&live));
        }
        if self.observes(SIGNAL_TIME_WAIT) && view.time_wait > 0 {
            self.one(Family::ProcessTimeWait, labels, view.time_wait);
        }
        let Resources {
            open_fds,
            max_fds,
            hard_max_fds: _,
            fd_high_water,
            measured_at: _,
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

    fn one(&mut self, family: Family, labels: &Labels, value: impl Into<Number>) {
        self.sink.sample(family, Some(labels), &[], value.into());
    }

    fn states(&mut self, labels: &Labels, counts: &Slot, alive: bool) {
        let live = counts.live_by_state();
        let mut entered = [0; STATES];
        for row in &counts.state.transitions {
            for (entered, count) in entered.iter_mut().zip(row) {
                *entered |= count;
            }
        }
        for (state, name) in live_states() {
            let column = usize::from(state);
            let live = clamp(live[column]);
            let touched = counts.state.adjust[column] != 0 || entered[column] != 0;
            if live > 0 || (alive && touched) {
                let extra = [("state", name)];
                let family = Family::Connections;
                self.sink.sample(family, Some(labels), &extra, live.into());
            }
        }
    }

    fn failures(&mut self, family: Family, labels: &Labels, failures: &Failures) {
        // Two kinds may have the same names, for instance two types of unknown sockets.
        let mut by_name: BTreeMap<[Cow<'_, str>; 5], u64> = BTreeMap::new();
        for (kind, count) in failures {
            *by_name.entry(failure_names(kind)).or_default() += count;
        }
        for ([socket_family, protocol, level, option, errno], count) in &by_name {
            let extra = [
                ("family", &**socket_family),
                ("protocol", protocol),
                ("level", level),
                ("option", option),
                ("errno", errno),
            ];
            self.sink
                .sample(family, Some(labels), &extra, (*count).into());
        }
    }
}

/// The states of a live socket, and their names: all but CLOSE and TIME_WAIT, which has a metric of
/// its own.
fn live_states() -> impl Iterator<Item = (u8, &'static str)> {
    let live = (1..STATES as u8).filter(|&state| state != CLOSE && state != TIME_WAIT);
    live.filter_map(|state| Some((state, state_name(state)?)))
}

fn clamp(value: i64) -> u64 {
    // Two CPUs may be seen out of order, so a gauge may be below zero for a moment.
    value.max(0) as u64
}

/// Sockets in any state but CLOSE and TIME_WAIT. Not `Slot::sockets`, which still counts a socket
/// that was handed over to another process until its next transition.
fn open_sockets(live: &[i64; STATES]) -> u64 {
    (1..STATES)
        .filter(|state| ![usize::from(CLOSE), usize::from(TIME_WAIT)].contains(state))
        .map(|state| clamp(live[state]))
        .sum()
}

/// Values of the labels `family`, `protocol`, `level`, `option` and `errno`.
pub(super) fn failure_names(kind: &Failure) -> [Cow<'static, str>; 5] {
    if *kind == Failure::OTHER {
        return [const { Cow::Borrowed("other") }; 5];
    }
    [
        family_name(kind.family),
        protocol_name(kind.family, kind.protocol, kind.socket_type),
        level_name(kind.level),
        option_name(kind.level, kind.option),
        errno_name(kind.errno),
    ]
}
