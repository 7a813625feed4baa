//! The interface of the kernel side: [`KernelSource`] reads the counters, [`KernelControl`] frees
//! resources of ended processes, a [`Verdict`] is the state of a hook, and settings restrict the
//! hooks. With it, all downstream code is tested without a kernel.

mod hooks;
mod source;
mod summary;
mod verdict;

pub use hooks::{Hooks, ObserveTls, SyscallTracepoints};
pub use source::{KernelControl, KernelSource, MapFill, POLLED_LISTEN, POLLED_PORTS, ProgramRuns};
pub use summary::{Summary, summaries};
pub use verdict::{AttachType, Status, Verdict};
