//! The metrics of findings.

use std::collections::BTreeMap;

use super::{family::Family, sink::Sink};
use crate::{
    detect::{Anomaly, Board, Limit},
    table::Labels,
};

/// The sample of all findings with the same labels.
#[derive(Default)]
struct Worst {
    level: u8,
    score: Option<f64>,
    time_left: Option<f64>,
}

/// Writes the findings, how often they were raised, and of how many there was no room.
pub(super) fn write(sink: &mut dyn Sink, board: &Board) {
    let mut shown: BTreeMap<(Anomaly, Option<&Labels>), Worst> = BTreeMap::new();
    for entry in board.entries() {
        let finding = &entry.finding;
        let key = (finding.anomaly, finding.labels.as_deref());
        let worst = shown.entry(key).or_default();
        worst.level = worst.level.max(entry.level());
        if entry.cleared_at.is_some() {
            continue;
        }
        worst.score = Some(
            worst
                .score
                .map_or(finding.score, |it| it.max(finding.score)),
        );
        if let Some(left) = finding.time_left {
            let left = left.as_secs_f64();
            worst.time_left = Some(worst.time_left.map_or(left, |it| it.min(left)));
        }
    }
    for ((anomaly, labels), worst) in shown {
        let extra = [("anomaly", anomaly.name())];
        let level = u64::from(worst.level);
        sink.sample(Family::Anomaly, labels, &extra, level.into());
        for (family, value) in [
            (Family::AnomalyScore, worst.score),
            (Family::AnomalyTimeLeft, worst.time_left),
        ] {
            if let Some(value) = value {
                sink.sample(family, labels, &extra, value.into());
            }
        }
    }
    for (anomaly, name, raises) in board.totals() {
        let extra = [("anomaly", anomaly.name())];
        sink.sample(Family::Anomalies, name, &extra, raises.into());
    }
    for limit in Limit::ALL {
        let of = board.unlisted().filter(|it| it.limit == limit);
        let count = of.map(|it| it.count as u64).sum::<u64>();
        sink.sample(
            Family::FindingsUnlisted,
            None,
            &[("limit", limit.name())],
            count.into(),
        );
    }
}
