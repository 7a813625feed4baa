//! Owners of sockets in TIME_WAIT, where that state is inferred.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use aya::Ebpf;
use observer_common::{TIME_WAIT_NS, TimeWaitOwner};
use observer_core::sync::lock;

use super::{array::MmapArray, take_array};

/// How long a socket stays in TIME_WAIT.
const TIME_WAIT: Duration = Duration::from_nanos(TIME_WAIT_NS);

/// The array of recent TIME_WAIT sockets.
pub struct InferredTimeWaits {
    owners: MmapArray<TimeWaitOwner>,
    /// How many sockets had entered, and when that number last changed.
    entered: Mutex<(u64, Instant)>,
}

impl InferredTimeWaits {
    /// Takes the array out of `ebpf`.
    ///
    /// # Errors
    ///
    /// When it is missing or cannot be mapped.
    pub fn new(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        Ok(Self {
            owners: take_array(ebpf, "TIME_WAIT_OWNERS")?,
            entered: Mutex::new((0, Instant::now())),
        })
    }

    /// Whether any socket may still be in TIME_WAIT, when `entered` have entered by now. If not,
    /// a walk over the whole array, which takes a millisecond, can be left out.
    pub fn may_have_any(&self, entered: u64) -> bool {
        let mut last = lock(&self.entered);
        if last.0 != entered {
            *last = (entered, Instant::now());
        }
        entered > 0 && last.1.elapsed() <= 2 * TIME_WAIT
    }
}
