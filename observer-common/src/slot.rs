//! The slot of a process: its identity and every counter that is kept for it.

use crate::{Histogram, RESETS_RECEIVED, RESETS_SENT, STATES};

/// Counts events whose owner is not known.
pub const SLOT_UNATTRIBUTED: u32 = 0;
/// Counts RSTs that no socket had a part in: scans and stray segments.
pub const SLOT_NO_SOCKET: u32 = 1;
/// Counts for processes that found no free slot.
pub const SLOT_OVERFLOW: u32 = 2;
/// First slot handed out to a process.
pub const SLOT_FIRST: u32 = 3;

/// Bytes of a comm, NUL included: `TASK_COMM_LEN`.
pub const COMM_LEN: usize = 16;

/// Above every errno that programs know (the highest is `EHWPOISON`, 133).
pub const ERRNOS: usize = 136;

/// Errno numbers that attempts to connect are counted by: what `tcp_v4_connect` and
/// `tcp_v6_connect` return, what ICMP turns into (`icmp_err_convert`, `icmpv6_err_convert`),
/// what security modules, netfilter and BPF programs refuse with, what transforms
/// (`xfrm_lookup`), TLS and the MPTCP of newer kernels pass on. One index is left for all others.
pub const CONNECT_ERRNOS: [u8; CONNECT_GAVE_UP - 1] = [
    1,   // EPERM
    2,   // ENOENT
    5,   // EIO
    12,  // ENOMEM
    13,  // EACCES
    14,  // EFAULT
    16,  // EBUSY
    19,  // ENODEV
    22,  // EINVAL
    24,  // EMFILE
    32,  // EPIPE
    61,  // ENODATA
    64,  // ENONET
    71,  // EPROTO
    90,  // EMSGSIZE
    92,  // ENOPROTOOPT
    93,  // EPROTONOSUPPORT
    95,  // EOPNOTSUPP
    97,  // EAFNOSUPPORT
    98,  // EADDRINUSE
    99,  // EADDRNOTAVAIL
    100, // ENETDOWN
    101, // ENETUNREACH
    102, // ENETRESET
    103, // ECONNABORTED
    104, // ECONNRESET
    105, // ENOBUFS
    107, // ENOTCONN
    110, // ETIMEDOUT
    111, // ECONNREFUSED
    112, // EHOSTDOWN
    113, // EHOSTUNREACH
    116, // ESTALE
    121, // EREMOTEIO
    122, // EDQUOT
    125, // ECANCELED
    126, // ENOKEY
    129, // EKEYREJECTED
];

/// Size of the array of connect outcomes: index 0 is success, then come [`CONNECT_ERRNOS`],
/// [`CONNECT_GAVE_UP`], and all others.
pub const CONNECT_RESULTS: usize = 41;
/// Index of attempts that the program ended without an errno after a SYN had been sent again:
/// its own timeout, shorter than the kernel's. Without a SYN sent again they are ECANCELED.
pub const CONNECT_GAVE_UP: usize = CONNECT_RESULTS - 2;
/// Index of the connect outcomes that have none of their own.
pub const CONNECT_OTHER: usize = CONNECT_RESULTS - 1;

/// Index of each errno in [`Slot::connects`].
pub static CONNECT_INDICES: [u8; ERRNOS] = {
    let mut indices = errno_indices(&CONNECT_ERRNOS, 1, CONNECT_OTHER);
    indices[0] = 0;
    indices
};

/// Index of a connect outcome in [`Slot::connects`].
#[must_use]
pub fn connect_index(errno: u32) -> usize {
    index_in(&CONNECT_INDICES, errno, CONNECT_OTHER)
}

/// Errno numbers that connections die of: what an RST turns into (`tcp_reset`), a timeout
/// (`tcp_write_err`, `tcp_keepalive_timer`) with the ICMP message that came before it
/// (`icmp_err_convert`, `icmpv6_err_convert`), an administrator (`tcp_abort`), and what TLS and
/// MPTCP end a connection with. One index is left for all others.
pub const CONNECTION_ERRNOS: [u8; CONNECTION_ERRORS - 1] = [
    13,  // EACCES
    32,  // EPIPE
    64,  // ENONET
    71,  // EPROTO
    74,  // EBADMSG
    92,  // ENOPROTOOPT
    95,  // EOPNOTSUPP
    101, // ENETUNREACH
    103, // ECONNABORTED
    104, // ECONNRESET
    105, // ENOBUFS
    110, // ETIMEDOUT
    111, // ECONNREFUSED
    112, // EHOSTDOWN
    113, // EHOSTUNREACH
];

/// Size of the array of what connections died of: [`CONNECTION_ERRNOS`], then all others.
pub const CONNECTION_ERRORS: usize = 16;
/// Index of the errors that have none of their own.
pub const CONNECTION_ERROR_OTHER: usize = CONNECTION_ERRORS - 1;

/// Index of each errno in [`Slot::errors`].
pub static CONNECTION_ERROR_INDICES: [u8; ERRNOS] =
    errno_indices(&CONNECTION_ERRNOS, 0, CONNECTION_ERROR_OTHER);

/// Index into [`Slot::errors`].
#[must_use]
pub fn connection_error_index(errno: u32) -> usize {
    index_in(&CONNECTION_ERROR_INDICES, errno, CONNECTION_ERROR_OTHER)
}

/// Index into [`Slot::binds_failed`]: bind().
pub const CALL_BIND: usize = 0;
/// listen().
pub const CALL_LISTEN: usize = 1;
/// Label values, in the order of those indices.
pub const BIND_CALLS: [&str; 2] = ["bind", "listen"];

/// Errno numbers that bind() and listen() of a TCP socket fail with: `inet_bind`, `inet6_bind`,
/// `inet_listen`, `mptcp_bind`, `mptcp_listen`, and the security modules and BPF programs that
/// they ask. One index is left for all others.
pub const BIND_ERRNOS: [u8; BIND_ERRORS - 1] = [
    1,   // EPERM
    12,  // ENOMEM
    13,  // EACCES
    14,  // EFAULT
    19,  // ENODEV
    22,  // EINVAL
    95,  // EOPNOTSUPP
    97,  // EAFNOSUPPORT
    98,  // EADDRINUSE
    99,  // EADDRNOTAVAIL
    105, // ENOBUFS
];

/// Size of the array of failed calls: [`BIND_ERRNOS`], then all others.
pub const BIND_ERRORS: usize = 12;
/// Index of the failures that have none of their own.
pub const BIND_OTHER: usize = BIND_ERRORS - 1;

/// Index of each errno in an array of [`Slot::binds_failed`].
pub static BIND_INDICES: [u8; ERRNOS] = errno_indices(&BIND_ERRNOS, 0, BIND_OTHER);

/// Index into an array of [`Slot::binds_failed`].
#[must_use]
pub fn bind_index(errno: u32) -> usize {
    index_in(&BIND_INDICES, errno, BIND_OTHER)
}

/// The index of each errno: from `first` on for those that are listed, else `other`.
const fn errno_indices<const N: usize>(
    errnos: &[u8; N],
    first: usize,
    other: usize,
) -> [u8; ERRNOS] {
    let mut indices = [other as u8; ERRNOS];
    let mut i = 0;
    while i < N {
        indices[errnos[i] as usize] = (first + i) as u8;
        i += 1;
    }
    indices
}

fn index_in(indices: &[u8; ERRNOS], errno: u32, other: usize) -> usize {
    let index = indices.get(errno as usize);
    index.map_or(other, |&index| index.into())
}

/// Exhaustion counters: `EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`.
pub const FD_ERRNOS: [i32; 4] = [24, 23, 105, 12];

/// The states that a timewait socket begins in: after the peer's FIN, or before it, for a
/// socket that was closed in FIN_WAIT2. The latter's later change to TIME_WAIT has no event.
pub const TIME_WAIT_SUBSTATES: [u8; 2] = [crate::TIME_WAIT, crate::FIN_WAIT2];

/// Index into [`Slot::ports_exhausted`]: connect() of a socket without a local port.
pub const PORT_SEARCH_CONNECT: usize = 0;
/// bind() to port 0, or listen() on a socket that is not bound.
pub const PORT_SEARCH_BIND: usize = 1;
/// Label values, in the order of those indices.
pub const PORT_SEARCHES: [&str; 2] = ["connect", "bind"];

/// A process's identity within this boot: a reused pid has another start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ProcessKey {
    /// Start of the thread-group leader, `task_struct.start_boottime`, in nanoseconds
    /// since boot.
    pub start_boottime_ns: u64,
    /// Thread-group id in the initial pid namespace.
    pub tgid: u32,
    /// Explicit padding, zero.
    pub reserved: u32,
}

crate::assert_layout!(ProcessKey, 16, [start_boottime_ns: u64, tgid: u32, reserved: u32]);

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
    /// Outcomes of connection attempts, by [`connect_index`].
    pub connects: [u64; CONNECT_RESULTS],
    /// Connections that had been established and died of an error, by
    /// [`connection_error_index`] of it: `sk_err` when the socket went to CLOSE.
    pub errors: [u64; CONNECTION_ERRORS],
    /// Accepted connections.
    pub accepts: u64,
    /// Calls of bind() and listen() on TCP sockets that failed, by the `CALL_` constants and
    /// [`bind_index`].
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
            let is_birth =
                state == usize::from(crate::LISTEN) && other != usize::from(crate::CLOSE);
            if !is_birth {
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
