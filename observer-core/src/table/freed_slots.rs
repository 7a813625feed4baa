//! Processes that recently lost their slot, to which sockets in the kernel still refer.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::names::{IDLE, NameId};

/// A socket stays in TIME_WAIT for 60 seconds, and its process may have ended before.
const KEPT: Duration = Duration::from_secs(90);

// The name of such a process is not evicted while it is kept here.
const _: () = assert!(KEPT.as_secs() < IDLE.as_secs());

/// The names of ended processes by slot and generation, and until when they are kept.
#[derive(Debug, Default)]
pub(super) struct FreedSlots(HashMap<(u32, u32), (NameId, Instant)>);

impl FreedSlots {
    /// Notes that a process that counted for `name` lost its slot.
    pub fn add(&mut self, slot: u32, generation: u32, name: NameId, now: Instant) {
        self.0.insert((slot, generation), (name, now + KEPT));
    }

    /// The name it counted for.
    pub fn name(&self, slot: u32, generation: u32) -> Option<NameId> {
        self.0.get(&(slot, generation)).map(|(name, _)| *name)
    }

    /// Forgets those that were freed long ago.
    pub fn expire(&mut self, now: Instant) {
        self.0.retain(|_, (_, until)| now < *until);
    }
}
