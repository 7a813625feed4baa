//! Plays series, and judges what was raised.

use std::{iter, sync::Arc, time::Duration};

use observer_common::ProcessKey;

use super::draw::Draw;
use crate::{
    detect::{Anomaly, Change, Counts, Engine, Finding, Name, Process, Sample, Thresholds},
    table::Labels,
};

/// CLOCK_MONOTONIC at second 0 of a series.
const START: u64 = 10_000;

/// CLOCK_MONOTONIC at a second of a series; -1 is the sample before it.
pub fn clock(second: i64) -> Duration {
    Duration::from_secs(START.saturating_add_signed(second))
}

/// A series of one scenario.
pub struct Series {
    /// The first second at which something is wrong.
    pub onset: u64,
    /// The first at which a call fails.
    pub error: Option<u64>,
    /// One for each second, after the one before the first. Without time.
    pub samples: Box<dyn Iterator<Item = Sample>>,
}

impl Series {
    pub fn new(onset: u64, samples: impl Iterator<Item = Sample> + 'static) -> Self {
        Self {
            onset,
            error: None,
            samples: Box::new(samples),
        }
    }

    /// Of one process, with its totals at each second after the first.
    pub fn of_process(onset: u64, totals: impl Iterator<Item = Counts> + 'static) -> Self {
        let totals = iter::once(Counts::default()).chain(totals);
        let sample = |counts| Sample {
            processes: vec![process(counts)],
            ..Sample::default()
        };
        Self::new(onset, totals.map(sample))
    }

    /// Nothing is wrong in it.
    pub fn benign(samples: impl Iterator<Item = Sample> + 'static) -> Self {
        Self::new(0, samples)
    }
}

/// Draws a series.
pub type Scenario = fn(&mut Draw) -> Series;

/// A scenario in which something is wrong.
pub struct Bad {
    pub name: &'static str,
    pub anomaly: Anomaly,
    pub draws: u64,
    /// Seconds from the onset until it is raised, at the median and in 95 of 100 draws.
    pub median: u64,
    pub most: u64,
    /// The part of the draws in which it must be raised before the first error.
    pub in_time: f64,
    pub series: Scenario,
}

/// What changed, and when.
pub fn changes(series: Series) -> impl Iterator<Item = (u64, Change)> {
    let mut engine = Engine::new(Thresholds::default());
    let samples = (-1..).zip(series.samples);
    samples.flat_map(move |(second, mut sample)| {
        sample.now = clock(second);
        let changes = engine.step(&sample).into_iter();
        changes.map(move |change| (second.max(0) as u64, change))
    })
}

/// What was raised, and when.
pub fn raises(series: Series) -> impl Iterator<Item = (u64, Finding)> {
    changes(series).filter_map(|(second, change)| match change {
        Change::Raised(finding) => Some((second, finding)),
        Change::Updated(_) | Change::Cleared(_) | Change::Unlisted(_) => None,
    })
}

/// Each is raised, soon enough, and not before the onset.
pub fn are_raised(scenarios: &[Bad]) {
    for bad in scenarios {
        let mut delays = Vec::new();
        let (mut errors, mut in_time) = (0, 0);
        for (draw, mut random) in Draw::all_of(bad.name, bad.draws).enumerate() {
            let series = (bad.series)(&mut random);
            let (onset, error) = (series.onset, series.error);
            let raised = raises(series).find(|(_, it)| it.anomaly == bad.anomaly);
            let Some((second, _)) = raised else {
                panic!("{}: draw {draw} was not raised", bad.name);
            };
            assert!(
                second >= onset,
                "{}: draw {draw} at {second}, onset {onset}",
                bad.name
            );
            delays.push(second - onset);
            errors += u64::from(error.is_some());
            in_time += u64::from(error.is_some_and(|error| second < error));
        }
        delays.sort_unstable();
        let (median, most) = (delays[delays.len() / 2], delays[delays.len() * 95 / 100]);
        println!(
            "{}: median {median} s, 95 % {most} s, in time {in_time}/{errors}",
            bad.name
        );
        assert!(
            median <= bad.median && most <= bad.most,
            "{}: {median} s, {most} s",
            bad.name
        );
        let enough = bad.in_time * errors as f64 <= in_time as f64;
        assert!(enough, "{}: {in_time} of {errors} in time", bad.name);
    }
}

/// Nothing is raised.
pub fn are_silent(scenarios: &[(&str, u64, Scenario)]) {
    for (name, draws, series) in scenarios {
        for (draw, mut random) in Draw::all_of(name, *draws).enumerate() {
            let series = series(&mut random);
            let raised = raises(series).next();
            assert_eq!(raised, None, "{name}: draw {draw}");
        }
    }
}

/// A sample of one process.
pub fn process(counts: Counts) -> Process {
    let key = ProcessKey {
        start_boottime_ns: 1,
        tgid: 1,
        reserved: 0,
    };
    Process {
        counts,
        ..Process::new(key, Arc::new(Labels::process(1, "p", "u")))
    }
}

/// A sample of one name, whose processes live too short to be seen.
pub fn name(counts: Counts) -> Name {
    Name {
        counts,
        ..Name::new(Arc::new(Labels::name("p", "u")))
    }
}
