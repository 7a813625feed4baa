//! What the tests on a real kernel and the benchmark share: a running observer to ask, real
//! programs to misbehave, network namespaces to do it in, and the kernel's own counters to
//! compare with.

mod daemon;
mod metrics;
mod netns;
mod program;

pub use daemon::*;
pub use metrics::{Metrics, Sample};
pub use netns::Netns;
pub use program::{Program, new_comm};
