//! Owners of sockets in TIME_WAIT, where that state is inferred.

use std::{
    sync::{Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use aya::Ebpf;
use observer_common::{Pod as _, SLOT_FIRST, TIME_WAIT_NS, TimeWaitOwner, places_of};

use super::{array::MmapArray, take_array};
use observer_core::sync::lock;

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

    /// The owner of a socket, by its cookie: slot and generation. `None` for one that entered
    /// before the daemon started, or whose place was overwritten since.
    pub fn owner(&self, cookie: u64) -> Option<(u32, u32)> {
        let mut owner =
            TimeWaitOwner::read_from(&[0; size_of::<TimeWaitOwner>()]).expect("of that size");
        places_of(cookie, self.owners.len() - 1)
            .into_iter()
            .find_map(|place| {
                self.owners.read(place, &mut owner);
                let key = std::mem::offset_of!(TimeWaitOwner, key);
                // Unless the place was overwritten meanwhile.
                let key = self.owners.word(place, key).load(Ordering::Acquire);
                let found = cookie != 0 && owner.key == cookie && key == cookie;
                found.then_some((owner.slot, owner.generation))
            })
            .filter(|(slot, _)| *slot >= SLOT_FIRST)
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
