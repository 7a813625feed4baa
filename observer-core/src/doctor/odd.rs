//! What is odd although no detector raises it: too rare or too slow, or without effect.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use observer_common::{ProcessKey, TLS_FAILED, TLS_OK, TLS_ROLES, TlsCounters};
use serde_json::json;

use super::item::{Item, with_hints};
use crate::{
    detect::{
        Anomaly, Breakdown, Counts, Finding, Host, Source, connect_causes, failed_connects, named,
        number, scanned_ports,
    },
    hints::{Advice, HINTS},
    table::{Labels, ListenAddress},
};

/// Connects that must have failed.
const CONNECTS: u64 = 3;
/// Calls of bind() and listen() that must have failed: some programs try one port after the other.
const BINDS: u64 = 10;
/// TLS handshakes that must have failed: a server has clients that do not speak TLS.
const HANDSHAKES: u64 = 10;
/// Segments for closed ports within a minute that a source must have sent.
const SEGMENTS: u64 = 10;
/// Maximum number of errnos that are named.
const ERRNOS: usize = 3;
/// Maximum number of names whose calls fail.
const NAMES: usize = 10;
/// Maximum number of sources that are named.
const SOURCES: usize = 10;

/// Connects of a name since the daemon started.
#[derive(Clone, Debug)]
pub struct Connects {
    /// Whose.
    pub labels: Arc<Labels>,
    /// The network namespace of one of its processes.
    pub netns: Option<u32>,
    /// Totals.
    pub counts: Counts,
}

/// Calls of bind() and listen() of a name that have failed since the daemon started.
#[derive(Clone, Debug)]
pub struct Binds {
    /// Whose.
    pub labels: Arc<Labels>,
    /// The calls by errno, of both.
    pub failed: BTreeMap<String, u64>,
}

/// TLS handshakes of a name in one role, of which none has succeeded since the daemon started.
#[derive(Clone, Debug)]
pub struct FailedHandshakes {
    /// Whose.
    pub labels: Arc<Labels>,
    /// One of the names in [`TLS_ROLES`](observer_common::TLS_ROLES).
    pub role: &'static str,
    /// How many have failed.
    pub failed: u64,
}

impl FailedHandshakes {
    /// For each role in which some have failed and none has succeeded.
    pub fn of<'a>(
        labels: &'a Arc<Labels>,
        tls: &'a TlsCounters,
    ) -> impl Iterator<Item = Self> + 'a {
        let sum =
            |role: usize, result: usize| tls.ended.iter().map(|it| it[role][result]).sum::<u64>();
        TLS_ROLES
            .iter()
            .enumerate()
            .filter_map(move |(role, name)| {
                let failed = sum(role, TLS_FAILED);
                (failed > 0 && sum(role, TLS_OK) == 0).then(|| Self {
                    labels: Arc::clone(labels),
                    role: name,
                    failed,
                })
            })
    }
}

/// A process whose descriptors have grown for more than an hour.
#[derive(Clone, Debug)]
pub struct Growth {
    /// Which.
    pub process: ProcessKey,
    /// Its labels.
    pub labels: Arc<Labels>,
    /// Open descriptors.
    pub open: u64,
    /// Its limit.
    pub limit: u64,
    /// Growth per second.
    pub per_second: f64,
}

/// A listening address on whose sockets TCP_FASTOPEN is set.
#[derive(Clone, Debug)]
pub struct FastOpen {
    /// Where.
    pub place: ListenAddress,
    /// Whose.
    pub labels: Arc<Labels>,
}

/// What may be odd.
#[derive(Clone, Debug, Default)]
pub struct Odd {
    /// Of names without a finding about it.
    pub connects: Vec<Connects>,
    /// Of names of which any has failed.
    pub binds: Vec<Binds>,
    /// Of names of which none has succeeded.
    pub handshakes: Vec<FailedHandshakes>,
    /// Of processes without a finding about it.
    pub growing: Vec<Growth>,
    /// Listening addresses with Fast Open.
    pub fast_open: Vec<FastOpen>,
    /// Sources of segments for closed ports that are no scan.
    pub strays: Vec<Source>,
}

impl Odd {
    pub(super) fn items(&self, host: &Host, findings: &[Finding]) -> Vec<Item> {
        let Self {
            connects,
            binds,
            handshakes,
            growing,
            fast_open,
            strays,
        } = self;
        let failed = connects.iter().map(|it| (it, failed_connects(&it.counts)));
        let mut failed: Vec<_> = failed.filter(|(_, it)| it.sum() >= CONNECTS).collect();
        failed.sort_by_key(|(_, results)| std::cmp::Reverse(results.sum()));
        let failed = failed.into_iter().take(NAMES);
        let connects = failed.map(|(of, results)| of_connects(of, &results, host));
        let binds = binds.iter().map(|it| (it, it.failed.values().sum()));
        let mut binds: Vec<(_, u64)> = binds.filter(|(_, sum)| *sum >= BINDS).collect();
        binds.sort_by_key(|(_, sum)| std::cmp::Reverse(*sum));
        let binds = binds.into_iter().take(NAMES);
        let binds = binds.map(|(of, sum)| of_binds(of, sum, host));
        let handshakes = handshakes.iter().filter(|it| it.failed >= HANDSHAKES);
        let mut handshakes: Vec<_> = handshakes.collect();
        handshakes.sort_by_key(|it| std::cmp::Reverse(it.failed));
        let handshakes = handshakes.into_iter().take(NAMES);
        let handshakes = handshakes.map(|it| of_handshakes(it, host));
        let growing = growing.iter().map(|it| of_growth(it, host));
        let fast_open = fast_open.iter().filter_map(|it| of_fast_open(it, host));
        // A client of this host has a finding of its own then.
        let is_known = |it: &Source| {
            let mut findings = findings.iter();
            it.address.is_loopback()
                && findings
                    .any(|of| of.anomaly == Anomaly::ConnectFailures && of.netns == Some(it.netns))
        };
        let strays = strays.iter();
        let strays = strays.filter(|it| it.segments >= SEGMENTS && !is_known(it));
        let mut strays: Vec<_> = strays.collect();
        strays.sort_by_key(|it| std::cmp::Reverse(it.segments));
        let strays = strays.into_iter().take(SOURCES);
        let strays = strays.map(|it| of_stray(it, host));
        connects
            .chain(binds)
            .chain(handshakes)
            .chain(growing)
            .chain(fast_open)
            .chain(strays)
            .collect()
    }
}

/// The hint with this id, if it applies.
fn advice(id: &str, host: &Host, netns: Option<u32>) -> Option<Advice> {
    let hint = HINTS.iter().find(|it| it.id == id)?;
    Advice::new(hint, &host.known(netns, false))
}

fn of_connects(of: &Connects, results: &Breakdown, host: &Host) -> Item {
    let mut causes = connect_causes(&of.counts);
    host.advise(&mut causes, of.netns, false);
    let hints: Vec<_> = causes.iter().flat_map(|it| &it.hints).collect();
    let texts = causes.iter().map(|it| it.cause.text.to_owned());
    Item {
        id: "connects-fail".to_owned(),
        subject: of_name(&of.labels),
        summary: format!(
            "{}: none of its connects has succeeded since the observer started, and {} have failed",
            named(&of.labels),
            number(results.sum()),
        ),
        evidence: json!({ "results": results }),
        causes: texts.collect(),
        ..with_hints(&hints)
    }
}

fn of_binds(of: &Binds, sum: u64, host: &Host) -> Item {
    let hint = advice("port-taken", host, None);
    let mut by_errno: Vec<_> = of.failed.iter().collect();
    by_errno.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let by_errno = by_errno.iter().take(ERRNOS);
    let by_errno: Vec<_> = by_errno
        .map(|(errno, count)| format!("{} {errno}", number(**count)))
        .collect();
    Item {
        id: "binds-fail".to_owned(),
        subject: of_name(&of.labels),
        summary: format!(
            "{}: {} calls of bind() or listen() have failed since the observer started ({})",
            named(&of.labels),
            number(sum),
            by_errno.join(", "),
        ),
        evidence: json!({ "errnos": of.failed }),
        ..with_hints(&hint.iter().collect::<Vec<_>>())
    }
}

fn of_handshakes(of: &FailedHandshakes, host: &Host) -> Item {
    let FailedHandshakes {
        labels,
        role,
        failed,
    } = of;
    let hint = advice("tls-fails", host, None);
    let as_role = match *role {
        "client" => " as a client",
        "server" => " as a server",
        _ => "",
    };
    Item {
        id: "tls-fails".to_owned(),
        subject: of_name(labels),
        summary: format!(
            "{}: none of its TLS handshakes{as_role} has succeeded since the observer started, and {} have failed",
            named(labels),
            number(*failed),
        ),
        evidence: json!({ "role": role, "failed": failed }),
        ..with_hints(&hint.iter().collect::<Vec<_>>())
    }
}

fn of_growth(of: &Growth, host: &Host) -> Item {
    let hint = advice("nofile", host, None);
    Item {
        id: "descriptors-grow".to_owned(),
        subject: json!({
            "kind": "process", "pid": of.process.tgid, "start_boottime_ns": of.process.start_boottime_ns,
        }),
        summary: format!(
            "{} opens more descriptors than it closes: {:.1} more an hour for over an hour, {} of {} are open",
            named(&of.labels),
            of.per_second * 3_600.0,
            number(of.open),
            number(of.limit),
        ),
        evidence: json!({
            "open": of.open, "limit": of.limit, "growth_per_second": of.per_second,
        }),
        ..with_hints(&hint.iter().collect::<Vec<_>>())
    }
}

fn of_fast_open(of: &FastOpen, host: &Host) -> Option<Item> {
    let netns = of.place.netns;
    let hint = advice("fastopen-listener", host, Some(netns));
    let hint = hint.filter(|it| it.unknown.is_empty())?;
    Some(Item {
        id: "fastopen-without-effect".to_owned(),
        subject: json!({"kind": "listener", "netns": netns, "address": of.place.address}),
        summary: format!(
            "the listener {} of {} sets TCP_FASTOPEN, which has no effect",
            of.place.address,
            named(&of.labels)
        ),
        evidence: json!({}),
        ..with_hints(&[&hint])
    })
}

fn of_stray(of: &Source, host: &Host) -> Item {
    let Source { netns, address, .. } = *of;
    let ports = scanned_ports(of);
    let hint = advice("closed-ports", host, Some(netns));
    let which = match ports {
        1 => "a closed port".to_owned(),
        _ => format!("{ports} closed ports"),
    };
    Item {
        id: "closed-ports".to_owned(),
        subject: json!({"kind": "source", "netns": netns, "address": address}),
        summary: format!(
            "{} tries {which} of {}: {} segments within a minute",
            from(address),
            match address.is_loopback() {
                true => format!("network namespace {netns}"),
                false => format!("this host (network namespace {netns})"),
            },
            number(of.segments),
        ),
        evidence: json!({ "ports": ports, "segments": of.segments }),
        ..with_hints(&hint.iter().collect::<Vec<_>>())
    }
}

/// A loopback address is a program of this host.
fn from(address: IpAddr) -> String {
    match address.is_loopback() {
        true => format!("a program of this host ({address})"),
        false => address.to_string(),
    }
}

fn of_name(labels: &Labels) -> serde_json::Value {
    json!({"kind": "name", "comm": labels.comm(), "unit": labels.unit()})
}
