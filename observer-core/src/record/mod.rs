//! Records of the ring as lines of text or JSON.
//!
//! Besides the [`Record`](observer_common::Record), the caller passes the owner of the socket
//! ([`Identity`]), the kernel's [reset reasons](crate::names::ResetReasons) and the offset of the
//! wall clock ([`Clock`]).

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use observer_common::{
    AF_INET, AF_INET6, BIND_CALLS, ENDED_NAMES, RECORD_BIND_FAILED, RECORD_NAMES, Record,
    state_name,
};

mod filter;
mod identities;
mod json;
mod lines;
#[cfg(test)]
mod tests;

pub use crate::clock::Clock;
pub use filter::{Filter, Kind, failure_kinds, is_failure};
pub use identities::Identities;
pub use json::json;
pub use lines::{header, line, lines};

/// The owner of a record's socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity<'a> {
    /// Process id; 0 for that of the record (`Record::tgid`).
    pub pid: u32,
    /// Comm of the process; empty if not known.
    pub comm: &'a str,
    /// systemd unit or container; empty when there is none.
    pub unit: &'a str,
}

impl Identity<'_> {
    /// The process id, or else the record's; `None` when neither is known.
    fn pid_or(&self, tgid: u32) -> Option<u32> {
        [self.pid, tgid].into_iter().find(|pid| *pid != 0)
    }
}

fn dashed(name: &str) -> String {
    name.replace('_', "-")
}

/// The name of a `RECORD_` number, or the number.
fn kind_name(kind: u8) -> Cow<'static, str> {
    RECORD_NAMES
        .get(usize::from(kind))
        .map_or_else(|| format!("record_{kind}").into(), |name| (*name).into())
}

/// The name of a TCP state; `None` for 0, which stands for "no state".
fn named_state(state: u8) -> Option<Cow<'static, str>> {
    match (state, state_name(state)) {
        (0, _) => None,
        (_, Some(name)) => Some(name.into()),
        (number, None) => Some(format!("STATE_{number}").into()),
    }
}

/// The name of an `ENDED_` number; `None` if the connection did not wait.
fn ended_name(waited_for: u32) -> Option<&'static str> {
    let index = (waited_for as usize).checked_sub(1)?;
    ENDED_NAMES.get(index).copied()
}

/// Which call failed, of a failed bind() or listen(); `None` for other kinds.
fn failed_call(record: &Record) -> Option<&'static str> {
    let of = (record.kind == RECORD_BIND_FAILED).then_some(record.reason as usize)?;
    BIND_CALLS.get(of).copied()
}

/// A record's address; `None` for a socket that is neither IPv4 nor IPv6.
#[must_use]
pub fn address(family: u16, bytes: &[u8; 16]) -> Option<IpAddr> {
    match family {
        AF_INET => {
            let [a, b, c, d, ..] = *bytes;
            Some(Ipv4Addr::new(a, b, c, d).into())
        }
        AF_INET6 => Some(Ipv6Addr::from(*bytes).into()),
        _ => None,
    }
}
