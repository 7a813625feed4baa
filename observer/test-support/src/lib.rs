//! What the tests on a real kernel and the benchmark share: a running observer to ask, real
//! programs to misbehave, network namespaces to do it in, and the kernel's own counters to
//! compare with.

pub mod counters;
mod daemon;
mod exposition;
pub mod fuzz;
pub mod http;
mod metrics;
mod netns;
mod program;
pub mod quic;
mod skip;
mod spawn;

use std::{env, time::Duration};

pub use counters::kernel_at_least;
pub use daemon::{
    Daemon, Shared, holds_in_time, observer, wait_for_tick, with_each_kind_of_hook,
    with_kind_of_hook,
};
pub use exposition::{Metrics, Sample};
pub use netns::Netns;
pub use program::{PRELUDE, Program, new_comm, python, run};
pub use skip::has_program;
pub use spawn::spawn;

/// How long to wait for something that should happen at once. Generous, because emulated
/// machines are slow; tests wait for conditions, never for this long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How much of the load tests make. Below 1 in emulated machines, where everything takes
/// twenty times as long: `OBSERVER_TEST_SCALE`.
pub fn scale() -> f64 {
    env::var("OBSERVER_TEST_SCALE").map_or(1.0, |scale| scale.parse().unwrap())
}

/// A count of what a test does often, `least` or more.
pub fn scaled(count: u64, least: u64) -> u64 {
    ((count as f64 * scale()) as u64).max(least)
}
