//! Which finding follows from another of the same program.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::detect::{Anomaly, Cause, Finding, Subject, cause, who};

/// The finding that another one follows from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// Its id.
    pub id: String,
    /// Its subject.
    pub subject: Value,
    /// The same in words.
    pub who: String,
}

/// What follows, from which of its causes (any, if there is none), and from what.
const RULES: [(Anomaly, &[&Cause], Anomaly); 9] = [
    // The first answer that does not come is the one to the ClientHello.
    (
        Anomaly::ReadStall,
        &[&cause::NO_FIRST_BYTE],
        Anomaly::TlsStall,
    ),
    (
        Anomaly::ListenOverflow,
        &[&cause::ACCEPT_WITHOUT_DESCRIPTORS],
        Anomaly::FdExhaustion,
    ),
    (Anomaly::FdExhaustion, &[], Anomaly::FdLeak),
    (
        Anomaly::FdExhaustion,
        &[&cause::FD_CLOSE_WAIT],
        Anomaly::CloseWaitLeak,
    ),
    (
        Anomaly::FdLeak,
        &[&cause::FD_CLOSE_WAIT],
        Anomaly::CloseWaitLeak,
    ),
    (
        Anomaly::RstStorm,
        &[&cause::QUEUE_RESETS],
        Anomaly::ListenOverflow,
    ),
    (
        Anomaly::PortExhaustion,
        &[&cause::NOT_CLOSED],
        Anomaly::CloseWaitLeak,
    ),
    (
        Anomaly::PortExhaustion,
        &[&cause::SILENT_DESTINATION],
        Anomaly::ConnectFailures,
    ),
    (
        Anomaly::ConnectFailures,
        &[&cause::NO_LOCAL_PORT],
        Anomaly::PortExhaustion,
    ),
];

/// Ids in documents and files have hyphens.
pub(super) fn id(anomaly: Anomaly) -> String {
    anomaly.name().replace('_', "-")
}

/// What `finding` follows from, of `all`.
pub(super) fn origin(finding: &Finding, all: &[Finding]) -> Option<Origin> {
    let has = |causes: &[&Cause]| {
        let mut of = finding.causes.iter();
        causes.is_empty() || of.any(|it| causes.contains(&it.cause))
    };
    let rules = RULES
        .iter()
        .filter(|(anomaly, causes, _)| *anomaly == finding.anomaly && has(causes));
    let found = rules.filter_map(|(_, _, origin)| {
        let mut all = all.iter().filter(|it| it.anomaly == *origin);
        all.find(|it| is_of_same(finding, it))
    });
    let found = found.take(1).next()?;
    Some(Origin {
        id: id(found.anomaly),
        subject: serde_json::to_value(&found.subject).unwrap_or_default(),
        who: who(found),
    })
}

/// Whether both are about one process, or else one name: workers accept what their parent listens for.
fn is_of_same(finding: &Finding, other: &Finding) -> bool {
    if let (Subject::Process(this), Subject::Process(other)) = (&finding.subject, &other.subject) {
        return this == other;
    }
    let names = |finding: &Finding| {
        let holders = finding
            .evidence
            .holders()
            .iter()
            .map(|it| it.labels.clone());
        let all: Vec<_> = finding.labels.iter().cloned().chain(holders).collect();
        all
    };
    let others = names(other);
    let mut names = names(finding).into_iter();
    names.any(|it| others.iter().any(|other| other.name_key() == it.name_key()))
}
