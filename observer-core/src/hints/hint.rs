//! The type of hints, and the condition under which a hint is shown.

use serde::Serialize;

use super::need::{Known, Need};

/// When a hint may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// As a part of a cause that names it.
    ByCause,
    /// For failed setsockopt() calls.
    BySetsockopt {
        /// Options by name, without those of `prefixes`.
        options: &'static [&'static str],
        /// Beginnings of names of options.
        prefixes: &'static [&'static str],
        /// Errnos by name.
        errnos: &'static [&'static str],
        /// The sockets it applies to.
        sockets: Sockets,
    },
}

/// Kinds of sockets, by the labels of `socket_setsockopt_failures_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sockets {
    /// Any.
    All,
    /// This protocol.
    Protocol(&'static str),
    /// This family.
    Family(&'static str),
    /// Neither inet nor inet6.
    NotInternet,
}

/// A fact and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Hint {
    /// Stable id.
    pub id: &'static str,
    /// The condition under which it is shown.
    #[serde(skip)]
    pub shown: Shown,
    /// What must hold on the host as well.
    #[serde(skip)]
    pub needs: &'static [Need],
    /// The fact.
    pub fact: &'static str,
    /// On which kernels.
    pub kernels: &'static str,
    /// The fix.
    pub fix: &'static str,
    /// How to verify the fix.
    pub check: &'static str,
}

/// A hint that is shown on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// The hint.
    #[serde(flatten)]
    pub hint: &'static Hint,
    /// Those of its conditions of which this host does not tell whether they hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
}

impl Advice {
    /// `None` if the hint does not apply to this host.
    #[must_use]
    pub fn new(hint: &'static Hint, known: &Known<'_>) -> Option<Self> {
        let mut unknown = Vec::new();
        for need in hint.needs {
            match need.holds(known) {
                Some(true) => {}
                Some(false) => return None,
                None => unknown.push(need.to_string()),
            }
        }
        Some(Self { hint, unknown })
    }
}

/// A failed setsockopt() call, by the labels of `socket_setsockopt_failures_total`.
#[derive(Clone, Copy, Debug)]
pub struct FailedOption<'a> {
    /// Address family.
    pub family: &'a str,
    /// Protocol.
    pub protocol: &'a str,
    /// Option.
    pub option: &'a str,
    /// Errno.
    pub errno: &'a str,
}

impl Shown {
    /// Whether it is for this call.
    pub(super) fn is_for(&self, failed: &FailedOption<'_>) -> bool {
        let Self::BySetsockopt {
            options,
            prefixes,
            errnos,
            sockets,
        } = self
        else {
            return false;
        };
        let option = options.contains(&failed.option)
            || prefixes
                .iter()
                .any(|prefix| failed.option.starts_with(prefix));
        let socket = match sockets {
            Sockets::All => true,
            Sockets::Protocol(protocol) => *protocol == failed.protocol,
            Sockets::Family(family) => *family == failed.family,
            Sockets::NotInternet => !["inet", "inet6"].contains(&failed.family),
        };
        option && socket && errnos.contains(&failed.errno)
    }
}
