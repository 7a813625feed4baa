//! Records as aligned columns.

use std::{borrow::Cow, net::SocketAddr};

use observer_common::{
    CONN_RESET_RECEIVED, CONN_RESET_SENT, CONN_SEEDED, ENDED_ACK, ENDED_PEER_CLOSED, ENDED_RESET,
    ENDED_TIMEOUT, ENDED_UNREAD, ENDED_UNUSED, ENDED_WINDOW, RECORD_BIND_FAILED, RECORD_CLOSE,
    RECORD_CONNECT_FAILED, RECORD_FD_EXHAUSTED, RECORD_RESET_RECEIVED, RECORD_RESET_SENT,
    RECORD_SETSOCKOPT_FAILED, Record, TIMED_STATES, unpack_duration,
};

use super::{Clock, Identity, address, dashed, failed_call, kind_name, named_state};
use crate::{
    names::{
        ResetReasons, errno_name, family_name, level_name, option_name, protocol_name,
        received_reset_name,
    },
    text::{cell, sanitize, wrap},
};

// 45 characters hold any two IPv4 addresses; a long pair of IPv6 addresses shifts the rest of its line.
// 23 hold the longest transition.
fn row(columns: [&str; 7], why: &str) -> String {
    let [time, pid, comm, event, connection, state, age] = columns;
    let line = format!(
        "{time:<12} {pid:>7} {} {event:<17} {connection:<45} {state:<23} {age:>8}  {why}",
        cell(comm, 15),
    );
    line.trim_end().to_owned()
}

/// The columns up to the last one.
const COLUMNS: usize = 135;
/// What the last one needs beside the others.
const LEAST_WHY: usize = 25;
/// Where the time ends: the indentation of what has no room.
const INDENT: &str = "             ";

/// A row for a terminal of `width`, without newline: in columns if there is room for some of the last one, else with the
/// connection, its state and the last one on lines of their own.
fn fit(columns: [&str; 7], why: &str, width: usize) -> String {
    let lines = if width >= COLUMNS + LEAST_WHY {
        let start = format!("{:<COLUMNS$}", row(columns, ""));
        wrap(&start, INDENT, why, width)
    } else {
        let [time, pid, comm, event, connection, state, age] = columns;
        let start = format!(
            "{time:<12} {pid:>7} {} {event:<17} {age:>8}",
            cell(comm, 15)
        );
        let known = [connection, state, why].into_iter();
        let details: Vec<_> = known.filter(|it| !["", "-"].contains(it)).collect();
        let details = wrap(INDENT, INDENT, &details.join(" | "), width);
        format!("{}\n{}", start.trim_end(), details.trim_end())
    };
    lines.trim_end().to_owned()
}

const HEADER: [&str; 7] = [
    "TIME",
    "PID",
    "COMM",
    "EVENT",
    "LOCAL → REMOTE",
    "STATE",
    "AGE",
];

/// The names of the columns, to be printed once, without newline. `width` is that of the terminal, if they are for one.
#[must_use]
pub fn header(width: Option<usize>) -> String {
    match width {
        Some(width) => fit(HEADER, "WHY", width),
        None => row(HEADER, "WHY"),
    }
}

/// One record on one line, without newline.
#[must_use]
pub fn line(
    record: &Record,
    identity: &Identity<'_>,
    reasons: &ResetReasons,
    clock: Clock,
) -> String {
    lines(record, identity, reasons, clock, None)
}

/// One record, without newline at the end: on as many lines as a terminal of `width` needs, if it is for one.
#[must_use]
pub fn lines(
    record: &Record,
    identity: &Identity<'_>,
    reasons: &ResetReasons,
    clock: Clock,
    width: Option<usize>,
) -> String {
    let known = |text: &str| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text.to_owned()
        }
    };
    let pid = identity
        .pid_or(record.tgid)
        .map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let columns = [
        &*clock.local(record.time_ns),
        &pid,
        &known(identity.comm),
        &dashed(&kind_name(record.kind)),
        &connection(record),
        &states(record),
        &age(record),
    ];
    let why = why(record, reasons);
    match width {
        Some(width) => fit(columns, &why, width),
        None => row(columns, &why),
    }
}

fn endpoint(family: u16, bytes: &[u8; 16], port: u16) -> Option<SocketAddr> {
    Some(SocketAddr::new(address(family, bytes)?, port))
}

fn connection(record: &Record) -> String {
    let local = endpoint(record.family, &record.local, record.local_port);
    let remote = endpoint(record.family, &record.remote, record.remote_port);
    let named = |end: &SocketAddr| end.port() != 0 || !end.ip().is_unspecified();
    match (local.filter(named), remote.filter(named)) {
        (None, None) => "-".to_owned(),
        (Some(local), None) => local.to_string(),
        (None, Some(remote)) => format!("- → {remote}"),
        (Some(local), Some(remote)) => format!("{local} → {remote}"),
    }
}

fn states(record: &Record) -> String {
    match (named_state(record.from), named_state(record.to)) {
        (None, None) => "-".to_owned(),
        (Some(from), Some(to)) if from != to => format!("{from}→{to}"),
        (Some(state), _) | (None, Some(state)) => state.into_owned(),
    }
}

fn age(record: &Record) -> String {
    if record.age_ns == 0 {
        "-".to_owned()
    } else {
        short(record.age_ns)
    }
}

/// A duration in at most eight characters: `0.1ms`, `31.2s`, `4.5m`, `26.0h`, `3.2d`.
pub(super) fn short(nanoseconds: u64) -> String {
    // The limits are where a number with one decimal would be rounded up to the next unit.
    let ns = nanoseconds as f64;
    let (value, unit) = match ns / 1e6 {
        ms if ms < 999.95 => (ms, "ms"),
        ms if ms < 119_950.0 => (ms / 1e3, "s"),
        ms if ms < 7_197_000.0 => (ms / 6e4, "m"),
        ms if ms < 172_620_000.0 => (ms / 3.6e6, "h"),
        ms => (ms / 8.64e7, "d"),
    };
    format!("{value:.1}{unit}")
}

fn why(record: &Record, reasons: &ResetReasons) -> String {
    let mut parts: Vec<Cow<'_, str>> = Vec::new();
    match record.kind {
        RECORD_CLOSE => {
            parts.push(spent(record).into());
            parts.push(waited(record).into());
            if record.errno != 0 {
                parts.push(format!("ended with {}", errno_name(record.errno)).into());
            }
            if record.flags & CONN_RESET_SENT != 0 {
                parts.push("reset sent".into());
            }
            if record.flags & CONN_RESET_RECEIVED != 0 {
                parts.push("reset received".into());
            }
            if record.flags & CONN_SEEDED != 0 {
                parts.push("start not seen".into());
            }
        }
        RECORD_RESET_SENT => parts.push(reasons.name(record.reason)),
        RECORD_RESET_RECEIVED => parts.push(received_reset_name(record.reason)),
        RECORD_SETSOCKOPT_FAILED => {
            let Record {
                family,
                protocol,
                level,
                option,
                errno,
                reason,
                ..
            } = *record;
            parts.push(
                format!(
                    "{} {} {} {}: {}",
                    family_name(family),
                    protocol_name(family, protocol, reason as u16),
                    level_name(level),
                    option_name(level, option),
                    errno_name(errno),
                )
                .into(),
            );
        }
        RECORD_BIND_FAILED => parts.push(bind_failed(record).into()),
        RECORD_CONNECT_FAILED | RECORD_FD_EXHAUSTED => parts.push(errno_name(record.errno)),
        _ => {}
    }
    match record.retransmits {
        0 => {}
        1 => parts.push("1 retransmit".into()),
        many => parts.push(format!("{many} retransmits").into()),
    }
    if record.mptcp != 0 {
        parts.push("mptcp".into());
    }
    parts.retain(|part| !part.is_empty());
    sanitize(&parts.join(", "))
}

/// `bind() to 0.0.0.0:8080 failed: EADDRINUSE`
fn bind_failed(record: &Record) -> String {
    let call = failed_call(record).unwrap_or("call");
    let preposition = if call == "bind" { "to" } else { "at" };
    let place = match endpoint(record.family, &record.local, record.local_port) {
        Some(address) if address.port() == 0 => {
            format!(" {preposition} any port of {}", address.ip())
        }
        Some(address) => format!(" {preposition} {address}"),
        None => String::new(),
    };
    format!("{call}(){place} failed: {}", errno_name(record.errno))
}

/// What the connection waited for when it began to end.
fn waited(record: &Record) -> String {
    let time = short(u64::from(record.waited_ms) * 1_000_000);
    match record.waited_for as u8 {
        ENDED_TIMEOUT => format!("gave up after {time}, waiting for the peer"),
        ENDED_PEER_CLOSED => format!("the peer closed after {time}, without an answer"),
        ENDED_RESET => format!("ended after {time} of waiting for the peer"),
        ENDED_UNREAD => format!("closed with data unread for {time}"),
        ENDED_WINDOW => format!("the peer's window was closed for {time}"),
        ENDED_UNUSED => format!("closed after {time} without any data"),
        ENDED_ACK => format!("the peer had not acknowledged for {time}"),
        _ => String::new(),
    }
}

/// `SYN_SENT 0.1ms ESTABLISHED 2.0s`
fn spent(record: &Record) -> String {
    TIMED_STATES
        .iter()
        .filter_map(|state| {
            let packed = *record.spent.get(usize::from(*state))?;
            let name = named_state(*state)?;
            (packed != 0).then(|| format!("{name} {}", short(unpack_duration(packed))))
        })
        .collect::<Vec<_>>()
        .join(" ")
}
