//! What is odd although no detector raises it: too rare or too slow, or without effect.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use observer_common::{ProcessKey, TLS_FAILED, TLS_OK, TLS_ROLES, TlsCounters};
use serde_json::json;

use super::{
    binds::Binds,
    follows::Listening,
    item::{Item, advice, of_name, with_hints, within_limits},
};
use crate::{
    detect::{
        Anomaly, Counts, Evidence, Explanation, Finding, Handshakes, Host, LATELY, PeerShare,
        Source, connect_causes, cut_off, cut_off_cause, duration, failed_connects, named, number,
        scanned_ports,
    },
    table::{Labels, ListenAddress},
};

/// Connects that must have failed.
const CONNECTS: u64 = 3;
/// TLS handshakes that must have failed: a server has clients that do not speak TLS.
const HANDSHAKES: u64 = 10;
/// Segments for closed ports within a minute that a source must have sent.
const SEGMENTS: u64 = 10;
/// Connections that data must have reached after they were closed.
const CUT_OFF: u64 = 20;
/// Maximum number of names, processes, listeners or sources with the same oddity.
const MOST: usize = 10;
/// Maximum number of programs that may be a source.
const PROGRAMS: usize = 3;

/// What a name has done since the daemon started.
#[derive(Clone, Debug)]
pub struct Counted {
    /// Whose.
    pub labels: Arc<Labels>,
    /// The network namespace of one of its processes.
    pub netns: Option<u32>,
    /// Totals.
    pub counts: Counts,
}

/// TLS handshakes of a name in one role that ended in the last minutes, of which none or hardly any has succeeded.
#[derive(Clone, Debug)]
pub struct FailedHandshakes {
    /// Whose.
    pub labels: Arc<Labels>,
    /// One of the names in [`TLS_ROLES`](observer_common::TLS_ROLES).
    pub role: &'static str,
    /// How many have failed.
    pub failed: u64,
    /// How many have succeeded.
    pub succeeded: u64,
}

impl FailedHandshakes {
    /// For each role in which some of these have failed and none has succeeded since the daemon started; of clients also
    /// if a tenth of these has. Health checks of a server's port are failed handshakes.
    pub fn of<'a>(
        labels: &'a Arc<Labels>,
        lately: &'a Handshakes,
        all: &'a TlsCounters,
    ) -> impl Iterator<Item = Self> + 'a {
        let ever = |role: usize| all.ended.iter().map(|it| it[role][TLS_OK]).sum::<u64>();
        TLS_ROLES
            .iter()
            .enumerate()
            .filter_map(move |(role, name)| {
                let (failed, succeeded) = (lately[role][TLS_FAILED], lately[role][TLS_OK]);
                let few = *name == "client" && 9 * succeeded <= failed;
                (failed > 0 && (ever(role) == 0 || few)).then(|| Self {
                    labels: Arc::clone(labels),
                    role: name,
                    failed,
                    succeeded,
                })
            })
    }

    /// Whether they are those of one of these findings about clients: of the client, or of its server. Some libraries do not
    /// tell the role.
    #[must_use]
    pub fn are_of(&self, findings: &[Finding], listening: &[Listening]) -> bool {
        let name = self.labels.name_key();
        let at = |it: &PeerShare| {
            let at = SocketAddr::new(it.address, it.port);
            listening.iter().any(|(place, labels)| {
                labels.name_key() == name && place.is_reached_at(it.netns, at)
            })
        };
        findings.iter().any(|it| {
            let Evidence::Handshakes { peers, .. } = &it.evidence else {
                return false;
            };
            let is_client = it.labels.as_deref().is_some_and(|it| it.name_key() == name);
            self.role != "server" && is_client || self.role != "client" && peers.iter().any(at)
        })
    }
}

/// Connects of a name to this host that were refused.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Whose.
    pub labels: Arc<Labels>,
    /// The network namespaces of its running processes.
    pub netns: Vec<u32>,
    /// How many in all of them since the daemon started.
    pub count: u64,
    /// Network namespace and destination of the last ones, if records of them were read.
    pub to: Vec<(u32, SocketAddr)>,
}

impl Refused {
    fn to(&self, netns: u32) -> Vec<String> {
        let to = self.to.iter().filter(|it| it.0 == netns);
        to.map(|it| it.1.to_string()).collect()
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
    pub connects: Vec<Counted>,
    /// Of names without a finding about RSTs and without TLS, whose last data is mostly no answer.
    pub cut_off: Vec<Counted>,
    /// Of names of which any has failed.
    pub binds: Vec<Binds>,
    /// Where processes listen, or names of which it is not known which process does.
    pub holders: Vec<Listening>,
    /// Of names without a finding about it.
    pub handshakes: Vec<FailedHandshakes>,
    /// Of processes without a finding about it.
    pub growing: Vec<Growth>,
    /// Listening addresses with Fast Open.
    pub fast_open: Vec<FastOpen>,
    /// Sources of segments for closed ports that are no scan.
    pub strays: Vec<Source>,
    /// Of names in any network namespace.
    pub refused: Vec<Refused>,
}

/// Those of which there are at least so many, most first, within the limits for programs with these labels.
fn most<T>(
    all: &[T],
    least: u64,
    count: impl Fn(&T) -> u64,
    labels: impl Fn(&T) -> Option<&Labels>,
) -> impl Iterator<Item = (&T, u64)> {
    let all = all.iter().map(|it| (it, count(it)));
    let mut all: Vec<_> = all.filter(|(_, count)| *count >= least).collect();
    all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    within_limits(all, MOST, |(it, _)| labels(it)).into_iter()
}

impl Odd {
    pub(super) fn items(&self, host: &Host, findings: &[Finding]) -> Vec<Item> {
        // A client of this host has a finding of its own then.
        let is_known = |it: &Source| {
            let mut findings = findings.iter();
            it.address.is_loopback()
                && findings
                    .any(|of| of.anomaly == Anomaly::ConnectFailures && of.netns == Some(it.netns))
        };
        let failed = |it: &Counted| failed_connects(&it.counts).sum();
        let connects = most(&self.connects, CONNECTS, failed, |it| Some(&it.labels));
        let connects = connects.map(|(it, _)| of_connects(it, host));
        let cut_off = most(
            &self.cut_off,
            CUT_OFF,
            |it| cut_off(&it.counts),
            |it| Some(&it.labels),
        );
        let cut_off = cut_off.map(|(it, count)| of_cut_off(it, count, host));
        let binds = most(
            &self.binds,
            1,
            |it| it.noted(&self.holders),
            |it| Some(&it.labels),
        );
        let binds = binds.map(|(it, sum)| it.item(sum, &self.holders, host));
        let handshakes = most(
            &self.handshakes,
            HANDSHAKES,
            |it| it.failed,
            |it| Some(&it.labels),
        );
        let handshakes = handshakes.map(|(it, _)| of_handshakes(it, host));
        let growing = within_limits(&self.growing, MOST, |it| Some(&it.labels)).into_iter();
        let growing = growing.map(|it| of_growth(it, host));
        let fast_open = within_limits(&self.fast_open, MOST, |it| Some(&it.labels)).into_iter();
        let fast_open = fast_open.filter_map(|it| of_fast_open(it, host));
        let segments = |it: &Source| if is_known(it) { 0 } else { it.segments };
        let strays = most(&self.strays, SEGMENTS, segments, |_| None);
        let strays = strays.map(|(it, _)| self.of_stray(it, host));
        connects
            .chain(cut_off)
            .chain(binds)
            .chain(handshakes)
            .chain(growing)
            .chain(fast_open)
            .chain(strays)
            .collect()
    }

    fn of_stray(&self, of: &Source, host: &Host) -> Item {
        let Source { netns, address, .. } = *of;
        let ports = scanned_ports(of);
        let hint = advice("closed-ports", host, Some(netns));
        let which = match ports {
            1 => "a closed port".to_owned(),
            _ => format!("{ports} closed ports"),
        };
        let here = |it: &Refused| match address.is_loopback() && it.netns.contains(&netns) {
            true => it.count,
            false => 0,
        };
        let programs: Vec<_> = most(&self.refused, 1, here, |_| None)
            .take(PROGRAMS)
            .collect();
        let refused: Vec<_> = programs
            .iter()
            .map(|(it, count)| {
                format!(
                    "{} ({}{})",
                    named(&it.labels),
                    number(*count),
                    to(&it.to(netns))
                )
            })
            .collect();
        let refused = match refused.is_empty() {
            true => String::new(),
            false => format!(
                "; connects refused since the observer started: {}",
                refused.join(", ")
            ),
        };
        let programs: Vec<_> = programs
            .iter()
            .map(|(it, count)| {
                json!({
                    "comm": it.labels.comm(), "unit": it.labels.unit(), "refused": count, "to": it.to(netns),
                })
            })
            .collect();
        Item {
            id: "closed-ports".to_owned(),
            subject: json!({"kind": "source", "netns": netns, "address": address}),
            summary: format!(
                "{} tries {which} of {}: {} segments within a minute{refused}",
                from(address),
                match address.is_loopback() {
                    true => format!("network namespace {netns}"),
                    false => format!("this host (network namespace {netns})"),
                },
                number(of.segments),
            ),
            evidence: json!({ "ports": ports, "segments": of.segments, "programs": programs }),
            ..with_hints(&hint.iter().collect::<Vec<_>>())
        }
    }
}

/// ` to 127.0.0.1:8003`, if it is known.
fn to(all: &[String]) -> String {
    match all.is_empty() {
        true => String::new(),
        false => format!(" to {}", all.join(" and ")),
    }
}

fn of_connects(of: &Counted, host: &Host) -> Item {
    let results = failed_connects(&of.counts);
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

fn of_cut_off(of: &Counted, count: u64, host: &Host) -> Item {
    let mut causes = [Explanation::new(cut_off_cause(&of.counts), 1.0)];
    host.advise(&mut causes, of.netns, false);
    let [cause] = causes;
    Item {
        id: "cuts-off".to_owned(),
        subject: of_name(&of.labels),
        summary: format!(
            "{}: {} of its {} connections that ended since the observer started were sent data after it had closed, which \
             is lost",
            named(&of.labels),
            number(count),
            number(of.counts.ended),
        ),
        evidence: json!({ "cut_off": count, "ended": of.counts.ended }),
        causes: vec![cause.cause.text.to_owned()],
        ..with_hints(&cause.hints.iter().collect::<Vec<_>>())
    }
}

fn of_handshakes(of: &FailedHandshakes, host: &Host) -> Item {
    let FailedHandshakes {
        labels,
        role,
        failed,
        succeeded,
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
            "{}: {} of its {} TLS handshakes{as_role} have failed in the last {}",
            named(labels),
            number(*failed),
            number(failed + succeeded),
            duration(Duration::from_secs(LATELY)),
        ),
        evidence: json!({ "role": role, "failed": failed, "succeeded": succeeded }),
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

/// A loopback address is a program of this host.
fn from(address: IpAddr) -> String {
    match address.is_loopback() {
        true => format!("a program of this host ({address})"),
        false => address.to_string(),
    }
}
