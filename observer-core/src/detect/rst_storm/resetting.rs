//! What differs between the storms of processes and those of names.

use std::sync::Arc;

use observer_common::ProcessKey;

use super::super::{
    sample::{Connecting, Name, Process},
    settings::Thresholds,
};
use crate::table::Labels;

/// The thresholds that differ between processes and names.
pub trait Resetting: Connecting {
    /// Seconds that are looked at.
    const SECONDS: u64;
    /// The local process at the other end.
    fn peer(&self) -> Option<ProcessKey> {
        None
    }
    /// Its labels.
    fn peer_labels(&self) -> Option<&Arc<Labels>> {
        None
    }
    /// Whether there is a process, so that a time without RSTs says what is normal.
    fn is_running(&self) -> bool {
        true
    }
    /// Seconds of those that must be hot.
    fn hot(thresholds: &Thresholds) -> f64;
    /// Seconds until there is a baseline.
    fn mature(thresholds: &Thresholds) -> f64;
    /// Half-life of the baseline before.
    fn half_life_new(thresholds: &Thresholds) -> f64;
    /// The fraction of ended connections that is enough at this multiple of the baseline.
    fn share(thresholds: &Thresholds, ratio: f64) -> f64;
}

impl Resetting for Process {
    const SECONDS: u64 = 10;

    fn peer(&self) -> Option<ProcessKey> {
        self.reset_peer
    }

    fn peer_labels(&self) -> Option<&Arc<Labels>> {
        self.reset_peer_labels.as_ref()
    }

    fn hot(thresholds: &Thresholds) -> f64 {
        thresholds.rst_hot_seconds
    }

    fn mature(thresholds: &Thresholds) -> f64 {
        thresholds.rst_mature_seconds
    }

    fn half_life_new(thresholds: &Thresholds) -> f64 {
        thresholds.rst_half_life_new_seconds
    }

    fn share(thresholds: &Thresholds, ratio: f64) -> f64 {
        match ratio >= thresholds.rst_ratio_big {
            true => thresholds.rst_share_big,
            false => thresholds.rst_share,
        }
    }
}

impl Resetting for Name {
    const SECONDS: u64 = 60;

    fn is_running(&self) -> bool {
        self.running > 0
    }

    fn hot(thresholds: &Thresholds) -> f64 {
        thresholds.rst_name_hot_seconds
    }

    fn mature(thresholds: &Thresholds) -> f64 {
        thresholds.rst_name_mature_seconds
    }

    fn half_life_new(thresholds: &Thresholds) -> f64 {
        thresholds.rst_name_half_life_new_seconds
    }

    fn share(thresholds: &Thresholds, _: f64) -> f64 {
        thresholds.rst_share
    }
}
