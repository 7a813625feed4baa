//! Findings of the detectors.

mod evidence;
mod holder;

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use observer_common::ProcessKey;
use serde::{Serialize, Serializer, ser::SerializeMap as _};

pub(super) use self::evidence::named;
pub use self::evidence::{
    Awaited, Breakdown, Direction, Elsewhere, Evidence, KindCount, PeerReason, PeerShare, Scanned,
    Waiting,
};
pub use self::holder::Holder;
use self::holder::labels;

use super::{anomaly::Anomaly, cause::Explanation};
use crate::{
    table::{Labels, ListenAddress},
    walk::Destination,
};

/// How bad it is, in the order of the numbers of `socket_anomaly`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It will hurt, or hurts some.
    Warning = 1,
    /// It hurts now.
    Critical = 2,
}

/// What a finding is about. A process keeps its identity when its labels change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A process.
    Process(ProcessKey),
    /// All processes of a name, ended ones included.
    Name(Arc<Labels>),
    /// Local ports for a destination.
    Destination(Destination),
    /// The listening sockets of an address.
    Listener(ListenAddress),
    /// A network namespace, by inode number.
    Namespace(u32),
    /// Where segments for closed ports come from. The address may be forged.
    Source {
        /// Network namespace in which they arrived.
        netns: u32,
        /// Their source address.
        address: IpAddr,
    },
}

impl Subject {
    /// The network namespace that it is in; `None` of processes and names.
    #[must_use]
    pub fn netns(&self) -> Option<u32> {
        match self {
            Self::Process(_) | Self::Name(_) => None,
            Self::Destination(Destination { netns, .. })
            | Self::Listener(ListenAddress { netns, .. })
            | Self::Source { netns, .. }
            | Self::Namespace(netns) => Some(*netns),
        }
    }
}

impl Serialize for Subject {
    /// As an object whose keys depend on the kind. Names of processes are in the finding's labels.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Process(key) => {
                map.serialize_entry("kind", "process")?;
                map.serialize_entry("pid", &key.tgid)?;
                map.serialize_entry("start_boottime_ns", &key.start_boottime_ns)?;
            }
            Self::Name(labels) => {
                map.serialize_entry("kind", "name")?;
                map.serialize_entry("comm", labels.comm())?;
                map.serialize_entry("unit", labels.unit())?;
            }
            Self::Destination(to) => {
                map.serialize_entry("kind", "destination")?;
                map.serialize_entry("netns", &to.netns)?;
                map.serialize_entry("source", &to.source)?;
                map.serialize_entry("destination", &to.remote)?;
            }
            Self::Listener(place) => {
                map.serialize_entry("kind", "listener")?;
                map.serialize_entry("netns", &place.netns)?;
                map.serialize_entry("address", &place.address)?;
            }
            Self::Namespace(netns) => {
                map.serialize_entry("kind", "namespace")?;
                map.serialize_entry("netns", netns)?;
            }
            Self::Source { netns, address } => {
                map.serialize_entry("kind", "source")?;
                map.serialize_entry("netns", netns)?;
                map.serialize_entry("address", address)?;
            }
        }
        map.end()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(key) => write!(f, "pid {}", key.tgid),
            Self::Name(labels) => write!(f, "{} ({})", labels.comm(), labels.unit()),
            Self::Destination(to) => write!(f, "{} -> {}", to.source, to.remote),
            Self::Listener(place) => write!(f, "{}", place.address),
            Self::Namespace(netns) => write!(f, "netns {netns}"),
            Self::Source { address, .. } => write!(f, "from {address}"),
        }
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What.
    pub anomaly: Anomaly,
    /// With whom.
    pub subject: Subject,
    /// `pid`, `comm` and `unit` of the process or name. Of several holders, those of the name that has the most.
    #[serde(flatten, serialize_with = "labels")]
    pub labels: Option<Arc<Labels>>,
    /// The network namespace that it is in; `None` if that is unknown, as for a name whose processes have all ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<u32>,
    /// How bad.
    pub severity: Severity,
    /// The statistic divided by the threshold of raising, 1 or more when it is raised.
    pub score: f64,
    /// Time until it fails, if it can be told.
    #[serde(rename = "time_left_seconds", serialize_with = "seconds")]
    pub time_left: Option<Duration>,
    /// CLOCK_MONOTONIC when it was raised.
    #[serde(rename = "since_monotonic_seconds", serialize_with = "some_seconds")]
    pub since: Duration,
    /// The numbers.
    pub evidence: Evidence,
    /// Why: one cause that explains most, or several.
    pub causes: Vec<Explanation>,
}

fn seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(serializer)
}

fn some_seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    time.as_secs_f64().serialize(serializer)
}

/// A change of a finding.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It is new.
    Raised(Finding),
    /// Its severity or its first cause changed, or it is as before and was last reported ten minutes ago.
    Updated(Finding),
    /// It is over, or another finding explains it.
    Cleared(Finding),
    /// A critical one has taken its place, because there is no room for both.
    Unlisted(Finding),
}

impl Change {
    /// As JSON spells it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Raised(_) => "raised",
            Self::Updated(_) => "updated",
            Self::Cleared(_) => "cleared",
            Self::Unlisted(_) => "unlisted",
        }
    }

    /// The finding as it was then.
    #[must_use]
    pub fn finding(&self) -> &Finding {
        match self {
            Self::Raised(finding)
            | Self::Updated(finding)
            | Self::Cleared(finding)
            | Self::Unlisted(finding) => finding,
        }
    }
}
