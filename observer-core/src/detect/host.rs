//! What the engine knows of the host beside the samples, so that only hints are shown that apply to it.

use std::{fmt, sync::Arc};

use observer_common::ProcessKey;

use super::{cause::Explanation, finding::Subject, sample::Sample};
use crate::{
    hints::{Kernel, Known},
    net::sysctls::Sysctls,
};

/// Says in which network namespace a process is.
pub type NetnsOf = Arc<dyn Fn(&ProcessKey) -> Option<u32> + Send + Sync>;

/// The host.
#[derive(Clone)]
pub struct Host {
    /// The running kernel; `None` if it is unknown.
    pub kernel: Option<Kernel>,
    /// Sysctls, as they were last read.
    pub sysctls: Arc<Sysctls>,
    /// The network namespace of a process.
    pub netns: NetnsOf,
}

impl Default for Host {
    /// Nothing is known.
    fn default() -> Self {
        Self {
            kernel: None,
            sysctls: Arc::default(),
            netns: Arc::new(|_| None),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kernel, sysctls, ..
        } = self;
        let mut shown = f.debug_struct("Host");
        shown.field("kernel", kernel).field("sysctls", sysctls);
        shown.finish_non_exhaustive()
    }
}

impl Host {
    /// The network namespace of a subject: that of a name is that of one of its processes.
    pub(super) fn netns(&self, subject: &Subject, sample: &Sample) -> Option<u32> {
        let process = match subject {
            Subject::Process(key) => Some(key),
            Subject::Name(name) => {
                let mut all = sample.processes.iter();
                let found = all.find(|it| it.labels.name_key() == name.name_key());
                found.map(|it| &it.key)
            }
            _ => return subject.netns(),
        };
        process.and_then(|key| (self.netns)(key))
    }

    /// Adds the hints that apply to a finding of this namespace.
    pub fn advise(&self, causes: &mut [Explanation], netns: Option<u32>, queues_overflow: bool) {
        let known = self.known(netns, queues_overflow);
        for explanation in causes {
            explanation.advise(&known);
        }
    }

    /// What is known for hints.
    pub(crate) fn known(&self, netns: Option<u32>, queues_overflow: bool) -> Known<'_> {
        Known {
            kernel: self.kernel,
            sysctls: &self.sysctls,
            netns,
            queues_overflow,
        }
    }
}
