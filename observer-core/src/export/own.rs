//! The metrics about the observer: completeness, hooks, maps, cost, and its own process.

use std::collections::BTreeMap;

use observer_common::{RECORD_NAMES, SIGNAL_NAMES};

use super::{
    family::Family,
    sink::{Extra, Number, Sink, seconds},
};
use crate::{
    contract::{KernelSource, Status, summaries},
    process::own::OwnProcess,
    table::ProcessCounts,
};

/// Which build is running.
#[derive(Clone, Debug)]
pub struct BuildInfo {
    /// Version of the crate.
    pub version: String,
    /// Commit it was built from.
    pub revision: String,
}

pub(super) struct Own<'a> {
    pub sink: &'a mut dyn Sink,
}

impl Own<'_> {
    fn put(&mut self, family: Family, extra: Extra<'_>, value: impl Into<Number>) {
        self.sink.sample(family, None, extra, value.into());
    }

    pub fn kernel(&mut self, source: &dyn KernelSource) {
        let stats = source.stats();
        for ((signal, name), outcomes) in (0..).zip(SIGNAL_NAMES).zip(&stats.outcomes) {
            if !source.observes(signal) {
                continue;
            }
            let extra = [("signal", name), ("method", "exact")];
            self.put(Family::SignalInfo, &extra, 1);
            self.put(Family::EventsSeen, &[("signal", name)], outcomes.seen);
            for (outcome, count) in [
                ("counted", outcomes.counted),
                ("unattributed", outcomes.unattributed),
                ("lost", outcomes.lost),
            ] {
                let extra = [("signal", name), ("outcome", outcome)];
                self.put(Family::Events, &extra, count);
            }
        }
        for (signal, method) in source.polled() {
            let extra = [("signal", signal), ("method", method)];
            self.put(Family::SignalInfo, &extra, 1);
        }
        for ((kind, written), lost) in RECORD_NAMES
            .into_iter()
            .zip(stats.records)
            .zip(stats.records_lost)
        {
            self.put(Family::Records, &[("kind", kind)], written);
            self.put(Family::RecordsLost, &[("kind", kind)], lost);
        }
        for fill in source.maps() {
            let extra = [("map", fill.map)];
            self.put(Family::MapEntries, &extra, fill.entries);
            self.put(Family::MapCapacity, &extra, fill.capacity);
            self.put(Family::MapFull, &extra, fill.refused);
        }
        for runs in source.programs() {
            let extra = [("program", runs.program)];
            self.put(Family::RunSeconds, &extra, seconds(runs.run_time_ns));
            self.put(Family::Runs, &extra, runs.runs);
        }
        for (program, missed) in source.missed_runs() {
            self.put(Family::MissedRuns, &[("program", program)], missed);
        }
        // Several programs of a signal may be on the same hook.
        let mut hooks: BTreeMap<_, bool> = BTreeMap::new();
        for verdict in source.verdicts() {
            let hook = (verdict.signal, verdict.attach_type.name(), verdict.hook);
            *hooks.entry(hook).or_default() |= verdict.status == Status::Attached;
        }
        for ((signal, attach_type, hook), attached) in hooks {
            let extra = [
                ("signal", signal),
                ("attach_type", attach_type),
                ("hook", hook),
            ];
            self.put(Family::HookAttached, &extra, u64::from(attached));
        }
        for summary in summaries(source.verdicts()) {
            if let Some(reason) = summary.missing() {
                let extra = [("signal", summary.signal), ("reason", reason.name())];
                self.put(Family::SignalMissing, &extra, 1);
            }
        }
    }

    pub fn table(&mut self, processes: ProcessCounts) {
        let ProcessCounts {
            shown,
            hidden,
            exited,
            names,
            names_evicted,
        } = processes;
        for (state, count) in [("shown", shown), ("hidden", hidden), ("exited", exited)] {
            self.put(Family::Processes, &[("state", state)], count);
        }
        self.put(Family::NamesKept, &[], names);
        self.put(Family::NamesEvicted, &[], names_evicted);
    }

    pub fn build(&mut self, build: &BuildInfo) {
        let extra = [
            ("version", build.version.as_str()),
            ("revision", build.revision.as_str()),
        ];
        self.put(Family::BuildInfo, &extra, 1);
    }

    /// The usual `process_` metrics, without those that could not be read.
    pub fn process(&mut self, own: &OwnProcess) {
        let &OwnProcess {
            cpu_seconds,
            virtual_memory,
            resident_memory,
            threads,
            start_seconds,
            open_fds,
            max_fds,
        } = own;
        let max_fds = max_fds.map(|limit| match limit {
            u64::MAX => Number::Float(f64::INFINITY),
            limit => limit.into(),
        });
        for (family, value) in [
            (Family::ProcessCpu, cpu_seconds.map(Number::from)),
            (
                Family::ProcessVirtualMemory,
                virtual_memory.map(Number::from),
            ),
            (
                Family::ProcessResidentMemory,
                resident_memory.map(Number::from),
            ),
            (Family::ProcessThreads, threads.map(Number::from)),
            (Family::ProcessStartTime, start_seconds.map(Number::from)),
            (Family::ProcessOpenFds, open_fds.map(Number::from)),
            (Family::ProcessMaxFds, max_fds),
        ] {
            if let Some(value) = value {
                self.put(family, &[], value);
            }
        }
    }
}
