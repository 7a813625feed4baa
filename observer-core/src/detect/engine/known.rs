//! What the engine knows besides findings.

use std::time::Duration;

use observer_common::ProcessKey;

use super::{
    super::{
        anomaly::Anomaly,
        finding::{Finding, PeerShare, Subject},
        recorded_peers::Suspected,
        sample::Source,
        tls_failures::Handshakes,
    },
    Engine,
};
use crate::table::Labels;

impl Engine {
    /// Sources of segments for closed ports within the last minute that are no scan.
    #[must_use]
    pub fn strays(&self) -> &[Source] {
        &self.strays
    }

    /// To where most refused connects of a name were; nothing unless records of them were read.
    #[must_use]
    pub fn refused(&self, name: &Labels) -> &[PeerShare] {
        self.refused.get(name).map_or(&[], Vec::as_slice)
    }

    /// Processes whose descriptors have grown steadily for over an hour without being a finding, with their growth per
    /// second.
    pub fn growing(&self) -> impl Iterator<Item = (ProcessKey, f64)> {
        self.fd_leak.iter().filter_map(|(row, watch)| {
            let subject = self.rows.processes.subject(row)?;
            let Subject::Process(key) = subject else {
                return None;
            };
            let growth = watch.detector.long_growth(&self.thresholds)?;
            let is_found = [
                Anomaly::FdLeak,
                Anomaly::FdExhaustion,
                Anomaly::CloseWaitLeak,
                Anomaly::IdlePoolLeak,
            ]
            .into_iter()
            .any(|it| self.board.is_found(it, subject));
            (!is_found).then_some((*key, growth))
        })
    }

    /// Findings that have been raised within this time, over or not.
    pub fn lately(&self, anomaly: Anomaly, time: Duration) -> impl Iterator<Item = &Finding> {
        let now = self.last.unwrap_or_default();
        let entries = self.board.entries().filter(move |it| {
            let is_recent = |at| now.saturating_sub(at) < time;
            it.finding.anomaly == anomaly && it.cleared_at.is_none_or(is_recent)
        });
        entries.map(|it| &it.finding)
    }

    /// TLS handshakes of names that ended in the last minutes, by role and result, if any has failed.
    pub fn handshakes(&self) -> impl Iterator<Item = (&Labels, Handshakes)> {
        let watches = self.tls_failures_of_names.iter();
        watches.filter_map(|(row, watch)| {
            let Subject::Name(labels) = self.rows.names.subject(row)? else {
                return None;
            };
            Some((&**labels, watch.detector.lately()?))
        })
    }

    /// Whether there are processes or names whose last sample a detector did not see, because nothing had happened to them.
    #[cfg(test)]
    pub fn has_idle(&self) -> bool {
        self.rst_storm.any_skipped() || self.rst_storm_of_names.any_skipped()
    }

    /// What is raised or may come, so that records of it are worth reading.
    #[must_use]
    pub fn suspected(&self) -> Suspected {
        let (connects, of_names) = (&self.connect_failures, &self.connect_failures_of_names);
        let (resets, resets_of_names) = (&self.rst_storm, &self.rst_storm_of_names);
        let (silence, silence_of_names) = (&self.silent_peers, &self.silent_peers_of_names);
        let (stalls, stalls_of_names) = (&self.read_stall, &self.read_stall_of_names);
        let (tls, tls_of_names) = (&self.tls_failures, &self.tls_failures_of_names);
        Suspected {
            connects: connects.any_suspected || of_names.any_suspected,
            resets: resets.any_suspected || resets_of_names.any_suspected,
            silence: silence.any_suspected
                || silence_of_names.any_suspected
                || stalls.any_suspected
                || stalls_of_names.any_suspected,
            handshakes: tls.any_suspected || tls_of_names.any_suspected,
        }
    }

    /// Whether what is raised or may come is known from walks over connections, so that the next one should come soon.
    #[must_use]
    pub fn wants_walks(&self) -> bool {
        self.walk_time.is_wanted()
    }
}
