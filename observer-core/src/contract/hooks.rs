//! The setting `hooks`: which attach types may be used.

use super::verdict::AttachType;

/// The attach types that may be used.
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
    /// Why a program of this attach type may not be used; `None` if it may. Without full stop.
    #[must_use]
    pub fn forbid(self, attach_type: AttachType) -> Option<&'static str> {
        match (self, attach_type) {
            (Self::Kprobe | Self::Tracepoint, AttachType::Fentry | AttachType::Fexit)
            | (Self::Tracepoint, AttachType::Kprobe | AttachType::Kretprobe) => {
                Some("left out, as the setting `hooks` asks")
            }
            _ => None,
        }
    }
}
