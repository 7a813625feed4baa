//! Code shared by the tests on a real kernel and the benchmark: a running observer, real test
//! programs, network namespaces, and the kernel's own counters for comparison.

pub mod ahead;
pub mod counters;
mod daemon;
pub mod documents;
mod exposition;
pub mod fuzz;
pub mod http;
mod installed;
mod metrics;
mod netns;
pub mod packaged;
mod program;
pub mod quic;
mod skip;
mod spawn;

use std::{env, time::Duration};

pub use counters::kernel_at_least;
pub use daemon::{Daemon, Shared, holds_in_time, observer, wait_for_tick, with_kind_of_hook};
pub use exposition::{Metrics, Sample};
pub use installed::{Installed, shipped};
pub use netns::Netns;
pub use program::{PRELUDE, Program, is_of_another_test, new_comm, python, run};
pub use skip::{has_program, tools_are_installed};
pub use spawn::spawn;

/// Timeout of conditions that normally hold immediately. It is long because emulated machines are
/// slow; tests wait for the condition, never for this time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The same for what a walk over connections has to show. Its pause is up to 500 times its CPU time
/// (`observer_core::walk::pause`), which is more than a minute in an emulated machine.
pub fn patience() -> Duration {
    if scale() < 1.0 {
        4 * PATIENCE
    } else {
        PATIENCE
    }
}

/// Scale of the load of tests, `OBSERVER_TEST_SCALE`. Below 1 in emulated machines, where everything takes twenty times as
/// long.
pub fn scale() -> f64 {
    env::var("OBSERVER_TEST_SCALE").map_or(1.0, |scale| scale.parse().unwrap())
}

/// A scaled count of repetitions in a test, at least `least`.
pub fn scaled(count: u64, least: u64) -> u64 {
    ((count as f64 * scale()) as u64).max(least)
}
