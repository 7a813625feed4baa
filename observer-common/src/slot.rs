//! The slot of a process: its identity and all its counters.

use crate::{
    BIND_CALLS, BIND_ERRORS, COMM_LEN, CONNECT_RESULTS, CONNECTION_ERRORS, FD_ERRNOS, Histogram,
    PORT_SEARCHES, ProcessKey, RESETS_RECEIVED, RESETS_SENT, STATES, TIME_WAIT_SUBSTATES,
};

/// Identity and counters of one process. An element of a memory-mapped array: programs add
/// atomically, the daemon reads without system calls.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Slot {
    /// Key of the process. All zero while the slot is free.
    pub key: ProcessKey,
    /// cgroup v2 id at the first event; 0 if not known.
    pub cgroup_id: u64,
    /// comm of the thread-group leader at the first event. Arbitrary bytes.
    pub comm: [u8; COMM_LEN],
    /// Incremented each time the slot is freed.
    pub generation: u32,
    /// Index of the process's [`crate::Account`]. 0 where TIME_WAIT is inferred.
    pub account: u32,
    /// Entries in the map of connections that point to the slot. It must not be freed before this is
    /// zero. Signed, because updates of two CPUs may be seen out of order.
    pub sockets: i64,
    /// Sockets older than the daemon that were attributed to this process.
    pub seeded: u64,
    /// Transitions, `[from][to]`.
    pub transitions: [[u64; STATES]; STATES],
    /// Difference between the live sockets in a state and "transitions in minus transitions out":
    /// seeded sockets, and those that were handed over in this state.
    pub adjust: [i64; STATES],
    /// Outcomes of connection attempts, by [`crate::connect_index`].
    pub connects: [u64; CONNECT_RESULTS],
    /// Established connections that ended with an error (`sk_err` at the transition to CLOSE), by
    /// [`crate::connection_error_index`].
    pub errors: [u64; CONNECTION_ERRORS],
    /// Accepted connections.
    pub accepts: u64,
    /// Calls of bind() and listen() on TCP sockets that failed, by the `CALL_` constants and
    /// [`crate::bind_index`].
    pub binds_failed: [[u64; BIND_ERRORS]; BIND_CALLS.len()],
    /// Sockets that entered TIME_WAIT, in the order of [`TIME_WAIT_SUBSTATES`].
    pub time_wait_entered: [u64; TIME_WAIT_SUBSTATES.len()],
    /// Sockets without TIME_WAIT because buckets or memory ran out.
    pub time_wait_overflows: u64,
    /// Failed searches for a local port, in the order of [`PORT_SEARCHES`].
    pub ports_exhausted: [u64; PORT_SEARCHES.len()],
    /// Retransmitted segments.
    pub retransmits: u64,
    /// socket() and accept() calls that failed for lack of descriptors or memory, in the order of
    /// [`FD_ERRNOS`].
    pub fd_exhausted: [u64; FD_ERRNOS.len()],
    /// RSTs sent; see [`crate::RESET_CLASSES_FROM`].
    pub resets_sent: [u64; RESETS_SENT],
    /// RSTs received, by the state of the connection.
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

    /// Live sockets in `state`. Derived, so the programs need no gauge. A child starts with a transition
    /// from LISTEN that its listener does not make, so those are not subtracted from the listeners.
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

    /// [`live`](Self::live) for all states, in one pass over the transitions.
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
