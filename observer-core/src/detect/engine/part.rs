//! The parts of a sample that findings are about.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::super::{
    finding::{Holder, Subject},
    sample::{Connecting, Listener, Name, Namespace, Ports, Process, Source},
};
use crate::table::Labels;

/// The labels of the only holder, or of the name with the largest share, because the process with
/// the largest share changes often. A raised finding keeps its labels while they are those of a
/// holder, or while no holder is known.
fn most(holders: &[Holder], raised: Option<&Arc<Labels>>) -> Option<Arc<Labels>> {
    if let Some(raised) = raised {
        let is_raised = |holder: &Holder| match raised.pid() {
            Some(_) => holder.labels == *raised,
            None => holder.labels.name_key() == raised.name_key(),
        };
        if holders.is_empty() || holders.iter().any(is_raised) {
            return Some(Arc::clone(raised));
        }
    }
    if let [only] = holders {
        return Some(Arc::clone(&only.labels));
    }
    let mut names: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for Holder { labels, count, .. } in holders {
        *names.entry(labels.name_key()).or_default() += count;
    }
    let ((comm, unit), _) = names.into_iter().max_by_key(|(_, count)| *count)?;
    Some(Arc::new(Labels::name(comm, unit)))
}

/// What has not happened to a part since the last sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Idle {
    /// Something may have.
    No,
    /// Nothing that was counted, but there was a walk over connections.
    ButWalked,
    /// Nothing at all.
    Yes,
}

/// What has happened to a part: while these are the same, nothing has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Events {
    /// Of the counters that detectors read.
    sum: u64,
    /// Sockets in SYN_SENT, and those for over 3 s.
    connecting: (u32, u32),
    /// When its descriptors were counted.
    measured_at: Option<Duration>,
    /// Whether the kinds of its descriptors are known.
    has_kinds: bool,
    /// Whether there is a process, of a name.
    is_running: bool,
    /// The walk over connections; `None` of a name, whose detectors need it only while connections wait, or if each sample
    /// counts as one.
    walked_at: Option<Duration>,
}

impl Events {
    /// `None` while connections wait: for how long, and of how many, may change in any sample.
    fn of(part: &impl Connecting) -> Option<Self> {
        let waits = part.waits();
        let waiting = waits.stalled.iter().sum::<u32>()
            + waits.unanswered
            + waits.unanswered_at_once
            + waits.unread;
        (waiting == 0).then(|| Self {
            sum: part.counts().events(),
            connecting: (part.connecting(), part.waiting()),
            measured_at: None,
            has_kinds: false,
            is_running: true,
            walked_at: None,
        })
    }

    /// What has not happened since these.
    pub(super) fn idle_since(&self, before: &Self) -> Idle {
        let walked_at = self.walked_at;
        let but_walked = Self {
            walked_at,
            ..*before
        };
        match *self == but_walked {
            false => Idle::No,
            true if walked_at.is_some() && walked_at == before.walked_at => Idle::Yes,
            true => Idle::ButWalked,
        }
    }
}

/// A part of a sample that findings are about.
pub(super) trait Part {
    /// Whether a finding comes at the second sample in a row that shows it. The first numbers of a new process are where its
    /// detectors begin, so those of its name are a sample ahead.
    const IS_LATE: bool = false;

    fn subject(&self) -> Subject;

    /// `None` if its detectors read more than that.
    fn events(&self) -> Option<Events> {
        None
    }

    /// Whom a finding names; `raised` is whom it has named so far.
    fn labels(&self, _raised: Option<&Arc<Labels>>) -> Option<Arc<Labels>> {
        None
    }
}

impl Part for Process {
    fn subject(&self) -> Subject {
        Subject::Process(self.key)
    }

    fn events(&self) -> Option<Events> {
        let handshakes = self.handshakes.slow.iter().sum::<u32>();
        Some(Events {
            measured_at: self.descriptors.map(|it| it.measured_at),
            has_kinds: self.fd_kinds.is_some(),
            walked_at: self.walked_at,
            ..Events::of(self).filter(|_| handshakes == 0)?
        })
    }

    fn labels(&self, _: Option<&Arc<Labels>>) -> Option<Arc<Labels>> {
        Some(Arc::clone(&self.labels))
    }
}

impl Part for Name {
    const IS_LATE: bool = true;

    fn subject(&self) -> Subject {
        Subject::Name(Arc::clone(&self.labels))
    }

    fn events(&self) -> Option<Events> {
        Some(Events {
            is_running: self.running > 0,
            ..Events::of(self)?
        })
    }

    fn labels(&self, _: Option<&Arc<Labels>>) -> Option<Arc<Labels>> {
        Some(Arc::clone(&self.labels))
    }
}

impl Part for Ports {
    fn subject(&self) -> Subject {
        self.subject.clone()
    }

    fn labels(&self, raised: Option<&Arc<Labels>>) -> Option<Arc<Labels>> {
        most(&self.holders, raised)
    }
}

impl Part for Listener {
    fn subject(&self) -> Subject {
        Subject::Listener(self.place)
    }

    fn labels(&self, raised: Option<&Arc<Labels>>) -> Option<Arc<Labels>> {
        most(&self.holders, raised)
    }
}

impl Part for Namespace {
    fn subject(&self) -> Subject {
        Subject::Namespace(self.netns)
    }
}

impl Part for Source {
    fn subject(&self) -> Subject {
        Subject::Source {
            netns: self.netns,
            address: self.address,
        }
    }
}
