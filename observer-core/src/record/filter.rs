//! Which records to show.

use std::{fmt, str::FromStr};

use observer_common::{
    RECORD_CLOSE, RECORD_KINDS, RECORD_NAMES, RECORD_STATE, RECORD_TIME_WAIT, Record,
};

use super::{Identity, dashed, kind_name};
use crate::config::Glob;

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

/// Which records to show.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    pids: Vec<u32>,
    comms: Vec<Glob>,
    ports: Vec<u16>,
    kinds: [bool; RECORD_KINDS],
}

impl Filter {
    /// Passes records of these processes, comms (any of the patterns), ports (at either end) and
    /// kinds; an empty list passes all. State transitions pass only with `states`, or if they are
    /// among the kinds.
    #[must_use]
    pub fn new(
        pids: Vec<u32>,
        comms: Vec<Glob>,
        ports: Vec<u16>,
        kinds: &[Kind],
        states: bool,
    ) -> Self {
        let mut chosen = [kinds.is_empty(); RECORD_KINDS];
        chosen[usize::from(RECORD_STATE)] = states;
        for kind in kinds {
            chosen[usize::from(kind.get())] = true;
        }
        Self {
            pids,
            comms,
            ports,
            kinds: chosen,
        }
    }

    /// The kinds that can pass, one bit per `RECORD_` number. The kernel programs need not write the
    /// others.
    #[must_use]
    pub fn mask(&self) -> u32 {
        (0..RECORD_KINDS)
            .filter(|&kind| self.kinds[kind])
            .fold(0, |mask, kind| mask | 1 << kind)
    }

    /// Whether a record passes the filter. A record of an unknown kind passes only if no kinds were given.
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

/// Whether a record describes a failure: any except an entry into TIME_WAIT and a close without an
/// errno.
#[must_use]
pub fn is_failure(record: &Record) -> bool {
    match record.kind {
        RECORD_TIME_WAIT => false,
        RECORD_CLOSE => record.errno != 0,
        _ => true,
    }
}

/// The kinds that [`is_failure`] can pass, one bit per `RECORD_` number.
#[must_use]
pub fn failure_kinds() -> u32 {
    !(1 << RECORD_TIME_WAIT)
}
