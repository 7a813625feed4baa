//! The problem, with the numbers of a finding.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{
    names::named,
    numbers::{duration, growth, number, percent, rate},
};
use crate::detect::{
    anomaly::Anomaly,
    finding::{Breakdown, Direction, Elsewhere, Evidence, Finding, PeerShare, Subject, Waiting},
};

/// Results of failed connects that are named.
const RESULTS: usize = 3;
/// Kinds of descriptors that are named.
const NEWEST: usize = 3;

/// Peers that are named.
const PEERS: usize = 3;

/// What it does.
pub(super) fn what(finding: &Finding) -> String {
    // None at all is said by the numbers.
    let left = finding.time_left.filter(|left| !left.is_zero());
    let left = left.map(duration);
    match &finding.evidence {
        Evidence::Resets {
            direction,
            per_second,
            baseline,
            share,
            peer_pid: _,
            peer,
            peers,
            sent: _,
            received: _,
        } => {
            let verb = match direction {
                Direction::Sent => "aborts connections: sends",
                Direction::Received => "has connections aborted: receives",
            };
            let peer = peer.as_deref().map_or_else(String::new, |it| {
                format!("; the other end is mostly {} of this host", named(it))
            });
            let normal = baseline.map_or_else(String::new, |baseline| {
                format!(" (normal here: {}/s)", rate(baseline))
            });
            format!(
                "{verb} {} RSTs/s, for {} of those that end{normal}{}{peer}",
                rate(*per_second),
                percent(*share),
                shares(peers, ";", "with"),
            )
        }
        Evidence::Connects {
            failed,
            attempts,
            seconds,
            waiting,
            results,
            peers,
            waiting_peers,
            scanned,
        } => {
            let to = shares(waiting_peers, ":", "to");
            let waiting = match waiting {
                0 => None,
                1 => Some(format!(
                    "1 connection has waited for an answer for over 3 s{to}"
                )),
                waiting => Some(format!(
                    "{} connections have waited for an answer for over 3 s{to}",
                    number(*waiting)
                )),
            };
            let failed = (*failed > 0).then(|| {
                format!(
                    "{} of {} connects failed in {}{}{}",
                    number(*failed),
                    number(*attempts),
                    duration(Duration::from_secs(*seconds)),
                    reasons(results),
                    match scanned {
                        None => shares(peers, ":", "to"),
                        Some(_) => String::new(),
                    },
                )
            });
            let parts: Vec<_> = failed.into_iter().chain(waiting).collect();
            let does = scanned.map_or_else(
                || "cannot connect".to_owned(),
                |it| {
                    format!(
                        "tries ports of {}, at least {}",
                        it.address,
                        number(it.ports)
                    )
                },
            );
            format!("{does}: {}", parts.join("; "))
        }
        Evidence::Unanswered {
            unanswered,
            ended,
            seconds,
            peers,
        } => format!(
            "loses connections that nothing answers any more: {} of the {} that ended in {}{}",
            number(*unanswered),
            number(*ended),
            duration(Duration::from_secs(*seconds)),
            shares(peers, ":", "with"),
        ),
        Evidence::Ports {
            blocked,
            available,
            live: _,
            time_wait,
            opened_per_second,
            end,
            failed_searches,
            holders: _,
        } => {
            let (taken, opened) = match finding.subject {
                Subject::Namespace(_) => ("are taken by bind()", "bound"),
                _ => ("are blocked", "opened"),
            };
            let state = format!(
                "{} of {} {taken}, {} of them in TIME_WAIT, and {} connections/s are {opened}",
                number(*blocked),
                number(*available),
                percent(f64::from(*time_wait) / f64::from((*blocked).max(1))),
                rate(*opened_per_second),
            );
            if finding.anomaly == Anomaly::TimeWaitSurge {
                return format!(
                    "leaves most local ports in TIME_WAIT: {state}; {} will be blocked at this rate",
                    percent(*end)
                );
            }
            let when = left.as_ref();
            let when = when.map_or_else(String::new, |left| format!(" in {left}"));
            match failed_searches {
                0 if left.is_none() && *opened_per_second < 0.5 => {
                    format!("has blocked most local ports: {state}")
                }
                0 => format!("runs out of local ports{when}: {state}"),
                1 => format!("is out of local ports, a call found none in 10 s: {state}"),
                failed => format!(
                    "is out of local ports, {} calls found none in 10 s: {state}",
                    number(*failed)
                ),
            }
        }
        Evidence::GaveUp {
            gave_up,
            connections,
            seconds,
            peers,
        } => format!(
            "gives up before its peers answer: {} of {} connections in {}, each after 1.5 s or longer{}",
            number(*gave_up),
            number(*connections),
            duration(Duration::from_secs(*seconds)),
            shares(peers, ":", "with"),
        ),
        Evidence::TimeWaitOverflows { overflows } => format!(
            "closed {} connections without TIME_WAIT in 10 s",
            number(*overflows)
        ),
        Evidence::Descriptors {
            open,
            limit,
            growth_per_second,
            emfile,
            enfile,
            newest,
            peers,
        } => {
            let open = format!(
                "has {} of {} file descriptors open",
                number(*open),
                number(*limit)
            );
            let errors = [
                (*emfile, "EMFILE (too many open files)"),
                (*enfile, "ENFILE (too many open files on the host)"),
            ];
            let errors: Vec<_> = errors
                .into_iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, errno)| format!("{} with {errno}", number(count)))
                .collect();
            let when = match left.filter(|_| errors.is_empty()) {
                Some(left) => format!("; none is left in {left}"),
                None => String::new(),
            };
            let errors = match errors.is_empty() {
                true => String::new(),
                false => format!("; calls fail, {} in the last seconds", errors.join(", ")),
            };
            let kinds: Vec<_> = newest
                .iter()
                .take(NEWEST)
                .map(|it| format!("{} ({})", it.kind, number(it.count)))
                .collect();
            let kinds = match kinds.is_empty() {
                true => String::new(),
                false => format!("; the newest are {}", kinds.join(", ")),
            };
            let growth = growth(*growth_per_second);
            let peers = shares(peers, "; connections:", "with");
            format!("{open}{growth}{when}{errors}{kinds}{peers}")
        }
        Evidence::CloseWait {
            over_10s,
            over_60s,
            peers,
        } => {
            let long = match over_60s {
                0 => String::new(),
                long => format!(", {} of them for over a minute", number(*long)),
            };
            let sockets = if *over_10s == 1 { "socket" } else { "sockets" };
            format!(
                "does not close {} {sockets} that the other side closed over 10 s ago{long}{}",
                number(*over_10s),
                shares(peers, ":", "with"),
            )
        }
        Evidence::Waits {
            waiting: waits,
            connections,
            reasons: _,
            longest_seconds,
            peers,
        } => {
            let does = match finding.anomaly {
                Anomaly::ProgramNotReading => "does not read what it was sent",
                Anomaly::TlsStall => "has TLS handshakes that do not end",
                _ => "waits for peers that do nothing",
            };
            let longest = duration(Duration::from_secs_f64(longest_seconds.max(0.0)));
            format!(
                "{does}: {} of its {} connections, the longest for {longest}{}",
                number(*waits),
                number(*connections),
                waiting(peers, ":"),
            )
        }
        Evidence::Handshakes {
            failed,
            handshakes,
            seconds,
            peers,
        } => format!(
            "cannot complete TLS handshakes: {} of {} failed in {}{}",
            number(*failed),
            number(*handshakes),
            duration(Duration::from_secs(*seconds)),
            shares(peers, "; connections meanwhile:", "with"),
        ),
        Evidence::Idle {
            idle,
            idle_10min,
            connections,
            growth_per_second,
        } => {
            let long = match idle_10min {
                0 => String::new(),
                long => format!(", {} of them for over 10 minutes", number(*long)),
            };
            format!(
                "keeps more and more connections that carry nothing: {} of its {}{long}{}",
                number(*idle),
                number(*connections),
                growth(*growth_per_second),
            )
        }
        Evidence::EarlyData {
            seconds,
            attempts,
            rejections,
            reset,
        } => {
            let [abandoned, failed] = [rejections.get("abandoned"), attempts.get("failed")];
            let rejected = attempts.get("rejected").max(rejections.sum());
            let connections = |part, whole, which| {
                format!(
                    "{} of {} QUIC connections {which}",
                    number(part),
                    number(whole)
                )
            };
            let parts = [
                (
                    *reset,
                    rejected,
                    "whose early data the server rejected had streams reset",
                ),
                (
                    abandoned,
                    rejected,
                    "whose early data the server rejected were closed",
                ),
                (
                    failed,
                    attempts.sum(),
                    "with early data ended before the server had answered",
                ),
            ];
            let parts: Vec<_> = parts
                .into_iter()
                .filter(|(part, ..)| *part > 0)
                .map(|(part, whole, which)| connections(part, whole, which))
                .collect();
            // What was abandoned may have been sent again on another connection.
            let loses = if *reset == 0 && failed == 0 {
                "may lose"
            } else {
                "loses"
            };
            format!(
                "{loses} requests that it sends as early data (QUIC 0-RTT): in {}, {}",
                duration(Duration::from_secs(*seconds)),
                parts.join(", and "),
            )
        }
        Evidence::AcceptQueue {
            overflows,
            backlog,
            max_backlog,
            fullest,
            stalled,
            stalled_seconds,
            sockets,
            accepts,
            stuck_pid,
            waits,
            holders: _,
        } => {
            let fullest = match sockets {
                0 | 1 => String::new(),
                sockets => format!(
                    " over {} sockets, the fullest {} full",
                    number(*sockets),
                    percent(*fullest)
                ),
            };
            let stuck = stuck_pid.map_or_else(String::new, |pid| format!(", none by pid {pid}"));
            let accepts = match accepts {
                0 => "none was accepted".to_owned(),
                accepts => format!("{} were accepted", number(*accepts)),
            };
            let dropped = match (overflows, stalled) {
                (0, 0) => "has its accept queue nearly full".to_owned(),
                (0, _) => "lets connections wait in its accept queue".to_owned(),
                (dropped, _) => format!("dropped {} connection requests in 10 s", number(*dropped)),
            };
            let longest = Duration::from_secs_f64(*stalled_seconds);
            let fullest = match stalled {
                0 => fullest,
                _ => format!("{fullest}, the longest for {}", duration(longest)),
            };
            format!(
                "{dropped}: {} connections wait for accept() where {} may{fullest}; {accepts} in the last \
                 seconds{stuck}{}",
                number(*backlog),
                number(*max_backlog),
                waiting(waits, "; its processes wait for answers:"),
            )
        }
        Evidence::Scan { ports, segments } => format!(
            "tries closed ports: {} segments to at least {} ports",
            number(*segments),
            number(*ports)
        ),
    }
}

/// `: 8 with 10.0.0.9:443, 2 with the client 10.0.0.9 of port 80`, or `: 8 with 10.0.0.9:443, which is nginx (pid 71)`.
/// Nothing if no peer is known. `before` is what separates it from the text before.
fn waiting(peers: &[Waiting], before: &str) -> String {
    let peer = |it: &Waiting| {
        let with = end(it.address, it.port, it.is_client);
        let server = it.server.as_deref().map(named);
        let server = server.map_or_else(String::new, |it| format!(", which is {it}"));
        format!("{} with {with}{server}", number(it.connections))
    };
    let peers: Vec<_> = peers.iter().take(PEERS).map(peer).collect();
    match peers.is_empty() {
        true => String::new(),
        false => format!("{before} {}", peers.join(", ")),
    }
}

fn end(address: IpAddr, port: u16, is_client: bool) -> String {
    match is_client {
        true => format!("the client {address} of port {port}"),
        false => SocketAddr::new(address, port).to_string(),
    }
}

/// A share from which the rest is too small to be said.
const ALL: f64 = 0.995;

/// `: 52 % to 10.0.0.9:443 (refused), 48 % to 10.0.0.7:443 (timed out)`, or `: all to 10.0.0.9:443`. Nothing if
/// no peer is known. `before` is what separates it from the text before.
fn shares(peers: &[PeerShare], before: &str, preposition: &str) -> String {
    let is_all = |it: &PeerShare| it.share > ALL;
    let is_same = peers.windows(2).all(|two| two[0].reason == two[1].reason);
    let peer = |it: &PeerShare| {
        let part = match is_all(it) {
            true => "all".to_owned(),
            false => percent(it.share),
        };
        let reason = it.reason.filter(|_| !is_same);
        let reason = reason.map_or_else(String::new, |it| format!(" ({})", it.replace('_', " ")));
        let end = end(it.address, it.port, it.is_client);
        let elsewhere = it.elsewhere.as_ref().map_or_else(String::new, elsewhere);
        format!("{part} {preposition} {end}{reason}{elsewhere}")
    };
    // Beside all, others are too few to be said.
    let most = match peers.first().is_some_and(is_all) {
        true => 1,
        false => PEERS,
    };
    let parts: Vec<_> = peers.iter().take(most).map(peer).collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!("{before} {}", parts.join(", ")),
    }
}

/// Maximum number of addresses at which a program listens that are named.
const ADDRESSES: usize = 3;

/// `, where nginx (pid 71) listens at 127.0.0.1 only`.
fn elsewhere(it: &Elsewhere) -> String {
    let program = it.labels.as_deref().map(named);
    let first = it.addresses.iter().take(ADDRESSES).map(IpAddr::to_string);
    let mut addresses: Vec<_> = first.collect();
    if let Some(more) = it
        .addresses
        .len()
        .checked_sub(ADDRESSES)
        .filter(|it| *it > 0)
    {
        addresses.push(format!("{more} more addresses"));
    }
    format!(
        ", where {} listens at {} only",
        program.as_deref().unwrap_or("a program"),
        addresses.join(" and ")
    )
}

/// `: 40 refused, 5 timed out`, most first.
fn reasons(results: &Breakdown) -> String {
    let mut failures: Vec<_> = results.iter().filter(|(name, _)| *name != "ok").collect();
    failures.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    // As shares, because they are not of exactly the same seconds as the sum.
    let all: u64 = failures.iter().map(|(_, count)| count).sum();
    failures.truncate(RESULTS);
    let failures: Vec<_> = failures
        .into_iter()
        .map(|(name, count)| {
            let share = match count as f64 / all as f64 {
                share if share > ALL => "all".to_owned(),
                share => percent(share),
            };
            format!("{share} {}", name.replace('_', " "))
        })
        .collect();
    match failures.is_empty() {
        true => String::new(),
        false => format!(" ({})", failures.join(", ")),
    }
}
