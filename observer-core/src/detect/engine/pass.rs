//! One pass of a detector over the parts of a sample that it is about, by the rules that all findings follow.

use std::{collections::HashSet, time::Duration};

use super::{
    super::{
        board::Board,
        detector::{Assessment, At, Detector, Settled, seconds},
        finding::{Change, Finding},
        flag::Step,
        host::Host,
        sample::Sample,
    },
    part::Part,
    watches::{Rows, WalkTime, Watches},
};
use crate::table::Labels;

/// A subject that is not in the samples for this time is forgotten. A finding of it is over.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// One pass over the parts of one kind.
pub(super) struct Pass<'a> {
    pub(super) at: At<'a>,
    pub(super) board: &'a mut Board,
    pub(super) host: &'a Host,
    pub(super) sample: &'a Sample,
    pub(super) walk_time: &'a WalkTime,
    /// Names with listeners whose accept queues overflow.
    pub(super) overflowing: &'a HashSet<(&'a str, &'a str)>,
}

impl Pass<'_> {
    /// `rows` are those of `parts`; `begin` makes the detector of a new subject; `is_explained` says whether another
    /// finding explains it.
    pub(super) fn run_with<D: Detector<Sample: Part>>(
        &mut self,
        watches: &mut Watches<D>,
        rows: &mut Rows,
        parts: &[D::Sample],
        begin: impl Fn(&D::Sample) -> D,
        is_explained: impl Fn(&D, &D::Sample, &Board) -> bool,
    ) {
        let hold = D::hold(self.at.thresholds);
        let mut loud = Vec::new();
        let (mut suspected, mut wants_walks) = (false, false);
        for (index, part) in parts.iter().enumerate() {
            if watches.skip(index, rows) {
                continue;
            }
            let row = rows.of_part(index);
            self.at.idle_until = watches.take_skipped(row, rows);
            let watch = watches.get_or_begin(row, rows, || begin(part));
            self.at.raised = watch.flag.raised().is_some() || watch.is_hidden(self.at.now);
            let mut assessment = watch.detector.assess(part, &self.at);
            let since = watch.over_since.unwrap_or(self.at.now);
            watch.over_since = assessment.raise.map(|_| since);
            if D::Sample::IS_LATE && since == self.at.now {
                assessment.raise = None;
            }
            watch.score = assessment.score;
            let mut is_calm = !self.at.raised && assessment.calm && !watch.is_suspected();
            suspected |= watch.is_suspected();
            let is_wanted = watch.detector.wants_walk(part, self.at.thresholds);
            if let Some(is_wanted) = is_wanted {
                let wants = watch.wants_walks(self.at.now, is_wanted, self.walk_time);
                is_calm &= !wants && !is_wanted;
                wants_walks |= wants;
            }
            let settled = match is_calm {
                true => watch.detector.settled(),
                false => Settled::No,
            };
            if self.at.raised || assessment.raise.is_some() {
                loud.push((watch.detector.comes_last(part), row, part, assessment));
            }
            watches.settle(row, settled);
        }
        loud.sort_by_key(|(last, ..)| *last);
        (watches.any_suspected, watches.any_wants_walks) = (suspected, wants_walks);
        for (_, row, part, assessment) in loud {
            let Some(watch) = watches.get_mut(row) else {
                continue;
            };
            let subject = part.subject();
            if is_explained(&watch.detector, part, self.board) {
                watch.hidden_until = seconds(self.at.thresholds.hidden_seconds)
                    .map(|hidden| self.at.now.saturating_add(hidden));
                if watch.flag.hide() {
                    self.board.clear(D::ANOMALY, &subject, self.at.now);
                }
                continue;
            }
            let hidden = watch.is_hidden(self.at.now);
            let mut raised = watch.flag.raised().is_some();
            if raised && self.board.raised(D::ANOMALY, &subject).is_none() {
                // A critical finding has taken its place.
                watch.flag.hide();
                raised = false;
            }
            if !raised {
                let labels = part.labels(None);
                let (labels, now) = (labels.as_deref(), self.at.now);
                let severity = assessment.raise.filter(|_| !hidden);
                let has_room = |it| self.board.admits(D::ANOMALY, &subject, labels, it, now);
                if !severity.is_some_and(has_room) {
                    continue;
                }
            }
            let step = watch.flag.step(&assessment, hold, &self.at);
            if step == Step::Clear {
                self.board.clear(D::ANOMALY, &subject, self.at.now);
            }
            let Some((since, severity)) = watch.flag.raised() else {
                continue;
            };
            let raised = self.board.raised(D::ANOMALY, &subject);
            if assessment.calm
                && let Some(raised) = raised
            {
                // What it sees now is not what it was raised for.
                let held = Finding {
                    severity,
                    score: assessment.score,
                    time_left: assessment.time_left,
                    ..raised.clone()
                };
                self.board.put(held);
                continue;
            }
            let (evidence, mut causes) = watch.detector.evidence(part);
            let labels = part.labels(raised.and_then(|it| it.labels.as_ref()));
            let netns = raised.and_then(|it| it.netns);
            let netns = netns.or_else(|| self.host.netns(&subject, self.sample));
            let name = labels.as_deref().map(Labels::name_key);
            let overflows = name.is_some_and(|it| self.overflowing.contains(&it));
            self.host.advise(&mut causes, netns, overflows);
            let step = watch
                .flag
                .explain(step, causes.first().map(|it| it.cause), &self.at);
            let finding = Finding {
                anomaly: D::ANOMALY,
                subject,
                labels,
                netns,
                severity,
                score: assessment.score,
                time_left: assessment.time_left,
                since,
                evidence,
                causes,
            };
            let now = self.at.now;
            match step {
                Step::Raise => self.board.report(now, Change::Raised(finding.clone())),
                Step::Update => self.board.report(now, Change::Updated(finding.clone())),
                Step::Rest | Step::Keep | Step::Clear => {}
            }
            self.board.put(finding);
        }
        self.forget(watches, rows, hold);
    }

    /// The same with detectors that begin with nothing.
    pub(super) fn run<D: Detector<Sample: Part>>(
        &mut self,
        watches: &mut Watches<D>,
        rows: &mut Rows,
        parts: &[D::Sample],
        is_explained: impl Fn(&D, &D::Sample, &Board) -> bool,
    ) {
        let thresholds = self.at.thresholds;
        self.run_with(watches, rows, parts, |_| D::new(thresholds), is_explained);
    }

    /// The same for findings that no other explains.
    pub(super) fn run_alone<D: Detector<Sample: Part>>(
        &mut self,
        watches: &mut Watches<D>,
        rows: &mut Rows,
        parts: &[D::Sample],
    ) {
        self.run(watches, rows, parts, |_, _, _| false);
    }

    /// Subjects that no longer exist count as below the threshold.
    fn forget<D: Detector>(&mut self, watches: &mut Watches<D>, rows: &mut Rows, hold: f64) {
        watches.retain_gone(rows, |subject, seen, watch| {
            let gone = Assessment {
                calm: true,
                ..Assessment::default()
            };
            if watch.flag.step(&gone, hold, &self.at) == Step::Clear {
                self.board.clear(D::ANOMALY, subject, self.at.now);
            }
            let forgotten = self.at.now.saturating_sub(seen) >= FORGOTTEN;
            watch.flag.raised().is_some() || !forgotten
        });
    }
}
