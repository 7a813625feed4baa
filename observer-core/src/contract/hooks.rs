//! The setting `hooks`: which attach types may be used.

use super::verdict::Rung;

/// The best kind of hook that may be used.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    clap::ValueEnum,
    serde::Deserialize,
    serde::Serialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Hooks {
    /// Whatever the kernel offers
    #[default]
    Any,
    /// Tracepoints, and kprobes on kernel functions
    Kprobe,
    /// No kernel functions, only tracepoints
    Tracepoint,
}

impl Hooks {
    /// Why a program of this kind may not be used, if so. Without full stop.
    #[must_use]
    pub fn forbid(self, rung: Rung) -> Option<&'static str> {
        match (self, rung) {
            (Self::Kprobe | Self::Tracepoint, Rung::Fentry | Rung::Fexit)
            | (Self::Tracepoint, Rung::Kprobe | Rung::Kretprobe) => {
                Some("left out, as the setting `hooks` asks")
            }
            _ => None,
        }
    }
}
