//! The slot of a process: its identity and every counter that is kept for it.

use crate::{
    BIND_CALLS, BIND_ERRORS, COMM_LEN, CONNECT_RESULTS, CONNECTION_ERRORS, FD_ERRNOS, Histogram,
    PORT_SEARCHES, ProcessKey, RESETS_RECEIVED, RESETS_SENT, STATES, TIME_WAIT_SUBSTATES,
};

/// Identity and counters of one process. One element of a memory-mapped array: the kernel
/// programs add atomically, the daemon reads without system calls.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Slot {
    /// Who. All zero while the slot is free.
    pub key: ProcessKey,
    /// cgroup v2 id at the first event, 0 when not known.
    pub cgroup_id: u64,
    /// Of the thread-group leader, at the first event. Arbitrary bytes.
    pub comm: [u8; COMM_LEN],
    /// Grows by one each time the slot is freed.
    pub generation: u32,
    /// The process's [`crate::Account`]. 0 where TIME_WAIT is inferred.
    pub account: u32,
    /// Entries of the connection map that point here. The slot must not be freed before
    /// this is zero. Signed, because two CPUs may be seen out of order.
    pub sockets: i64,
    /// Sockets that existed before the daemon and were given to this process.
    pub seeded: u64,
    /// Transitions, `[from][to]`.
    pub transitions: [[u64; STATES]; STATES],
    /// What to add to "transitions in minus transitions out" to get the live sockets of a
    /// state: seeded sockets, and those that moved between processes while in it.
    pub adjust: [i64; STATES],
    /// Outcomes of connection attempts, by [`crate::connect_index`].
    pub connects: [u64; CONNECT_RESULTS],
    /// Connections that had been established and died of an error, by
    /// [`crate::connection_error_index`] of it: `sk_err` when the socket went to CLOSE.
    pub errors: [u64; CONNECTION_ERRORS],
    /// Accepted connections.
    pub accepts: u64,
    /// Calls of bind() and listen() on TCP sockets that failed, by the `CALL_` constants and
    /// [`crate::bind_index`].
    pub binds_failed: [[u64; BIND_ERRORS]; BIND_CALLS.len()],
    /// Sockets that entered TIME_WAIT, in the order of [`TIME_WAIT_SUBSTATES`].
    pub time_wait_entered: [u64; TIME_WAIT_SUBSTATES.len()],
    /// Sockets that the kernel could not keep in TIME_WAIT, for want of buckets or memory.
    pub time_wait_overflows: u64,
    /// Searches for a local port that found none, by the call: connect(), bind().
    pub ports_exhausted: [u64; PORT_SEARCHES.len()],
    /// Retransmitted segments.
    pub retransmits: u64,
    /// Descriptor exhaustion, in the order of [`FD_ERRNOS`].
    pub fd_exhausted: [u64; FD_ERRNOS.len()],
    /// RSTs sent; see [`crate::RESET_CLASSES_FROM`].
    pub resets_sent: [u64; RESETS_SENT],
    /// RSTs received, by the state they found.
    pub resets_received: [u64; RESETS_RECEIVED],
    /// Time from SYN to ESTABLISHED of active connections.
    pub connect: Histogram,
    /// Time from the first to the last state of connections that were established.
    pub age: Histogram,
    /// Time spent in CLOSE_WAIT.
    pub close_wait: Histogram,
}

crate::assert_layout!(Slot, 2944, [
    key: ProcessKey,
    cgroup_id: u64,
    comm: [u8; COMM_LEN],
    generation: u32,
    account: u32,
    sockets: i64,
    seeded: u64,
    transitions: [[u64; STATES]; STATES],
    adjust: [i64; STATES],
    connects: [u64; CONNECT_RESULTS],
    errors: [u64; CONNECTION_ERRORS],
    accepts: u64,
    binds_failed: [[u64; BIND_ERRORS]; BIND_CALLS.len()],
    time_wait_entered: [u64; TIME_WAIT_SUBSTATES.len()],
    time_wait_overflows: u64,
    ports_exhausted: [u64; PORT_SEARCHES.len()],
    retransmits: u64,
    fd_exhausted: [u64; FD_ERRNOS.len()],
    resets_sent: [u64; RESETS_SENT],
    resets_received: [u64; RESETS_RECEIVED],
    connect: Histogram,
    age: Histogram,
    close_wait: Histogram,
]);

impl Slot {
    /// A free slot.
    #[must_use]
    pub fn zeroed() -> Self {
        // SAFETY: integers only; all zero is a valid value.
        unsafe { core::mem::zeroed() }
    }

    /// Live sockets in `state`: derived, so it costs the kernel side nothing. A child
    /// starts its life with a transition out of LISTEN that its listener did not make,
    /// so those are not taken off the listeners.
    #[must_use]
    pub fn live(&self, state: u8) -> i64 {
        let state = usize::from(state);
        let mut live = self.adjust[state];
        for other in 0..STATES {
            live += self.transitions[other][state] as i64;
            let is_child =
                state == usize::from(crate::LISTEN) && other != usize::from(crate::CLOSE);
            if !is_child {
                live -= self.transitions[state][other] as i64;
            }
        }
        live
    }

    /// Live sockets by state: the same as [`live`](Self::live) for each of them, in one
    /// pass over the transitions.
    #[must_use]
    pub fn live_by_state(&self) -> [i64; STATES] {
        let mut live = self.adjust;
        for (from, row) in self.transitions.iter().enumerate() {
            let mut left = 0;
            for (live, &count) in live.iter_mut().zip(row) {
                *live += count as i64;
                left += count as i64;
            }
            live[from] -= if from == usize::from(crate::LISTEN) {
                row[usize::from(crate::CLOSE)] as i64
            } else {
                left
            };
        }
        live
    }
}

#[cfg(test)]
#[path = "slot_tests.rs"]
mod tests;
