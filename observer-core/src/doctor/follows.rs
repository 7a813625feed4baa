//! Which finding follows from another of the same program, or of the server that it waits for.

use std::{net::SocketAddr, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    detect::{Anomaly, Cause, Evidence, Finding, Subject, cause, who},
    table::{Labels, ListenAddress},
};

/// A listening address of a name.
pub type Listening = (ListenAddress, Arc<Labels>);

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
const RULES: [(Anomaly, &[&Cause], Anomaly); 10] = [
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
    (
        Anomaly::ListenOverflow,
        &[&cause::WORKERS_WAIT],
        Anomaly::ReadStall,
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

/// Why a server lets its clients wait.
const OF_SERVERS: [Anomaly; 6] = [
    Anomaly::FdExhaustion,
    Anomaly::ListenOverflow,
    Anomaly::ProgramNotReading,
    Anomaly::ConnectFailures,
    Anomaly::TlsStall,
    Anomaly::ReadStall,
];

/// Ids in documents and files have hyphens.
pub(super) fn id(anomaly: Anomaly) -> String {
    anomaly.name().replace('_', "-")
}

/// What `finding` follows from, of `all`.
pub(super) fn origin(
    finding: &Finding,
    all: &[Finding],
    listening: &[Listening],
) -> Option<Origin> {
    let has = |causes: &[&Cause]| {
        let mut of = finding.causes.iter();
        causes.is_empty() || of.any(|it| causes.contains(&it.cause))
    };
    let rules = RULES
        .iter()
        .filter(|(anomaly, causes, _)| *anomaly == finding.anomaly && has(causes));
    let mut found = rules.filter_map(|(_, _, origin)| {
        let mut all = all.iter().filter(|it| it.anomaly == *origin);
        all.find(|it| is_of_same(finding, it))
    });
    let found = found
        .next()
        .or_else(|| of_server(finding, all, listening))
        .or_else(|| of_scanner(finding, all))?;
    Some(Origin {
        id: id(found.anomaly),
        subject: serde_json::to_value(&found.subject).unwrap_or_default(),
        who: who(found),
    })
}

/// What is wrong with the program of this host that most of its connections wait for. Nothing if that waits for this one.
fn of_server<'a>(
    finding: &Finding,
    all: &'a [Finding],
    listening: &[Listening],
) -> Option<&'a Finding> {
    let found = awaited(finding, all, listening)?;
    let back = awaited(found, all, listening);
    let is_mutual = back.is_some_and(|it| it.subject == finding.subject);
    (!is_mutual).then_some(found)
}

fn awaited<'a>(
    finding: &Finding,
    all: &'a [Finding],
    listening: &[Listening],
) -> Option<&'a Finding> {
    // A certificate has nothing to do with what else is wrong with the server.
    let resets = finding.causes.first().map(|it| it.cause) == Some(&cause::HANDSHAKES_RESET);
    if finding.anomaly == Anomaly::TlsFailures && !resets {
        return None;
    }
    let (at, server) = most_awaited(&finding.evidence)?;
    let is_at = |place: &ListenAddress| {
        let netns = finding.netns;
        netns.is_some_and(|netns| place.is_reached_at(netns, at))
    };
    let servers = listening.iter().filter(|(place, _)| is_at(place));
    let servers: Vec<_> = servers.map(|(_, labels)| labels.name_key()).collect();
    let known = server.map(Labels::name_key);
    let is_of_server = |it: &&Finding| {
        let Some(name) = it.labels.as_deref().map(Labels::name_key) else {
            return false;
        };
        let is_here = it.netns.is_none() || it.netns == finding.netns;
        it.subject != finding.subject && (known == Some(name) || is_here && servers.contains(&name))
    };
    OF_SERVERS.iter().find_map(|anomaly| {
        let mut all = all.iter().filter(|it| it.anomaly == *anomaly);
        all.find(is_of_server)
    })
}

/// The server that most connections wait for, were given up for, or are reset by during the handshake, and its program if it is known.
fn most_awaited(evidence: &Evidence) -> Option<(SocketAddr, Option<&Labels>)> {
    let (Evidence::Waits { peers, .. } | Evidence::AcceptQueue { waits: peers, .. }) = evidence
    else {
        let (Evidence::GaveUp { peers, .. } | Evidence::Handshakes { peers, .. }) = evidence else {
            return None;
        };
        let most = peers.iter().find(|it| it.share > 0.5 && !it.is_client)?;
        return Some((SocketAddr::new(most.address, most.port), None));
    };
    let all_waiting: u32 = peers.iter().map(|it| it.connections).sum();
    let is_most = |of: u32| 2 * of > all_waiting;
    let mut most = peers.iter().filter(|it| !it.is_client);
    let most = most.find(|it| is_most(it.connections))?;
    let at = SocketAddr::new(most.address, most.port);
    Some((at, most.server.as_deref()))
}

/// The program that scans, if it is one of this host.
fn of_scanner<'a>(finding: &Finding, all: &'a [Finding]) -> Option<&'a Finding> {
    let Subject::Source { netns, address } = finding.subject else {
        return None;
    };
    let scans = |it: &Finding| it.causes.iter().any(|it| it.cause == &cause::SCANS);
    let is_it = |it: &&Finding| address.is_loopback() && it.netns == Some(netns) && scans(it);
    all.iter().find(is_it)
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
