//! The slot of a process: its identity and all its counters.

use core::mem::offset_of;

use crate::{
    ACCEPT_METRICS, AcceptCounters, BIND_METRICS, BindCounters, COMM_LEN, CONNECT_HISTOGRAMS,
    CONNECT_METRICS, ConnectCounters, FD_METRICS, FdCounters, Metrics, PORT_METRICS, PortCounters,
    ProcessKey, QUIC_METRICS, QuicCounters, RESET_METRICS, RETRANSMIT_METRICS, ResetCounters,
    RetransmitCounters, STATE_HISTOGRAMS, STATE_METRICS, STATES, StateCounters, TIME_WAIT_METRICS,
    TLS_HISTOGRAMS, TLS_METRICS, TimeWaitCounters, TlsCounters, UDP_METRICS, UdpCounters,
    WAIT_HISTOGRAMS, WAIT_METRICS, WaitCounters,
};

/// How the counters of each signal are shown.
pub const METRICS: &[Metrics] = &[
    Metrics {
        offset: offset_of!(Slot, state),
        counters: STATE_METRICS,
        histograms: STATE_HISTOGRAMS,
    },
    Metrics {
        offset: offset_of!(Slot, connect),
        counters: CONNECT_METRICS,
        histograms: CONNECT_HISTOGRAMS,
    },
    Metrics {
        offset: offset_of!(Slot, accept),
        counters: ACCEPT_METRICS,
        histograms: &[],
    },
    Metrics {
        offset: offset_of!(Slot, bind),
        counters: BIND_METRICS,
        histograms: &[],
    },
    Metrics {
        offset: offset_of!(Slot, time_wait),
        counters: TIME_WAIT_METRICS,
        histograms: &[],
    },
    Metrics {
        offset: offset_of!(Slot, ports),
        counters: PORT_METRICS,
        histograms: &[],
    },
    Metrics {
        offset: offset_of!(Slot, retransmit),
        counters: RETRANSMIT_METRICS,
        histograms: &[],
    },
    Metrics {
        offset: offset_of!(Slot, fd),
        counters: FD_METRICS,
        histograms: &[],
    },
    Metrics {
        offset: offset_of!(Slot, reset),
        counters: RESET_METRICS,
        histograms: &[],
    },
    Metrics {
        offset: offset_of!(Slot, waiting),
        counters: WAIT_METRICS,
        histograms: WAIT_HISTOGRAMS,
    },
    Metrics {
        offset: offset_of!(Slot, tls),
        counters: TLS_METRICS,
        histograms: TLS_HISTOGRAMS,
    },
    Metrics {
        offset: offset_of!(Slot, udp),
        counters: UDP_METRICS,
        histograms: &[],
    },
    Metrics {
        offset: offset_of!(Slot, quic),
        counters: QUIC_METRICS,
        histograms: &[],
    },
];

/// Number of counters in a slot.
pub const COUNTERS: usize = (size_of::<Slot>() - offset_of!(Slot, state)) / size_of::<u64>();

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
    /// Number of the process's [`crate::TimeWaitCount`].
    pub time_wait_count: u32,
    /// Entries in the map of connections that point to the slot. It must not be freed before this is
    /// zero. Signed, because updates of two CPUs may be seen out of order.
    pub sockets: i64,
    /// Of those, entries whose sockets were handed over to another process and have had no transition
    /// since; see [`crate::Conn::handover`].
    pub passed_on: i64,
    /// Kinds of failed setsockopt calls that have a counter; see [`crate::SOCKOPT_KINDS`].
    pub sockopt_kinds: u64,
    /// TLS handshakes in progress; see [`crate::TLS_HANDSHAKES_SHARE`].
    pub tls_handshakes: i64,
    /// Counters, by signal. All following fields are counters.
    pub state: StateCounters,
    /// Counters of `signals::connect`.
    pub connect: ConnectCounters,
    /// Counters of `signals::accept`.
    pub accept: AcceptCounters,
    /// Counters of `signals::bind`.
    pub bind: BindCounters,
    /// Counters of `signals::time_wait`.
    pub time_wait: TimeWaitCounters,
    /// Counters of `signals::ports`.
    pub ports: PortCounters,
    /// Counters of `signals::retransmit`.
    pub retransmit: RetransmitCounters,
    /// Counters of `signals::fd`.
    pub fd: FdCounters,
    /// Counters of `signals::reset`.
    pub reset: ResetCounters,
    /// Counters of `signals::waiting`.
    pub waiting: WaitCounters,
    /// Counters of `signals::tls`.
    pub tls: TlsCounters,
    /// Counters of `signals::udp`.
    pub udp: UdpCounters,
    /// Counters of `signals::quic`.
    pub quic: QuicCounters,
}

crate::assert_layout!(Slot, 4104, [
    key: ProcessKey,
    cgroup_id: u64,
    comm: [u8; COMM_LEN],
    generation: u32,
    time_wait_count: u32,
    sockets: i64,
    passed_on: i64,
    sockopt_kinds: u64,
    tls_handshakes: i64,
    state: StateCounters,
    connect: ConnectCounters,
    accept: AcceptCounters,
    bind: BindCounters,
    time_wait: TimeWaitCounters,
    ports: PortCounters,
    retransmit: RetransmitCounters,
    fd: FdCounters,
    reset: ResetCounters,
    waiting: WaitCounters,
    tls: TlsCounters,
    udp: UdpCounters,
    quic: QuicCounters,
]);

impl Metrics {
    /// The index in [`Slot::counters`] of the counter at `offset` in the signal's struct.
    #[must_use]
    pub const fn index_of(&self, offset: usize) -> usize {
        (self.offset + offset - offset_of!(Slot, state)) / size_of::<u64>()
    }
}

impl Slot {
    /// A free slot.
    #[must_use]
    pub fn zeroed() -> Self {
        // SAFETY: integers only; all zero is a valid value.
        unsafe { core::mem::zeroed() }
    }

    /// All counters, in the order of the fields from [`Self::state`] on. A signed counter is reinterpreted.
    #[must_use]
    pub fn counters(&self) -> &[u64; COUNTERS] {
        let first = (&raw const *self).cast::<u8>();
        // SAFETY: from `state` to its end, the slot is 64-bit integers without padding (asserted by
        // `assert_layout`), and `COUNTERS` is their number.
        unsafe { &*first.add(offset_of!(Self, state)).cast() }
    }

    /// The same, mutable.
    pub fn counters_mut(&mut self) -> &mut [u64; COUNTERS] {
        let first = (&raw mut *self).cast::<u8>();
        // SAFETY: see above; any value is valid.
        unsafe { &mut *first.add(offset_of!(Self, state)).cast() }
    }

    /// Live sockets in `state`. Derived, so the programs need no gauge. A child starts with a
    /// transition from LISTEN although its listener stays in LISTEN, so these transitions are not
    /// subtracted from LISTEN.
    #[must_use]
    pub fn live(&self, state: u8) -> i64 {
        let state = usize::from(state);
        let mut live = self.state.adjust[state];
        for other in 0..STATES {
            live += self.state.transitions[other][state] as i64;
            let is_child =
                state == usize::from(crate::LISTEN) && other != usize::from(crate::CLOSE);
            if !is_child {
                live -= self.state.transitions[state][other] as i64;
            }
        }
        live
    }

    /// [`live`](Self::live) for all states, in one pass over the transitions.
    #[must_use]
    pub fn live_by_state(&self) -> [i64; STATES] {
        let mut live = self.state.adjust;
        for (from, row) in self.state.transitions.iter().enumerate() {
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
