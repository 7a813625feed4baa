//! `observer tail`: records of the stream as lines of text or JSON.
//!
//! What a line needs beyond the [`Record`] itself is passed in: who owns the socket
//! ([`Identity`]), what the numbers are called ([`RecordNames`]) and what time it is
//! ([`Clock`]).

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use observer_common::{
    AF_INET, AF_INET6, RECORD_KINDS, RECORD_NAMES, RECORD_STATE, Record, state_name,
};

use super::TailArgs;
use crate::config::Glob;

mod clock;
mod json;
mod lines;
#[cfg(test)]
mod tests;

pub use clock::Clock;
pub use json::json;
pub use lines::{header, line};

/// Who owns the socket of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity<'a> {
    /// Process id; 0 for what the record says (`Record::tgid`).
    pub pid: u32,
    /// Comm, as the process chose it; empty when not known.
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

/// What the numbers in a record are called. An implementation never fails: what it does
/// not know it writes as a number.
pub trait RecordNames {
    /// `ECONNREFUSED` for 111.
    fn errno(&self, errno: u16) -> Cow<'static, str>;
    /// `IPPROTO_TCP` for 6.
    fn sockopt_level(&self, level: i32) -> Cow<'static, str>;
    /// `TCP_CONGESTION` for 13 at level 6.
    fn sockopt_option(&self, level: i32, option: i32) -> Cow<'static, str>;
    /// `ipv4`, `ipv6` and so on for an `AF_` number.
    fn family(&self, family: u16) -> Cow<'static, str>;
    /// `tcp`, `mptcp`, `udp`... for a socket of this family.
    fn protocol(&self, family: u16, protocol: u16, socket_type: u16) -> Cow<'static, str>;
    /// The reason of an RST: an index as in `Slot::resets_sent` when `sent`, else as in
    /// `Slot::resets_received`.
    fn reset_reason(&self, sent: bool, index: u32) -> Cow<'_, str>;
}

/// A kind of record, as given to `--kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(u8);

impl Kind {
    /// The `RECORD_` number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.trim().replace('-', "_");
        match (0..).zip(RECORD_NAMES).find(|(_, known)| *known == name) {
            Some((kind, _)) => Ok(Self(kind)),
            None => Err(format!(
                "not one of {}",
                RECORD_NAMES.map(dashed).join(", ")
            )),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&kind_name(self.0))
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

/// Which records to show.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    pids: Vec<u32>,
    comms: Vec<Glob>,
    ports: Vec<u16>,
    kinds: [bool; RECORD_KINDS],
}

impl Filter {
    /// The filter that these flags describe.
    #[must_use]
    pub fn new(args: &TailArgs) -> Self {
        // Not exhaustive: the other flags are about output.
        let TailArgs {
            pid,
            comm,
            port,
            kind,
            states,
            ..
        } = args;
        let mut kinds = [kind.is_empty(); RECORD_KINDS];
        kinds[usize::from(RECORD_STATE)] = *states;
        for kind in kind {
            kinds[usize::from(kind.get())] = true;
        }
        Self {
            pids: pid.clone(),
            comms: comm.clone(),
            ports: port.clone(),
            kinds,
        }
    }

    /// The kinds that can pass, one bit per `RECORD_` number: the kernel side need not
    /// write the others.
    #[must_use]
    pub fn mask(&self) -> u32 {
        (0..RECORD_KINDS)
            .filter(|&kind| self.kinds[kind])
            .fold(0, |mask, kind| mask | 1 << kind)
    }

    /// Whether a record is to be shown. A record of a kind newer than this program passes
    /// only where no kinds were chosen.
    #[must_use]
    pub fn matches(&self, record: &Record, identity: &Identity<'_>) -> bool {
        let Self {
            pids,
            comms,
            ports,
            kinds,
        } = self;
        let chosen = kinds.get(usize::from(record.kind)).copied();
        let kind = chosen.unwrap_or_else(|| kinds[..usize::from(RECORD_STATE)].iter().all(|k| *k));
        kind && (pids.is_empty()
            || identity
                .pid_or(record.tgid)
                .is_some_and(|pid| pids.contains(&pid)))
            && (comms.is_empty() || comms.iter().any(|glob| glob.matches(identity.comm)))
            && (ports.is_empty()
                || ports.contains(&record.local_port)
                || ports.contains(&record.remote_port))
    }
}

/// How many records were shown, and how many never arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Printed.
    pub shown: u64,
    /// Lost in the kernel because the ring was full.
    pub missed: u64,
    reported: u64,
}

impl Tally {
    /// Takes over the total of lost records; true when some were lost since the last call
    /// and the tally is to be printed.
    pub fn update_missed(&mut self, total: u64) -> bool {
        self.missed = self.missed.max(total);
        std::mem::replace(&mut self.reported, self.missed) < self.missed
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            shown,
            missed,
            reported: _,
        } = self;
        let records = if *shown == 1 { "record" } else { "records" };
        write!(f, "{shown} {records} shown, {missed} missed (ring full)")
    }
}
