//! Records as JSON.

use std::{borrow::Cow, net::IpAddr};

use observer_common::{
    CONN_ACTIVE, CONN_ATTEMPT_COUNTED, CONN_ATTEMPT_PENDING, CONN_ESTABLISHED, CONN_PARENT,
    CONN_PASSIVE, CONN_RESET_RECEIVED, CONN_RESET_SENT, CONN_SEEDED, CONN_TIME_WAIT,
    RECORD_RESET_RECEIVED, RECORD_RESET_SENT, RECORD_SETSOCKOPT_FAILED, Record, TIMED_STATES,
    unpack_duration,
};
use serde::{Serialize, Serializer};

use super::{Clock, Identity, address, ended_name, failed_call, kind_name, named_state};
use crate::{
    names::{
        ResetReasons, errno_name, family_name, level_name, option_name, protocol_name,
        received_reset_name,
    },
    text::harden_json,
};

/// The object written for a record. All keys are always present; values that a kind of record does
/// not have, or that are unknown, are null.
///
/// | key | type | meaning |
/// |---|---|---|
/// | `time` | string | RFC 3339 in UTC |
/// | `monotonic_seconds` | number | time by CLOCK_MONOTONIC |
/// | `event` | string | `close`, `connect_failed`, `reset_sent`, `reset_received`, `time_wait`, `setsockopt_failed`, `fd_exhausted`, `bind_failed`, `state` |
/// | `pid` | number | owner's process id |
/// | `comm` | string | owner's comm |
/// | `unit` | string | owner's systemd unit or container |
/// | `slot`, `generation` | number | slot of the owner, and its generation |
/// | `netns` | number | inode of the network namespace |
/// | `family` | string | address family |
/// | `protocol` | string | protocol |
/// | `mptcp` | bool | parent or subflow of an MPTCP connection |
/// | `local_address`, `remote_address` | string | without brackets; the local one of a failed bind() is the one that it was asked for |
/// | `local_port`, `remote_port` | number | |
/// | `state_from`, `state_to` | string | states before and after |
/// | `age_seconds` | number | age of the connection |
/// | `states` | object | seconds spent in each state; empty if not known |
/// | `flags` | array of strings | properties of the connection |
/// | `errno` | string | error of the call, the attempt or the connection |
/// | `call` | string | the call that failed, of `bind_failed`: `bind` or `listen` |
/// | `reason` | string | reason of an RST sent, or state in which one was received |
/// | `level`, `option` | string | arguments of setsockopt |
/// | `retransmits` | number | segments |
/// | `waited_for` | string | what the connection waited for, for a second or longer, when it began to end: `timeout` (the program gave up on the peer), `peer_closed`, `reset`, `unread`, `window`, `ack` |
/// | `waited_seconds` | number | for how long |
#[derive(Serialize)]
struct Object<'a> {
    time: String,
    monotonic_seconds: f64,
    event: Cow<'static, str>,
    pid: Option<u32>,
    comm: Option<&'a str>,
    unit: Option<&'a str>,
    slot: u32,
    generation: u32,
    netns: Option<u32>,
    family: Option<Cow<'static, str>>,
    protocol: Option<Cow<'static, str>>,
    mptcp: bool,
    local_address: Option<IpAddr>,
    local_port: Option<u16>,
    remote_address: Option<IpAddr>,
    remote_port: Option<u16>,
    state_from: Option<Cow<'static, str>>,
    state_to: Option<Cow<'static, str>>,
    age_seconds: Option<f64>,
    states: States<'a>,
    flags: Vec<&'static str>,
    errno: Option<Cow<'static, str>>,
    call: Option<&'static str>,
    reason: Option<Cow<'a, str>>,
    level: Option<Cow<'static, str>>,
    option: Option<Cow<'static, str>>,
    retransmits: u32,
    waited_for: Option<&'static str>,
    waited_seconds: Option<f64>,
}

struct States<'a>(&'a Record);

impl Serialize for States<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let spent = |state: &u8| self.0.spent.get(usize::from(*state)).copied().unwrap_or(0);
        serializer.collect_map(
            TIMED_STATES
                .iter()
                .filter(|state| spent(state) != 0)
                .map(|state| (named_state(*state), seconds(unpack_duration(spent(state))))),
        )
    }
}

const FLAGS: [(u16, &str); 10] = [
    (CONN_ACTIVE, "active"),
    (CONN_PASSIVE, "passive"),
    (CONN_SEEDED, "seeded"),
    (CONN_ESTABLISHED, "established"),
    (CONN_RESET_SENT, "reset_sent"),
    (CONN_RESET_RECEIVED, "reset_received"),
    (CONN_ATTEMPT_COUNTED, "attempt_counted"),
    (CONN_ATTEMPT_PENDING, "attempt_pending"),
    (CONN_PARENT, "parent"),
    (CONN_TIME_WAIT, "time_wait"),
];

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// One record as one line of JSON, without newline.
#[must_use]
pub fn json(
    record: &Record,
    identity: &Identity<'_>,
    reasons: &ResetReasons,
    clock: Clock,
) -> String {
    // Exhaustive, so that a new field cannot be forgotten.
    let Record {
        time_ns,
        age_ns,
        slot,
        generation,
        tgid,
        netns,
        kind,
        from,
        to,
        mptcp,
        flags,
        family,
        local_port,
        remote_port,
        errno,
        protocol,
        reason,
        level,
        option,
        retransmits,
        local,
        remote,
        waited_for,
        waited_ms,
        spent: _,
    } = record;
    let pid = identity.pid_or(*tgid);

    let local = address(*family, local);
    let remote = address(*family, remote);
    let is_sockopt = *kind == RECORD_SETSOCKOPT_FAILED;
    // See `observer_common::Record::reason`.
    let socket_type = if is_sockopt { *reason as u16 } else { 0 };
    let is_reset = matches!(*kind, RECORD_RESET_SENT | RECORD_RESET_RECEIVED);
    let object = Object {
        time: clock.rfc3339(*time_ns),
        monotonic_seconds: seconds(*time_ns),
        event: kind_name(*kind),
        pid,
        comm: Some(identity.comm).filter(|comm| !comm.is_empty()),
        unit: Some(identity.unit).filter(|unit| !unit.is_empty()),
        slot: *slot,
        generation: *generation,
        netns: (*netns != 0).then_some(*netns),
        family: (*family != 0).then(|| family_name(*family)),
        protocol: (*family != 0).then(|| protocol_name(*family, *protocol, socket_type)),
        mptcp: *mptcp != 0,
        local_address: local,
        local_port: local.map(|_| *local_port),
        remote_address: remote,
        remote_port: remote.map(|_| *remote_port),
        state_from: named_state(*from),
        state_to: named_state(*to),
        age_seconds: (*age_ns != 0).then(|| seconds(*age_ns)),
        states: States(record),
        flags: FLAGS
            .iter()
            .filter(|(bit, _)| flags & bit != 0)
            .map(|(_, name)| *name)
            .collect(),
        errno: (*errno != 0).then(|| errno_name(*errno)),
        call: failed_call(record),
        reason: is_reset.then(|| match *kind {
            RECORD_RESET_SENT => reasons.name(*reason),
            _ => received_reset_name(*reason),
        }),
        level: is_sockopt.then(|| level_name(*level)),
        option: is_sockopt.then(|| option_name(*level, *option)),
        retransmits: *retransmits,
        waited_for: ended_name(*waited_for),
        waited_seconds: ended_name(*waited_for).map(|_| f64::from(*waited_ms) / 1e3),
    };
    // Strings and numbers under string keys always serialize.
    harden_json(&serde_json::to_string(&object).unwrap_or_default())
}
