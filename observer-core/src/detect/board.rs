//! All findings, and what happened to them.

mod raised;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::Duration,
};

use self::raised::Raised;
use super::{
    anomaly::Anomaly,
    finding::{Change, Finding, Severity, Subject},
};
use crate::table::{Labels, OTHER};

/// Maximum number of findings, those included that have been over for less than [`KEPT`].
pub const FINDINGS: usize = 200;
/// Maximum number of scans among them: forged source addresses must not displace all other findings.
const SCANS: usize = 20;
/// Maximum number of raised findings of an anomaly about processes of one name: if a database is down, all workers of a
/// service cannot connect, and a few of them say so.
const OF_NAME: usize = 5;
/// Maximum number of raised findings of an anomaly with the labels of one unit, so that the processes of one user leave room
/// for those of others.
const OF_UNIT: usize = 20;
/// Maximum number of raised findings with the labels of one unit.
const OF_UNIT_IN_ALL: usize = FINDINGS / 2;
/// Number of changes that are kept.
pub const CHANGES: usize = 1_000;
/// Maximum number of totals. Those of further names count for [`OTHER`], of which each anomaly has one.
pub const TOTALS: usize = 500;
/// How long a finding is kept after it has cleared.
pub const KEPT: Duration = Duration::from_secs(3600);

/// A finding, and whether it is over.
#[derive(Clone, Debug)]
pub struct Entry {
    /// As it is, or was last.
    pub finding: Finding,
    /// When it was cleared.
    pub cleared_at: Option<Duration>,
}

impl Entry {
    /// The value of `socket_anomaly`: 0 clear, 1 warning, 2 critical.
    #[must_use]
    pub fn level(&self) -> u8 {
        match self.cleared_at {
            Some(_) => 0,
            None => self.finding.severity as u8,
        }
    }
}

/// Which limit leaves no room for a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// For processes of one name.
    Name,
    /// For one unit.
    Unit,
    /// For all findings.
    All,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Name, Self::Unit, Self::All];

    /// The value of the label `limit`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Unit => "unit",
            Self::All => "all",
        }
    }
}

/// Findings that would be raised if there were room for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlisted {
    /// Which.
    pub anomaly: Anomaly,
    /// Why there is none.
    pub limit: Limit,
    /// Of whom, without pids; `None` of findings without a process.
    pub name: Option<Labels>,
    /// How many.
    pub count: usize,
}

/// Findings by anomaly and subject, and the last changes.
#[derive(Debug, Default)]
pub struct Board {
    entries: HashMap<(Anomaly, Subject), Entry>,
    /// How many of them are raised.
    raised: Raised,
    /// As of the last sample.
    unlisted: BTreeMap<(Anomaly, Limit, Option<Labels>), usize>,
    unlisted_subjects: HashSet<(Anomaly, Subject)>,
    changes: VecDeque<(Duration, Change)>,
    /// Changes since [`Board::begin`].
    new: usize,
    /// Number of raised findings by name; `None` for findings without a process.
    totals: BTreeMap<(Anomaly, Option<Labels>), u64>,
}

impl Board {
    /// Starts a sample: removes findings that cleared long ago.
    pub(super) fn begin(&mut self, now: Duration) {
        self.new = 0;
        self.unlisted.clear();
        self.unlisted_subjects.clear();
        self.entries.retain(|_, entry| {
            let over = entry.cleared_at;
            over.is_none_or(|at| now.saturating_sub(at) < KEPT)
        });
    }

    /// Raised findings and those that were cleared within the last hour, in no order.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The finding, if it is raised.
    #[must_use]
    pub fn raised(&self, anomaly: Anomaly, subject: &Subject) -> Option<&Finding> {
        let entry = self.entries.get(&(anomaly, subject.clone()))?;
        entry.cleared_at.is_none().then_some(&entry.finding)
    }

    /// Whether the finding is raised, or would be if there were room for it: it explains others all the same.
    #[must_use]
    pub fn is_found(&self, anomaly: Anomaly, subject: &Subject) -> bool {
        self.raised(anomaly, subject).is_some()
            || self.unlisted_subjects.contains(&(anomaly, subject.clone()))
    }

    /// All raised findings of an anomaly.
    pub fn all_raised(&self, anomaly: Anomaly) -> impl Iterator<Item = &Finding> {
        let of =
            move |entry: &&Entry| entry.finding.anomaly == anomaly && entry.cleared_at.is_none();
        self.entries.values().filter(of).map(|entry| &entry.finding)
    }

    /// The last changes and when they were (CLOCK_MONOTONIC), oldest first.
    pub fn changes(&self) -> impl DoubleEndedIterator<Item = &(Duration, Change)> {
        self.changes.iter()
    }

    /// How often each anomaly was raised for each name since the start. Findings without a process have none.
    pub fn totals(&self) -> impl Iterator<Item = (Anomaly, Option<&Labels>, u64)> {
        let totals = self.totals.iter();
        totals.map(|((anomaly, name), raises)| (*anomaly, name.as_ref(), *raises))
    }

    /// The changes of the last sample.
    pub(super) fn new_changes(&self) -> Vec<Change> {
        let old = self.changes.len() - self.new.min(self.changes.len());
        self.changes
            .range(old..)
            .map(|(_, change)| change.clone())
            .collect()
    }

    /// Findings of the last sample for which there was no room.
    pub fn unlisted(&self) -> impl Iterator<Item = Unlisted> {
        let all = self.unlisted.iter();
        all.map(|((anomaly, limit, name), count)| Unlisted {
            anomaly: *anomaly,
            limit: *limit,
            name: name.clone(),
            count: *count,
        })
    }

    /// Whether a finding that is not raised, with these labels, can be. Removes the one that cleared first if necessary, and
    /// for a critical one a warning that the same limit counts.
    pub(super) fn admits(
        &mut self,
        anomaly: Anomaly,
        subject: &Subject,
        labels: Option<&Labels>,
        severity: Severity,
        now: Duration,
    ) -> bool {
        let Some(limit) = self.limit(anomaly, subject, labels) else {
            return true;
        };
        if severity == Severity::Critical && self.displace(limit, anomaly, labels, now) {
            return true;
        }
        self.leave_out(limit, (anomaly, subject.clone()), labels);
        false
    }

    /// There is no room for this one in this sample.
    fn leave_out(&mut self, limit: Limit, key: (Anomaly, Subject), labels: Option<&Labels>) {
        let anomaly = key.0;
        if self.unlisted_subjects.insert(key) {
            let name = labels.map(|it| Labels::name(it.comm(), it.unit()));
            *self.unlisted.entry((anomaly, limit, name)).or_default() += 1;
        }
    }

    fn limit(
        &mut self,
        anomaly: Anomaly,
        subject: &Subject,
        labels: Option<&Labels>,
    ) -> Option<Limit> {
        if let Some(labels) = labels {
            let is_process = matches!(subject, Subject::Process(_));
            if is_process && self.raised.of_name(anomaly, labels).all >= OF_NAME {
                return Some(Limit::Name);
            }
            let unit = labels.unit_group();
            let is_full = self.raised.of_anomaly(anomaly, unit).all >= OF_UNIT
                || self.raised.of_unit(unit).all >= OF_UNIT_IN_ALL;
            if !unit.is_empty() && is_full {
                return Some(Limit::Unit);
            }
        }
        let key = (anomaly, subject.clone());
        if self.entries.contains_key(&key) {
            return None;
        }
        if anomaly == Anomaly::SynScan {
            let scans = self.entries.keys().filter(|(other, _)| *other == anomaly);
            if scans.count() >= SCANS && !self.remove_oldest(|it| it.finding.anomaly == anomaly) {
                return Some(Limit::All);
            }
        }
        let has_room = self.entries.len() < FINDINGS || self.remove_oldest(|_| true);
        (!has_room).then_some(Limit::All)
    }

    /// Removes the warning with the lowest score of those that this limit counts. It is still there, but not listed.
    fn displace(
        &mut self,
        limit: Limit,
        anomaly: Anomaly,
        labels: Option<&Labels>,
        now: Duration,
    ) -> bool {
        // Not of those without labels.
        let unit = labels.map_or("", Labels::unit_group);
        let of_name = |it: &Labels| self.raised.of_name(anomaly, it).warnings;
        let of_anomaly = self.raised.of_anomaly(anomaly, unit);
        // As in `limit`: of the two limits of a unit, that of an anomaly comes first.
        let (is_of_anomaly, warnings) = match limit {
            Limit::Name => (true, labels.map_or(0, of_name)),
            Limit::Unit if of_anomaly.all >= OF_UNIT => (true, of_anomaly.warnings),
            Limit::Unit => (false, self.raised.of_unit(unit).warnings),
            Limit::All => (anomaly == Anomaly::SynScan, self.raised.in_all().warnings),
        };
        if warnings == 0 {
            return false;
        }
        let is_counted = |it: &Finding| {
            let is_of_unit = |it: &Labels| it.unit_group() == unit;
            let is_of_name = |it: &Labels| Some(it.comm()) == labels.map(Labels::comm);
            let other = it.labels.as_deref();
            let is_of_limit = match limit {
                Limit::Name => {
                    matches!(it.subject, Subject::Process(_))
                        && other.is_some_and(|it| is_of_unit(it) && is_of_name(it))
                }
                Limit::Unit => other.is_some_and(is_of_unit),
                Limit::All => true,
            };
            is_of_limit && (!is_of_anomaly || it.anomaly == anomaly)
        };
        let warnings = self.entries.iter().filter(|(_, it)| {
            it.cleared_at.is_none()
                && it.finding.severity == Severity::Warning
                && is_counted(&it.finding)
        });
        let least = warnings.min_by(|(_, a), (_, b)| {
            let (a, b) = (&a.finding, &b.finding);
            // The newer one of equals.
            a.score.total_cmp(&b.score).then(b.since.cmp(&a.since))
        });
        let Some((key, _)) = least else {
            return false;
        };
        let key = key.clone();
        if let Some(Entry { finding, .. }) = self.entries.remove(&key) {
            self.raised.remove(&finding);
            self.leave_out(limit, key, finding.labels.as_deref());
            self.report(now, Change::Unlisted(finding));
        }
        true
    }

    /// Removes the one of these that has been over the longest, if one is over.
    fn remove_oldest(&mut self, of: impl Fn(&Entry) -> bool) -> bool {
        let over = self.entries.iter().filter(|(_, entry)| of(entry));
        let over = over.filter_map(|(key, entry)| Some((entry.cleared_at?, key)));
        let Some((_, oldest)) = over.min_by_key(|(at, _)| *at) else {
            return false;
        };
        let oldest = oldest.clone();
        self.entries.remove(&oldest).is_some()
    }

    /// Replaces the finding. The caller has asked [`Board::admits`].
    pub(super) fn put(&mut self, finding: Finding) {
        let key = (finding.anomaly, finding.subject.clone());
        let before = self.entries.remove(&key);
        let before = before.filter(|it| it.cleared_at.is_none());
        let is_same = |it: &Entry| {
            let it = &it.finding;
            (it.severity, &it.labels) == (finding.severity, &finding.labels)
        };
        // Usually they are.
        if !before.as_ref().is_some_and(is_same) {
            self.raised.add(&finding);
            if let Some(before) = before {
                self.raised.remove(&before.finding);
            }
        }
        let entry = Entry {
            finding,
            cleared_at: None,
        };
        self.entries.insert(key, entry);
    }

    /// The finding is over. Reports its last numbers.
    pub(super) fn clear(&mut self, anomaly: Anomaly, subject: &Subject, now: Duration) {
        let entry = self.entries.get_mut(&(anomaly, subject.clone()));
        if let Some(entry) = entry.filter(|it| it.cleared_at.is_none()) {
            entry.cleared_at = Some(now);
            let finding = entry.finding.clone();
            self.raised.remove(&finding);
            self.report(now, Change::Cleared(finding));
        }
    }

    pub(super) fn report(&mut self, now: Duration, change: Change) {
        if let Change::Raised(finding) = &change {
            self.count(finding);
        }
        if self.changes.len() == CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back((now, change));
        self.new += 1;
    }

    fn count(&mut self, finding: &Finding) {
        let name = finding.labels.as_ref();
        let name = name.map(|labels| Labels::name(labels.comm(), labels.unit()));
        let mut key = (finding.anomaly, name);
        let named = TOTALS - Anomaly::ALL.len();
        if self.totals.len() >= named && !self.totals.contains_key(&key) {
            key.1 = Some(Labels::name(OTHER, ""));
        }
        *self.totals.entry(key).or_default() += 1;
    }
}

/// Boards with findings that no detector raised.
#[cfg(any(test, feature = "testing"))]
pub mod testing {
    use std::sync::Arc;

    use super::*;
    use crate::detect::{Evidence, Severity};

    /// Some finding.
    #[must_use]
    pub fn finding(anomaly: Anomaly, subject: Subject, labels: Option<Labels>) -> Finding {
        Finding {
            anomaly,
            netns: subject.netns(),
            subject,
            labels: labels.map(Arc::new),
            severity: Severity::Warning,
            score: 1.5,
            time_left: None,
            since: Duration::from_secs(10),
            evidence: Evidence::TimeWaitOverflows { overflows: 3 },
            causes: Vec::new(),
        }
    }

    /// As the engine does when a sample begins.
    pub fn begin(board: &mut Board, now: Duration) {
        board.begin(now);
    }

    impl Board {
        /// As the engine does when a finding is raised.
        pub fn raise(&mut self, finding: Finding) {
            let labels = finding.labels.as_deref();
            let (anomaly, severity, since) = (finding.anomaly, finding.severity, finding.since);
            if self.admits(anomaly, &finding.subject, labels, severity, since) {
                self.report(finding.since, Change::Raised(finding.clone()));
                self.put(finding);
            }
        }

        /// As the engine does when one is over.
        pub fn end(&mut self, anomaly: Anomaly, subject: &Subject, now: Duration) {
            self.clear(anomaly, subject, now);
        }
    }
}

#[cfg(test)]
mod tests;
