//! Whether the table of inferred TIME_WAIT sockets can have any.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use observer_common::TIME_WAIT_NS;
use observer_core::sync::lock;

/// How long a socket stays in TIME_WAIT.
const TIME_WAIT: Duration = Duration::from_nanos(TIME_WAIT_NS);

/// How many sockets had entered TIME_WAIT, and when that number last changed.
pub struct InferredTimeWaits(Mutex<(u64, Instant)>);

impl Default for InferredTimeWaits {
    fn default() -> Self {
        Self(Mutex::new((0, Instant::now())))
    }
}

impl InferredTimeWaits {
    /// Whether any socket may still be in TIME_WAIT, when `entered` have entered by now. If not,
    /// a walk over the whole table, which takes a millisecond, can be left out.
    pub fn may_have_any(&self, entered: u64) -> bool {
        let mut last = lock(&self.0);
        if last.0 != entered {
            *last = (entered, Instant::now());
        }
        entered > 0 && last.1.elapsed() <= 2 * TIME_WAIT
    }
}
