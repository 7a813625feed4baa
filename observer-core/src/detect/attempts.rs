//! Attempts that succeed or fail: how many of the last seconds.

use super::{
    detector::{all, share},
    windows::{Span, Window},
};

/// Length of the window for programs that try often, in seconds.
pub const FAST: u64 = 10;
/// The same for programs that try again every few seconds.
pub const SLOW: u64 = 120;

/// Those of some seconds.
#[derive(Debug)]
pub struct Attempts {
    seconds: u64,
    ok: Window,
    failed: Window,
    /// Failures that count only if no connect succeeds.
    ignorable: Window,
}

impl Attempts {
    pub fn new(seconds: u64) -> Self {
        Self {
            seconds,
            ok: Window::new(seconds),
            failed: Window::new(seconds),
            ignorable: Window::new(seconds),
        }
    }

    /// Adds those since the last call; `ignorable` are failures that count only if none succeeds.
    pub fn add(&mut self, span: Span, ok: u64, failed: u64, ignorable: u64) {
        self.ok.add(span, ok);
        self.failed.add(span, failed);
        self.ignorable.add(span, ignorable);
    }

    /// Length of the window in seconds.
    pub fn seconds(&self) -> u64 {
        self.seconds
    }

    /// Whether none succeeds.
    pub fn alone(&self) -> bool {
        self.ok.sum() == 0
    }

    /// Those that succeeded.
    pub fn succeeded(&self) -> u64 {
        self.ok.sum()
    }

    /// Whether any failed, also of those that are ignored.
    pub fn has_failures(&self) -> bool {
        self.failed.sum() + self.ignorable.sum() > 0
    }

    /// The failures that count.
    pub fn failed(&self) -> u64 {
        let ignorable = if self.alone() {
            self.ignorable.sum()
        } else {
            0
        };
        self.failed.sum() + ignorable
    }

    /// These as a fraction of all that count.
    pub fn share(&self) -> f64 {
        share(self.failed() as f64, (self.failed() + self.ok.sum()) as f64)
    }

    /// Seconds with a failure; of the seconds with either kind, no more than there are.
    fn seconds_failed(&self) -> f64 {
        let failed = self.failed.seconds_with(0.0);
        let ignorable = if self.alone() {
            self.ignorable.seconds_with(0.0)
        } else {
            0
        };
        failed.max(ignorable) as f64
    }

    /// Of failures: that there are so many, in so many seconds, and that they are such a share.
    pub fn score(&self, seconds: f64, failures: f64, share: f64) -> f64 {
        all(&[
            self.failed() as f64 / failures,
            self.seconds_failed() / seconds,
            self.share() / share,
        ])
    }
}
