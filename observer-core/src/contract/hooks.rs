//! The settings `hooks`, `syscall-tracepoints` and `tls`: what may be attached.

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
    /// All hooks that the kernel supports
    #[default]
    Any,
    /// Tracepoints, kprobes on kernel functions, and uprobes without uprobe_multi, as on older kernels
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
            | (Self::Kprobe, AttachType::UprobeMulti)
            | (Self::Tracepoint, AttachType::Kprobe | AttachType::Kretprobe) => {
                Some("disabled by the setting `hooks`")
            }
            _ => None,
        }
    }
}

/// Whether tracepoints of system calls may be used. A program on one of them makes the kernel trace
/// every system call of every process.
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
pub enum SyscallTracepoints {
    /// Only for signals that no other hook observes
    #[default]
    Auto,
    /// Never; signals that need them are not observed
    Never,
}

impl SyscallTracepoints {
    /// Why they may not be used; `None` if they may. Without full stop.
    #[must_use]
    pub fn forbid(self) -> Option<&'static str> {
        (self == Self::Never).then_some("disabled by the setting `syscall-tracepoints`")
    }
}

/// Whether TLS handshakes are observed, by probes on functions of programs and libraries.
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
pub enum ObserveTls {
    /// Where the kernel can (5.15 and later; before 6.6 only in files that are mapped at the start)
    #[default]
    Auto,
    /// Not at all
    Never,
}

impl ObserveTls {
    /// Why they may not be observed; `None` if they may. Without full stop.
    #[must_use]
    pub fn forbid(self) -> Option<&'static str> {
        (self == Self::Never).then_some("disabled by the setting `tls`")
    }
}
