//! How many findings are raised, by unit, anomaly and name: the limits are checked for each finding that has no room, of which
//! there may be one for each process.

use std::collections::{BTreeMap, HashMap};

use super::super::{
    anomaly::Anomaly,
    finding::{Finding, Severity, Subject},
};
use crate::table::Labels;

/// Numbers of raised findings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// All of them.
    pub(super) all: usize,
    /// Those that are warnings.
    pub(super) warnings: usize,
}

impl Count {
    fn add(&mut self, finding: &Finding) {
        self.all += 1;
        self.warnings += usize::from(finding.severity == Severity::Warning);
    }

    /// Whether any is left.
    fn remove(&mut self, finding: &Finding) -> bool {
        let is_warning = finding.severity == Severity::Warning;
        self.all = self.all.saturating_sub(1);
        self.warnings = self.warnings.saturating_sub(usize::from(is_warning));
        self.all > 0
    }
}

/// Numbers of all, and by [group of units](Labels::unit_group) of those with labels.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Raised {
    count: Count,
    by_unit: HashMap<String, OfUnit>,
}

#[derive(Debug, Default, PartialEq)]
struct OfUnit {
    count: Count,
    by_anomaly: BTreeMap<Anomaly, OfAnomaly>,
}

#[derive(Debug, Default, PartialEq)]
struct OfAnomaly {
    count: Count,
    /// Of processes, by comm.
    by_name: HashMap<String, Count>,
}

impl Raised {
    /// All of them.
    pub(super) fn in_all(&self) -> Count {
        self.count
    }

    /// With labels of this group of units.
    pub(super) fn of_unit(&self, unit: &str) -> Count {
        let of_unit = self.by_unit.get(unit);
        of_unit.map(|it| it.count).unwrap_or_default()
    }

    /// The same of one anomaly.
    pub(super) fn of_anomaly(&self, anomaly: Anomaly, unit: &str) -> Count {
        let of_anomaly = self.anomaly(anomaly, unit);
        of_anomaly.map(|it| it.count).unwrap_or_default()
    }

    /// About processes of a name.
    pub(super) fn of_name(&self, anomaly: Anomaly, name: &Labels) -> Count {
        let of_anomaly = self.anomaly(anomaly, name.unit_group());
        let of_name = of_anomaly.and_then(|it| it.by_name.get(name.comm()));
        of_name.copied().unwrap_or_default()
    }

    fn anomaly(&self, anomaly: Anomaly, unit: &str) -> Option<&OfAnomaly> {
        self.by_unit.get(unit)?.by_anomaly.get(&anomaly)
    }

    /// One more is raised.
    pub(super) fn add(&mut self, finding: &Finding) {
        self.count.add(finding);
        let Some(labels) = finding.labels.as_deref() else {
            return;
        };
        let unit = labels.unit_group().to_owned();
        let of_unit = self.by_unit.entry(unit).or_default();
        of_unit.count.add(finding);
        let of_anomaly = of_unit.by_anomaly.entry(finding.anomaly).or_default();
        of_anomaly.count.add(finding);
        if matches!(finding.subject, Subject::Process(_)) {
            let comm = labels.comm().to_owned();
            of_anomaly.by_name.entry(comm).or_default().add(finding);
        }
    }

    /// One that was added is raised no more.
    pub(super) fn remove(&mut self, finding: &Finding) {
        self.count.remove(finding);
        let Some(labels) = finding.labels.as_deref() else {
            return;
        };
        let (unit, anomaly) = (labels.unit_group(), finding.anomaly);
        let Some(of_unit) = self.by_unit.get_mut(unit) else {
            return;
        };
        if let Some(of_anomaly) = of_unit.by_anomaly.get_mut(&anomaly) {
            if matches!(finding.subject, Subject::Process(_))
                && let Some(of_name) = of_anomaly.by_name.get_mut(labels.comm())
                && !of_name.remove(finding)
            {
                of_anomaly.by_name.remove(labels.comm());
            }
            if !of_anomaly.count.remove(finding) {
                of_unit.by_anomaly.remove(&anomaly);
            }
        }
        if !of_unit.count.remove(finding) {
            self.by_unit.remove(unit);
        }
    }
}
