//! The note about calls of bind() and listen() that fail: for which address, and who holds it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    follows::Listening,
    item::{Item, advice, of_name, with_hints},
};
use crate::{
    detect::{Host, duration, named, number},
    names::errno_name,
    table::{FailedBind, FailedBinds, Labels, ListenAddress},
};

/// Calls that must have failed: some programs try one port after the other.
const LEAST: u64 = 10;
/// The same for one address, if another process listens there, or if no process of the name is running: it has not started.
/// systemd starts a service five times at most, and nginx tries as often.
const LEAST_AT_ONE: f64 = 3.0;
/// If both is so.
const LEAST_HELD: f64 = 1.0;
/// For fewer than [`LEAST`] calls, how long ago the last one may be.
const RECENT: Duration = Duration::from_secs(24 * 3_600);
/// Ports in a row that must have been taken before the one at which a process listens, so that it has searched for it.
const SEARCH: usize = 2;
/// Maximum number of errnos, of addresses and of holders that are named.
const NAMED: usize = 3;
/// Maximum number of addresses in the evidence.
const EVIDENCE: usize = 10;

/// Calls of bind() and listen() of a name that have failed since the daemon started.
#[derive(Clone, Debug)]
pub struct Binds {
    /// Whose.
    pub labels: Arc<Labels>,
    /// Whether a process of the name is running.
    pub is_running: bool,
    /// The calls by errno, of both.
    pub failed: BTreeMap<String, u64>,
    /// The same by address, as far as records of them were read.
    pub recorded: FailedBinds,
    /// How long ago the last recorded one was.
    pub last_ago: Duration,
}

/// Who stands in the way of a call, as far as it is known.
enum Holder<'a> {
    /// Nobody is known.
    Unknown,
    /// The process that made the call.
    Itself,
    /// These listen.
    Others(Vec<&'a Labels>),
}

/// How far an address stands in the way of another one with the same port: the less, the more alike they are. `None` if both
/// can be taken. A socket at `::` stands in the way of IPv4, too, unless it has IPV6_V6ONLY, of which nothing is known here.
fn conflict(asked: IpAddr, held: IpAddr) -> Option<u8> {
    let is_dual = |it: IpAddr| it.is_ipv6() && it.is_unspecified();
    if asked == held {
        Some(0)
    } else if asked.is_ipv4() == held.is_ipv4() {
        (asked.is_unspecified() || held.is_unspecified()).then_some(1)
    } else {
        (is_dual(asked) || is_dual(held)).then_some(2)
    }
}

impl Binds {
    /// How many calls failed; 0 unless they are worth a note.
    pub(super) fn noted(&self, holders: &[Listening]) -> u64 {
        let sum: u64 = self.failed.values().sum();
        let is_enough = |(call, count): &(FailedBind, f64)| {
            let is_held = matches!(self.holder(call, holders), Holder::Others(_));
            match (is_held, self.is_running) {
                (true, false) => *count >= LEAST_HELD,
                (true, true) | (false, false) => *count >= LEAST_AT_ONE,
                (false, true) => false,
            }
        };
        let searched = self.searched(holders);
        let is_searched = |it: &(FailedBind, f64)| searched.iter().any(|(call, _)| *call == it.0);
        let tries = searched.iter().map(|(_, count)| *count as u64).sum();
        let calls = self.recorded.calls.first(EVIDENCE).into_iter();
        let mut calls = calls.filter(|it| !is_searched(it));
        let is_noted = sum.saturating_sub(tries) >= LEAST
            || self.last_ago <= RECENT && calls.any(|it| is_enough(&it));
        if is_noted { sum } else { 0 }
    }

    /// Calls of a program that tries one port after the other until one is free, as Jupyter and development servers do: the
    /// process that made the last one listens at the port that follows on those that were taken.
    fn searched(&self, holders: &[Listening]) -> Vec<(FailedBind, f64)> {
        let all = self.recorded.calls.first(usize::MAX);
        let taken = |place: &ListenAddress, port: u16| {
            let address = SocketAddr::new(place.address.ip(), port);
            let is_it = |it: &&(FailedBind, f64)| {
                let call = &it.0;
                (call.netns, call.address) == (place.netns, address)
                    && i32::from(call.errno) == libc::EADDRINUSE
            };
            all.iter().find(is_it).copied()
        };
        let own = holders
            .iter()
            .filter(|(_, labels)| pid(labels) == Some(self.recorded.last_pid));
        let before = own.map(|(place, _)| {
            let ports = (1..place.address.port()).rev();
            ports
                .map_while(|port| taken(place, port))
                .collect::<Vec<_>>()
        });
        before.filter(|it| it.len() >= SEARCH).flatten().collect()
    }

    fn holder<'a>(&self, call: &FailedBind, holders: &'a [Listening]) -> Holder<'a> {
        let port = call.address.port();
        if i32::from(call.errno) != libc::EADDRINUSE || port == 0 {
            return Holder::Unknown;
        }
        let in_way = holders.iter().filter_map(|(place, labels)| {
            let is_there = (place.netns, place.address.port()) == (call.netns, port);
            let far = conflict(call.address.ip(), place.address.ip());
            Some((far.filter(|_| is_there)?, &**labels))
        });
        let mut in_way: Vec<_> = in_way.collect();
        let Some(nearest) = in_way.iter().map(|(far, _)| *far).min() else {
            return Holder::Unknown;
        };
        in_way.retain(|(far, _)| *far == nearest);
        let itself = |it: &(u8, &Labels)| pid(it.1) == Some(self.recorded.last_pid);
        match in_way.iter().all(itself) {
            true => Holder::Itself,
            false => Holder::Others(in_way.into_iter().map(|(_, labels)| labels).collect()),
        }
    }

    pub(super) fn item(&self, sum: u64, holders: &[Listening], host: &Host) -> Item {
        let mut by_errno: Vec<_> = self.failed.iter().collect();
        by_errno.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let by_errno = by_errno.iter().take(NAMED);
        let by_errno: Vec<_> = by_errno
            .map(|(errno, count)| format!("{} {errno}", number(**count)))
            .collect();
        let calls = self.recorded.calls.first(EVIDENCE);
        let (calls_text, last) = match calls.is_empty() {
            true => (String::new(), String::new()),
            false => (
                format!(": {}", self.texts(&calls, holders).join("; ")),
                format!(", the last one {} ago", duration(self.last_ago)),
            ),
        };
        let mut causes = Vec::new();
        for (call, _) in calls.iter().take(NAMED) {
            let cause = self.cause(call, holders);
            causes.extend(cause.filter(|it| !causes.contains(it)));
        }
        let mut ids: Vec<_> = self.failed.keys().map(|it| hint(it)).collect();
        ids.sort_unstable();
        ids.dedup();
        let hints = ids.into_iter().flatten();
        let hints: Vec<_> = hints.filter_map(|it| advice(it, host, None)).collect();
        let unit = if sum == 1 { "call" } else { "calls" };
        let have = if sum == 1 { "has" } else { "have" };
        Item {
            id: "binds-fail".to_owned(),
            subject: of_name(&self.labels),
            summary: format!(
                "{}: {} {unit} of bind() or listen() {have} failed since the observer started ({}){last}{calls_text}",
                named(&self.labels),
                number(sum),
                by_errno.join(", "),
            ),
            evidence: json!({
                "errnos": self.failed,
                "calls": calls.iter().map(|it| self.evidence(it, holders)).collect::<Vec<_>>(),
                "last_seconds_ago": (!calls.is_empty()).then_some(self.last_ago.as_secs_f64()),
            }),
            causes,
            ..with_hints(&hints.iter().collect::<Vec<_>>())
        }
    }

    /// `bind() to 0.0.0.0:80 (5 times) and [::]:80 (5 times), where nginx (pid 7) listens`: one for all calls with the same
    /// end.
    fn texts(&self, calls: &[(FailedBind, f64)], holders: &[Listening]) -> Vec<String> {
        let mut texts: Vec<(&str, Vec<String>, String)> = Vec::new();
        for (call, count) in calls.iter().take(NAMED) {
            let start = if call.is_listen {
                "listen() at"
            } else {
                "bind() to"
            };
            let end = match self.holder(call, holders) {
                Holder::Unknown => String::new(),
                Holder::Itself => ", where it listens itself".to_owned(),
                Holder::Others(others) => {
                    let names: Vec<_> = others.iter().take(NAMED).map(|it| named(it)).collect();
                    let verb = if others.len() == 1 {
                        "listens"
                    } else {
                        "listen"
                    };
                    let more = match others.len().saturating_sub(NAMED) {
                        0 => String::new(),
                        more => format!(" and {more} more"),
                    };
                    format!(", where {}{more} {verb}", names.join(", "))
                }
            };
            let count = match *count as u64 {
                0 | 1 => "once".to_owned(),
                many => format!("{} times", number(many)),
            };
            let place = format!("{} ({count})", place(call.address));
            match texts.iter_mut().find(|it| (it.0, &it.2) == (start, &end)) {
                Some((_, places, _)) => places.push(place),
                None => texts.push((start, vec![place], end)),
            }
        }
        let texts = texts.into_iter();
        texts
            .map(|(start, places, end)| format!("{start} {}{end}", places.join(" and ")))
            .collect()
    }

    fn cause(&self, call: &FailedBind, holders: &[Listening]) -> Option<String> {
        let port = call.address.port();
        Some(match (i32::from(call.errno), self.holder(call, holders)) {
            (libc::EADDRINUSE, _) if port == 0 => {
                "no port of net.ipv4.ip_local_port_range is left for bind()".to_owned()
            }
            (libc::EADDRINUSE, Holder::Itself) => {
                format!(
                    "it listens on port {port} already: a socket at :: takes the port for IPv4, too, without IPV6_V6ONLY"
                )
            }
            (libc::EADDRINUSE, Holder::Unknown) => format!(
                "nothing that is known listens on port {port} of its network namespace now. What may hold the port: \
                 connections in TIME_WAIT or not closed yet of the server that had it, if this one does not set \
                 SO_REUSEADDR before bind(); a connection of a client that has it as its local port; a socket that is bound \
                 and does not listen. Or what held it has ended"
            ),
            (libc::EACCES, _) if (1..1_024).contains(&port) => format!(
                "port {port} is below 1024, the default of net.ipv4.ip_unprivileged_port_start, and the process had no \
                 CAP_NET_BIND_SERVICE"
            ),
            (libc::EADDRNOTAVAIL, _) => format!(
                "no interface of its network namespace had the address {}",
                call.address.ip()
            ),
            _ => return None,
        })
    }

    fn evidence(&self, (call, count): &(FailedBind, f64), holders: &[Listening]) -> Value {
        let others = match self.holder(call, holders) {
            Holder::Others(others) => others,
            Holder::Unknown | Holder::Itself => Vec::new(),
        };
        let others = others.iter().take(NAMED);
        let others = others.map(|it| json!({"comm": it.comm(), "unit": it.unit(), "pid": pid(it)}));
        json!({
            "call": if call.is_listen { "listen" } else { "bind" },
            "errno": errno_name(call.errno),
            "netns": call.netns,
            "address": call.address.ip(),
            "port": call.address.port(),
            "count": *count as u64,
            "listening": others.collect::<Vec<_>>(),
        })
    }
}

fn pid(labels: &Labels) -> Option<u32> {
    labels.pid()?.parse().ok()
}

/// `0.0.0.0:80`, or `any port of 0.0.0.0`.
fn place(address: SocketAddr) -> String {
    match address.port() {
        0 => format!("any port of {}", address.ip()),
        _ => address.to_string(),
    }
}

/// The hint about an errno.
fn hint(errno: &str) -> Option<&'static str> {
    match errno {
        "EADDRINUSE" => Some("port-taken"),
        "EACCES" => Some("port-privileged"),
        "EADDRNOTAVAIL" => Some("bind-address"),
        _ => None,
    }
}
