//! All findings, and what happened to them.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use super::{
    anomaly::Anomaly,
    finding::{Change, Finding, Subject},
};

/// Maximum number of findings, those included that have been over for less than [`KEPT`].
pub const FINDINGS: usize = 200;
/// Number of changes that are kept.
pub const CHANGES: usize = 1_000;
/// How long a finding is shown after it is over.
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

/// Findings by anomaly and subject, and the last changes.
#[derive(Debug, Default)]
pub struct Board {
    entries: HashMap<(Anomaly, Subject), Entry>,
    changes: VecDeque<(Duration, Change)>,
    /// Changes since [`Board::begin`].
    new: usize,
}

impl Board {
    /// Starts a sample: removes what has been over for long.
    pub(super) fn begin(&mut self, now: Duration) {
        self.new = 0;
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

    /// All raised findings of an anomaly.
    pub fn all_raised(&self, anomaly: Anomaly) -> impl Iterator<Item = &Finding> {
        let of =
            move |entry: &&Entry| entry.finding.anomaly == anomaly && entry.cleared_at.is_none();
        self.entries.values().filter(of).map(|entry| &entry.finding)
    }

    /// The last changes and when they were (CLOCK_MONOTONIC), oldest first.
    pub fn changes(&self) -> impl Iterator<Item = &(Duration, Change)> {
        self.changes.iter()
    }

    /// The changes of the last sample.
    pub(super) fn new_changes(&self) -> Vec<Change> {
        let old = self.changes.len() - self.new.min(self.changes.len());
        self.changes
            .range(old..)
            .map(|(_, change)| change.clone())
            .collect()
    }

    /// Whether there is room for the finding. Makes room by removing the one that has been over the longest.
    pub(super) fn admits(&mut self, anomaly: Anomaly, subject: &Subject) -> bool {
        let key = (anomaly, subject.clone());
        if self.entries.len() < FINDINGS || self.entries.contains_key(&key) {
            return true;
        }
        let over = self.entries.iter();
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
        if self.changes.len() == CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back((now, change));
        self.new += 1;
    }
}
