//! Who owned the sockets that rest in TIME_WAIT, where that is inferred.

use std::{
    sync::{Mutex, atomic::Ordering},
    time::Instant,
};

use anyhow::Context as _;
use aya::{Ebpf, maps::Map};
use observer_common::{Pod as _, SLOT_FIRST, TimeWaitOwner, places_of};

use super::array::MappedArray;
use crate::{sync::lock, table::TIME_WAIT_LENGTH};

/// The array of recent TIME_WAIT sockets.
pub struct Resting {
    owners: MappedArray<TimeWaitOwner>,
    /// How many had entered, and since when that is so.
    entered: Mutex<(u64, Instant)>,
}

impl Resting {
    /// Takes the array out of `ebpf`.
    ///
    /// # Errors
    ///
    /// When it is missing or cannot be mapped.
    pub fn new(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        const NAME: &str = "TIME_WAIT_OWNERS";
        let Some(Map::Array(map)) = ebpf.take_map(NAME) else {
            anyhow::bail!("the object has no array {NAME}");
        };
        Ok(Self {
            owners: MappedArray::new(&map).context("cannot map the owners of TIME_WAIT")?,
            entered: Mutex::new((0, Instant::now())),
        })
    }

    /// The owner of a socket, by its cookie: slot and generation. `None` for one that entered
    /// before the daemon, or so long ago that it was forgotten.
    pub fn owner(&self, cookie: u64) -> Option<(u32, u32)> {
        let mut owner =
            TimeWaitOwner::read_from(&[0; size_of::<TimeWaitOwner>()]).expect("of that size");
        places_of(cookie, self.owners.len() - 1)
            .into_iter()
            .find_map(|place| {
                self.owners.read(place, &mut owner);
                let key = std::mem::offset_of!(TimeWaitOwner, key);
                // Not overwritten meanwhile.
                let key = self.owners.word(place, key).load(Ordering::Acquire);
                let found = cookie != 0 && owner.key == cookie && key == cookie;
                found.then_some((owner.slot, owner.generation))
            })
            .filter(|(slot, _)| *slot >= SLOT_FIRST)
    }

    /// Whether any may be left there, when `entered` have entered by now: to walk over the
    /// whole array takes a millisecond.
    pub fn any(&self, entered: u64) -> bool {
        let mut last = lock(&self.entered);
        if last.0 != entered {
            *last = (entered, Instant::now());
        }
        entered > 0 && last.1.elapsed() <= TIME_WAIT_LENGTH * 2
    }
}
