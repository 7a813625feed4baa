//! What the kernel side offers to everything downstream: [`KernelSource`] to read the counters,
//! [`KernelControl`] to free what ended processes held, a [`Verdict`] on each hook, and the settings
//! that restrict the hooks. With these, everything downstream is tested without a kernel.

mod hooks;
mod source;
mod summary;
mod verdict;

pub use hooks::{Hooks, ObserveTls, SyscallTracepoints};
pub use source::{KernelControl, KernelSource, MapFill, POLLED_LISTEN, POLLED_PORTS, ProgramRuns};
pub use summary::{Summary, summaries};
pub use verdict::{AttachType, Status, Verdict};
