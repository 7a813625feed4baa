//! Calls of bind() and listen() that failed, with their addresses.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use super::names::NameId;
use crate::heaviest::Heaviest;

/// A kind of call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FailedBind {
    /// The network namespace of the socket.
    pub netns: u32,
    /// What bind() asked for, or where the socket of listen() is bound. Port 0 is any port.
    pub address: SocketAddr,
    /// Positive errno.
    pub errno: u16,
    /// listen(), and not bind().
    pub is_listen: bool,
}

/// One call that failed.
#[derive(Clone, Copy, Debug)]
pub struct FailedCall {
    /// Slot of its process, and the slot's generation.
    pub owner: (u32, u32),
    /// The process.
    pub pid: u32,
    /// By CLOCK_MONOTONIC.
    pub at: Duration,
    /// `None` if its address is not known.
    pub call: Option<FailedBind>,
}

/// Those of a name.
#[derive(Clone, Debug, Default)]
pub struct FailedBinds {
    /// How often each kind failed.
    pub calls: Heaviest<FailedBind>,
    /// When the last one failed, by CLOCK_MONOTONIC.
    pub last_at: Duration,
    /// The process that made it.
    pub last_pid: u32,
}

pub(super) type ByName = BTreeMap<NameId, FailedBinds>;
