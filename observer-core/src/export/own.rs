//! The metrics about the observer: completeness, hooks, maps, cost, and its own process.

use std::{collections::BTreeMap, sync::OnceLock};

use observer_common::{RECORD_NAMES, SIGNAL_NAMES, SIGNAL_TIME_WAIT};
use procfs::{WithCurrentSystemInfo, process::Process};

use super::{
    family::Family,
    sink::{Extra, Number, Sink, seconds},
};
use crate::{
    contract::{KernelSource, Status},
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
            let inferred = signal == SIGNAL_TIME_WAIT && source.account(0).is_none();
            let method = if inferred { "inferred" } else { "exact" };
            self.put(
                Family::SignalInfo,
                &[("signal", name), ("method", method)],
                1,
            );
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
    }

    pub fn table(&mut self, processes: ProcessCounts, drift: Option<i64>) {
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
        if let Some(drift) = drift {
            self.put(Family::TimeWaitDrift, &[], drift as f64);
        }
    }

    pub fn build(&mut self, build: &BuildInfo) {
        let extra = [
            ("version", build.version.as_str()),
            ("revision", build.revision.as_str()),
        ];
        self.put(Family::BuildInfo, &extra, 1);
    }

    /// The usual `process_` metrics. What cannot be read is left out: a daemon that dropped
    /// its privileges may be denied parts of its own /proc directory.
    pub fn process(&mut self) {
        let Ok(process) = Process::myself() else {
            return;
        };
        if let Ok(stat) = process.stat() {
            let hertz = procfs::ticks_per_second() as f64;
            self.put(
                Family::ProcessCpu,
                &[],
                (stat.utime + stat.stime) as f64 / hertz,
            );
            self.put(Family::ProcessVirtualMemory, &[], stat.vsize);
            self.put(Family::ProcessResidentMemory, &[], stat.rss_bytes().get());
            self.put(Family::ProcessThreads, &[], stat.num_threads as f64);
            if let Ok(boot) = procfs::boot_time_secs() {
                // Computed once, because the kernel's boot time changes when the clock is set.
                static START: OnceLock<f64> = OnceLock::new();
                let start = START.get_or_init(|| boot as f64 + stat.starttime as f64 / hertz);
                self.put(Family::ProcessStartTime, &[], *start);
            }
        }
        if let Ok(count) = process.fd_count() {
            self.put(Family::ProcessOpenFds, &[], count as u64);
        }
        if let Ok(limits) = process.limits() {
            let limit = match limits.max_open_files.soft_limit {
                procfs::process::LimitValue::Unlimited => Number::Float(f64::INFINITY),
                procfs::process::LimitValue::Value(limit) => Number::Integer(limit),
            };
            self.put(Family::ProcessMaxFds, &[], limit);
        }
    }
}
