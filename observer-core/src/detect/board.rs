//! All findings, and what happened to them.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::Duration,
};

use super::{
    anomaly::Anomaly,
    finding::{Change, Finding, Subject},
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

/// Units that count as one, because a user can have any number of them: those of the user's own systemd, and sessions. Empty
/// for processes without a unit, which have nothing in common.
fn unit_group(unit: &str) -> &str {
    const SESSION: &str = "session-";
    let outer = unit.split('/').next().unwrap_or(unit);
    if outer.starts_with(SESSION) && outer.ends_with(".scope") {
        return SESSION;
    }
    outer
}

/// Findings by anomaly and subject, and the last changes.
#[derive(Debug, Default)]
pub struct Board {
    entries: HashMap<(Anomaly, Subject), Entry>,
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

    /// Whether a finding that is not raised, with these labels, can be. Removes the one that cleared first if necessary.
    pub(super) fn admits(
        &mut self,
        anomaly: Anomaly,
        subject: &Subject,
        labels: Option<&Labels>,
    ) -> bool {
        let limit = self.limit(anomaly, subject, labels);
        if let Some(limit) = limit {
            let name = labels.map(|it| Labels::name(it.comm(), it.unit()));
            *self.unlisted.entry((anomaly, limit, name)).or_default() += 1;
            self.unlisted_subjects.insert((anomaly, subject.clone()));
        }
        limit.is_none()
    }

    fn limit(
        &mut self,
        anomaly: Anomaly,
        subject: &Subject,
        labels: Option<&Labels>,
    ) -> Option<Limit> {
        let is_process = |it: &Subject| matches!(it, Subject::Process(_));
        if let Some(labels) = labels {
            let raised = self.entries.values().filter(|it| it.cleared_at.is_none());
            let group = unit_group(labels.unit());
            let of_unit = raised.filter_map(|it| {
                let other = it.finding.labels.as_deref()?;
                (unit_group(other.unit()) == group).then_some((&it.finding, other))
            });
            let of_anomaly = of_unit.clone().filter(|(it, _)| it.anomaly == anomaly);
            let of_name = of_anomaly
                .clone()
                .filter(|(it, other)| is_process(&it.subject) && other.comm() == labels.comm());
            if is_process(subject) && of_name.count() >= OF_NAME {
                return Some(Limit::Name);
            }
            let is_one = !group.is_empty();
            if is_one && (of_anomaly.count() >= OF_UNIT || of_unit.count() >= OF_UNIT_IN_ALL) {
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
        let entry = Entry {
            finding,
            cleared_at: None,
        };
        self.entries.insert(key, entry);
    }

    /// The finding is over. Reports its last numbers.
    pub(super) fn clear(&mut self, anomaly: Anomaly, subject: &Subject, now: Duration) {
        if let Some(entry) = self.entries.get_mut(&(anomaly, subject.clone())) {
            entry.cleared_at = Some(now);
            let finding = entry.finding.clone();
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
            if self.admits(finding.anomaly, &finding.subject, finding.labels.as_deref()) {
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
mod tests {
    use super::{testing::finding, *};

    #[test]
    fn totals_are_bounded_and_lose_no_raise() {
        let mut board = Board::default();
        for number in 0..2_000 {
            let unit = format!("{}.service", number % 10);
            let name = Labels::process(number, &format!("program-{number}"), &unit);
            for anomaly in Anomaly::ALL {
                board.raise(finding(
                    anomaly,
                    Subject::Namespace(number % 10),
                    Some(name.clone()),
                ));
            }
        }
        let totals: Vec<_> = board.totals().collect();
        assert_eq!(totals.len(), TOTALS);
        let sum: u64 = totals.iter().map(|(_, _, raises)| raises).sum();
        assert_eq!(sum, 2_000 * Anomaly::ALL.len() as u64);
        assert!(
            totals
                .iter()
                .all(|(_, name, _)| name.unwrap().pid().is_none())
        );
    }

    #[test]
    fn units_of_a_user_are_one() {
        for unit in [
            "user@1000.service",
            "user@1000.service/a.service",
            "user@1000.service/b.scope/c",
        ] {
            assert_eq!(unit_group(unit), "user@1000.service");
        }
        assert_eq!(
            unit_group("session-7.scope"),
            unit_group("session-c12.scope")
        );
        assert_ne!(unit_group("nginx.service"), unit_group("db.service"));
        assert_eq!(unit_group(""), "");
    }

    #[test]
    fn only_raises_count() {
        let mut board = Board::default();
        let subject = Subject::Namespace(1);
        board.raise(finding(Anomaly::SynScan, subject.clone(), None));
        board.end(Anomaly::SynScan, &subject, Duration::from_secs(40));
        board.raise(finding(Anomaly::SynScan, subject, None));
        let totals: Vec<_> = board.totals().collect();
        assert_eq!(totals, [(Anomaly::SynScan, None, 2)]);
    }
}
